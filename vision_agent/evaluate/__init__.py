"""Figures of a model on held-out images, and how its scores are calibrated."""
