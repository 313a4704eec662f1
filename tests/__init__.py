"""Tests: pure timelines, models, agents on the in-memory transport, and the same on a real Kafka."""
