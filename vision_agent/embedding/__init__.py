"""Vectors of images and texts, and what is made of them: labels of an image."""
