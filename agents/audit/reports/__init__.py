"""What the topics of reports say: drift, and alarms."""
