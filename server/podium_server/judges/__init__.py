"""Judges: a prompt and a backend together. They turn questions into calls, and replies into answers."""
