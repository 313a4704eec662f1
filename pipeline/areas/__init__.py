"""Areas: the diagnoses of machines that share utilities, aligned by frame, and what they say together."""
