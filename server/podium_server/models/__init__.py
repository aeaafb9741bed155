"""Models that ship with Podium, one folder each. `tools/build_encoder.py` makes them."""
