"""Between the messages of the contract and what the server works with. Values are judged in `validate`, not here."""
