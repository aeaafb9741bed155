"""The contract, version 1: `.proto` files, and the Python that `proto/generate.py` makes of them."""
