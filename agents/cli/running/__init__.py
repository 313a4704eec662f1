"""The commands that process records: live until they are stopped, or a recording to its end."""
