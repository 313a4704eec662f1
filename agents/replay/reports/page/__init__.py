"""The report's page: HTML and SVG without scripts, in which every text is escaped."""
