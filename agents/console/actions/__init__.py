"""What people do: acts on alarms as control records, and feedback as labels."""
