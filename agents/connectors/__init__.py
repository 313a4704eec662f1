"""What connects Faultline with others: foreign topics and MQTT that are read, and web hooks that get alarms."""
