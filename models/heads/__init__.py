"""Heads: what a model says besides the diagnosis."""
