"""The contract of Podium and its generated Python. See `podium.v1`."""
