"""The commands about topics, labels and sources."""
