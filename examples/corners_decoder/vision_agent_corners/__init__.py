"""Finds the four corners of a sheet of paper in a photo, and straightens it: a second decoder, to learn from.

`decoder` is the part that a model is given, `pages` makes what it learns from, `perspective` puts pages into scenes and
takes them out again, `tool` offers it to language models, `measure` and `commands` train it and tell how good it is.
Nothing is imported here, so that the command line stays quick.
"""
