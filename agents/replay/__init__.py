"""Replaying and converting recordings, and scoring what was said."""
