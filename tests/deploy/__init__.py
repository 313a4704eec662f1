"""Tests of what is in deploy, and of installations."""
