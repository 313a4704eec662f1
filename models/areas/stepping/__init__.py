"""The compiled step of the networks of areas, and their model file; no torch."""
