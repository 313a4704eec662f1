"""Programs: from a model file to the table of operations that its step is."""
