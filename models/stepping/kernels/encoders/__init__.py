"""Kernels of the encoders: recurrence, attention, statistics, trees, messages, texts, and the pool of experts."""
