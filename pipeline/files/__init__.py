"""Files: ours are replaced in one piece, those of others are read within limits."""
