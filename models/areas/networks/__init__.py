"""Graph networks over the machines, utilities and event texts of an area."""
