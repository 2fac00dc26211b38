"""Routing tokens: where their queries stand, what states are read, how a route is saved."""
