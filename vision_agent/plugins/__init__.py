"""The contracts of all that plugs in, and the registry that finds it."""
