"""The states of the keys that a worker holds: which engine takes them, restoring, writing, and topics made anew."""
