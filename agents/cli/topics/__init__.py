"""The commands about what is in topics: how they are set up, sources, labels and alarms."""
