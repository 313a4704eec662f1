"""Experiments about evidence: what answers rest on, what is found by it, and what remains when some is missing."""
