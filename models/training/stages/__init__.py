"""The stages of a training, one after the other."""
