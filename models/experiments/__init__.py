"""Experiments over several seeds, beside baselines."""
