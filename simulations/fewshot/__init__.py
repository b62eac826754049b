"""A hospital that is new: it has a few labelled cases, and what others learnt without it."""
