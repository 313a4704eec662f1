"""The sections of a plant profile that no model depends on: words for people, and alarms."""
