"""Plants and settings: profiles, environment variables, topic names."""
