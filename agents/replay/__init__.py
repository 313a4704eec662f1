"""Replaying, converting and scoring recordings."""
