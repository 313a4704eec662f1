"""Models of areas: what machines that share utilities know together."""
