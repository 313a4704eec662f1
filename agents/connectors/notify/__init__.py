"""Notification: alarms are posted to a web hook, signed, in order and at least once."""
