"""Foreign topics: their records read, by a declared form, into readings and texts."""
