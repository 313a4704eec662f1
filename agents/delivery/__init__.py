"""Delivery: records in chunks, outputs and states out, whatever the broker."""
