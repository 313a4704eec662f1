"""Training data: runs, splits, texts, and their corruption."""
