"""Readings of many records at once: by the layout of their JSON in compiled code, or else by types of msgspec."""
