"""Fusions of the answers and features of several modalities."""
