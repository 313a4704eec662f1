"""Event time: readings of any order become frames."""
