"""What is known of a plant, one chapter for each kind of record."""
