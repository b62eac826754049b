"""What a ledger or a run says of itself, read and priced anew."""
