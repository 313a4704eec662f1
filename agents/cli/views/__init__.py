"""What commands show on the terminal while they work."""
