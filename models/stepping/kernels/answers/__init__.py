"""Kernels of what comes after the fusion: confidence, candidates, unknown faults and remaining life."""
