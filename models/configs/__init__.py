"""Descriptions of networks: what each part of a model is made of, readable without the library that trains it."""
