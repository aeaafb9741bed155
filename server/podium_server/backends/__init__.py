"""Backends: one way each to reach one kind of model. Each module is imported when a configuration asks for it."""
