"""Experts on the sensors: statistics, trees, and the pool of several encoders."""
