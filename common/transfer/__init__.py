"""What a hospital makes of a few labelled cases and of what others learnt: transfer of learning."""
