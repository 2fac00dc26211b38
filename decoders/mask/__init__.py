"""Masks from the `[SEG]` route, and their training."""
