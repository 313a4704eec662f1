"""A broker in memory, for replays and tests."""
