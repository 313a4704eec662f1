"""The worker: a Faust agent around the engine, its metrics and its web server."""
