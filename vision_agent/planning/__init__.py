"""Requests of several steps: read as a plan, carried out by tools, and put into words. `runner` is the way in."""
