"""Coordinate frames and run-length masks."""
