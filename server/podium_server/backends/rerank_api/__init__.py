"""Rerank endpoints of others: their dialects, and the calls."""
