"""Long runs: commands, not tests."""
