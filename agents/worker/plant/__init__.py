"""The plant agent: areas of machines that know of each other."""
