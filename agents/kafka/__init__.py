"""Kafka: transport, administration, security."""
