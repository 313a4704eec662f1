"""Delivery: records in chunks, outputs and states, for any broker."""
