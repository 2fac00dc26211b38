"""Routing tokens: where their queries stand, which states are read, how a route is saved."""
