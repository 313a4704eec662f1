"""Ingest: records of foreign topics and of MQTT, written again as Faultline's own messages, keyed by machine."""
