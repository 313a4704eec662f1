"""Reading topics afterwards: dead letters, verification, certificates."""
