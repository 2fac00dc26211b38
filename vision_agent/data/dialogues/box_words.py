"""Checks boxes in words: `<ref>name</ref><box>[[x1, y1, x2, y2], ...]</box>`, whole numbers 0-1000 of the image."""

import json
import re
from typing import Any

_TAG = re.compile(r"</?(?:ref|box|quad)>")
_PAIR = re.compile(r"<(box|quad)>(.*?)</\1>", re.DOTALL)
_NUMBERS = {"box": 4, "quad": 8}


def faults_of_answer(text: str) -> list[str]:
    """Return what is wrong with the boxes of an answer, which the model would learn to write."""
    opened = ""
    for found in _TAG.finditer(text):
        tag = found.group()
        if opened and tag != f"</{opened}>":
            return [f"{tag} where </{opened}> was expected"]
        if not opened and tag.startswith("</"):
            return [f"{tag} without <{tag[2:]}"]
        opened = "" if opened else tag[1:-1]
    return [f"<{opened}> without </{opened}>"] if opened else faults_of_question(text)


def faults_of_question(text: str) -> list[str]:
    """Return what is wrong with the numbers of whole boxes in a text; a mark by itself may be what is asked for."""
    return [fault for kind, inside in _PAIR.findall(text) for fault in _number_faults(kind, inside)]


def _number_faults(kind: str, inside: str) -> list[str]:
    count = _NUMBERS[kind]
    try:
        boxes: Any = json.loads(inside)
    except ValueError:
        boxes = None
    if not isinstance(boxes, list) or not boxes or not all(isinstance(each, list) for each in boxes):
        expected = "[[x1, y1, x2, y2], ...]" if kind == "box" else "[[x1, y1, ..., x4, y4], ...]"
        return [f"<{kind}> must hold {expected}, but holds {inside!r:.60}"]
    return [fault for box in boxes for fault in _fault_of_box(kind, box, count)]


def _fault_of_box(kind: str, box: list[Any], count: int) -> list[str]:
    if len(box) != count:
        return [f"a <{kind}> of {len(box)} numbers, not {count}: {box!r:.60}"]
    if not all(type(number) is int for number in box):
        unit = all(isinstance(number, int | float) and 0 <= number <= 1 for number in box)
        return [f"coordinates must be whole numbers 0-1000{', not shares of 1' * unit}: {box!r:.60}"]
    if min(box) < 0 or max(box) > 1000:
        return [f"coordinates must be 0-1000 of the whole image; are they pixels? {box!r:.60}"]
    if kind == "box" and (box[0] > box[2] or box[1] > box[3]):
        return [f"x1, y1 must not be larger than x2, y2: {box!r:.60}"]
    return []
