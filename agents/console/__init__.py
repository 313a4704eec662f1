"""The console: how a running plant is, and what people can do about it, in a browser."""
