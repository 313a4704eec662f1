"""One machine: its history on demand, and why a diagnosis says what it says."""
