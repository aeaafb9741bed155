"""What `podium optimize` does: make a model int8, and measure it beside what it was."""
