"""Formats: the content of topics and files, and how it is read and written."""
