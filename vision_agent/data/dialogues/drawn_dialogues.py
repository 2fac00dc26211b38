"""Dialogues of every kind, drawn: captions, questions, several images, videos, boxes, words alone.

What is learned from them says whether a fine-tuning works, not what it is good for.
"""

import json
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

COLORS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 60, 220), "yellow": (240, 220, 40)}
COLORS |= {"white": (250, 250, 250), "black": (10, 10, 10), "pink": (250, 130, 190), "brown": (120, 70, 30)}
KINDS = ("caption", "question", "images", "video", "boxes", "text")
NAMES = list(COLORS)


def draw_image(first: int, second: int, place: tuple[int, int, int, int] | None = None, side: int = 56) -> Image.Image:
    """Return a ground of one colour, with a box of another at a place 0-1000; colours by their numbers in `NAMES`."""
    image = Image.new("RGB", (side, side), COLORS[NAMES[first]])
    box = [value * side // 1000 for value in place or (250, 250, 750, 750)]
    ImageDraw.Draw(image).rectangle((*box[:2], box[2] - 1, box[3] - 1), fill=COLORS[NAMES[second]])
    return image


def write_dialogues(folder: Path, kind: str, count: int, *, frames: int = 2) -> Path:
    """Write so many lines of a kind, with their images, and return the `.jsonl`.

    Args:
        kind: one of `KINDS`.
        frames: of a video, which is a folder of images.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = [_line(folder, kind, number, frames) for number in range(count)]
    path = folder / f"{kind}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def _line(folder: Path, kind: str, number: int, frames: int) -> dict[str, Any]:
    ground, box = divmod(number % 56, 7)
    box = (ground + 1 + box) % 8
    name = f"{kind}-{number}.png"
    line: dict[str, Any] = {"id": number}
    if kind == "caption":
        draw_image(ground, box).save(folder / name)
        line |= {"image": name, "width": 56, "height": 56}
        asked, said = "<image>\nDescribe it.", f"a {NAMES[box]} box on {NAMES[ground]}"
    elif kind == "question":
        draw_image(ground, box).save(folder / name)
        line["image"] = name
        asked, said = "What colour is the ground?", NAMES[ground]
    elif kind == "images":
        for part, color in enumerate((ground, box)):
            draw_image(color, color).save(folder / f"{part}-{name}")
        line["image"] = [f"0-{name}", f"1-{name}"]
        asked, said = "Image-1: <image>\nImage-2: <image>\nWhich colours?", f"{NAMES[ground]}, {NAMES[box]}"
    elif kind == "video":
        (folder / f"video-{number}").mkdir(exist_ok=True)
        for frame in range(frames):
            color = ground if frame < frames // 2 else box
            draw_image(color, color).save(folder / f"video-{number}" / f"{frame:03}.png")
        line["video"] = f"video-{number}"
        asked, said = "<video>\nWhat happens?", f"{NAMES[ground]} becomes {NAMES[box]}"
    elif kind == "boxes":
        left, top = (number % 4) * 200, number // 4 % 8 * 80
        place = (left, top, left + 400, top + 400)
        draw_image(ground, box, place).save(folder / name)
        line["image"] = name
        asked = f"<image>\nWhere is <ref>the {NAMES[box]} box</ref>?"
        said = f"<ref>the {NAMES[box]} box</ref><box>[[{', '.join(map(str, place))}]]</box>"
    else:
        asked = f"What follows {number}?"
        said = str(number + 1)
    turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": said}]
    if kind == "text" and number % 2:
        turns.insert(0, {"from": "system", "value": "You count."})
    return {**line, "conversations": turns}
