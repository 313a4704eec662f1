"""The pure core: bytes to messages, messages to frames on the event-time grid, diagnoses to bytes."""
