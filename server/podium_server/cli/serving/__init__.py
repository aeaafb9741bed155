"""The processes of `podium serve`: one that serves, or several that share a port."""
