"""Fusions of what the encoders of several modalities say."""
