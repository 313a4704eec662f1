"""Follows the topics of a running plant, over losses of the broker, without a consumer group."""
