"""Scores, clusters and plots of what a model says."""
