"""Cross-encoders: a query and a passage in, one score out; the contract, the queue in front, one module an engine."""
