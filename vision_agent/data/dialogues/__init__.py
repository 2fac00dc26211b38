"""Dialogues to learn from, in InternVL's own format: meta files, lines, images, videos, boxes in words."""
