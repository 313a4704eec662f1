"""What is fitted on validation frames after the networks: evidence, calibration, and margins against false alarms."""
