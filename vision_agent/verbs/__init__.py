"""The verbs of `VisionAgent`, by what they do: find, draw, read, answer.

They check arguments and load images. The work is done by the parts that an agent is put together from (`parts`).
"""
