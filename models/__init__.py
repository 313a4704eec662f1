"""Encoders, fusion models, their training and the step runner that carries their state from frame to frame."""
