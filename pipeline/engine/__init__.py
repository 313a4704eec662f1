"""Records in, diagnoses out: the machines, their frames, and what is published about them."""
