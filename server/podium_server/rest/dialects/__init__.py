"""One module for each dialect. `dialect` is what they have in common."""
