"""Quantities in profiles and settings: durations and units."""
