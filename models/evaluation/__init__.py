"""Scores, clusters and plots of a model's answers."""
