"""Kernels: what a step computes, in compiled functions over lanes."""
