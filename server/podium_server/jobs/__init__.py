"""Offline jobs: streams of lists in, orders out, many side by side and never more in memory than that."""
