"""Formats: what stands in topics and files, and how it is read and written."""
