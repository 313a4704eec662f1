"""Who comes to the console, by which way, and whether a request is what it says it is."""
