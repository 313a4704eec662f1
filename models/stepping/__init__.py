"""The compiled step: a model as a table of operations over lanes, the same bits on every processor."""
