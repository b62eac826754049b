"""The hospital's side: the relay, and behind it the agent with its gate, policy and ledger."""
