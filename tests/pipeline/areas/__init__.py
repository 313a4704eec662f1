"""Tests of areas."""
