"""Experts that are not trained by gradients, and the pool of all of them."""
