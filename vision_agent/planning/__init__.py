"""Requests of several steps: read, planned, carried out by tools, and told (`running` is the way in)."""
