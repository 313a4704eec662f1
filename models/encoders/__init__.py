"""Encoders: sensors and texts of a machine as features, frame by frame."""
