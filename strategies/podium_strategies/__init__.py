"""Ranking strategies as pure plans: rounds of questions to whoever can judge. Standard library only."""
