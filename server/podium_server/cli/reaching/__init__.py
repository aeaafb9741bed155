"""Servers from outside: how one is reached, one of our own, many that share a job, and their ledgers as ours."""
