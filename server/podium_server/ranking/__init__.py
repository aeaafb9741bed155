"""Where a request meets its pipeline: plans are driven, budgets kept, ledgers written."""
