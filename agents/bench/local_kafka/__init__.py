"""A real Kafka broker as a local process, for tests and benchmarks."""
