"""The life of alarms: states, settings, and what people and time do to them."""
