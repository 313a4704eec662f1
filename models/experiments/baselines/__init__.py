"""Baselines: what a plant can be diagnosed with without our models."""
