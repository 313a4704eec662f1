"""Models of areas: from the answers of machines that share utilities to what has failed."""
