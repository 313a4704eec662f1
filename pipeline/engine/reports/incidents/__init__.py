"""Incidents: past faults and alarms of machines, kept so that a new one can be compared with them."""
