"""Training of the networks of areas."""
