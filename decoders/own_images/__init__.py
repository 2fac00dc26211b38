"""Boxes and masks of names of one's own: the shipped routes, trained on with a user's annotated images."""
