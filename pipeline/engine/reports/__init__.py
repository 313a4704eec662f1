"""What is reported besides diagnoses: alarms, and drift."""
