"""The commands about alarms."""
