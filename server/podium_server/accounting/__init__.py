"""What a request cost: usage, prices and the ledger that keeps them. Imports nothing else of Podium."""
