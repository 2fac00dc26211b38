"""Boxes with name tags on an image, drawn with Pillow alone."""

import math
import unicodedata
import zlib
from collections.abc import Iterable, Mapping, Sequence
from operator import index

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor, ImageDraw

from vision_agent.errors import InputError, bad_argument
from vision_agent.results.fonts import Run, runs_of

Color = tuple[int, int, int]

ColorName = str | Sequence[int]
"""A colour by a name of CSS or as "#rrggbb"; or (red, green, blue), each 0..255."""

Colors = ColorName | Mapping[str, ColorName]
"""One colour for all, or one for each of some labels."""

# Strong colours, far apart from each other; which of them a label gets is up to `label_colors`.
_PALETTE: tuple[Color, ...] = (
    (230, 25, 75),
    (60, 180, 75),
    (255, 225, 25),
    (0, 130, 200),
    (245, 130, 48),
    (145, 30, 180),
    (70, 240, 240),
    (240, 50, 230),
    (210, 245, 60),
    (250, 190, 212),
    (0, 128, 128),
    (220, 190, 255),
    (170, 110, 40),
    (128, 0, 0),
    (170, 255, 195),
    (128, 128, 0),
    (0, 0, 160),
    (255, 160, 122),
)

# Longer labels than this fit in no tag; cutting first keeps measuring cheap, whatever a model wrote.
_LONGEST = 200


def label_colors(labels: Iterable[str]) -> dict[str, Color]:
    """Choose a colour for each label, from the label's own text, so that it stays the same from image to image.

    Only where two labels of one call would share a colour does the later one move on to the next free colour.
    """
    colors: dict[str, Color] = {}
    for label in labels:
        if label in colors:
            continue
        start = zlib.crc32(label.encode("utf-8", "surrogatepass"))
        turns = (_PALETTE[(start + step) % len(_PALETTE)] for step in range(len(_PALETTE)))
        taken = set(colors.values())
        colors[label] = next((color for color in turns if color not in taken), _PALETTE[start % len(_PALETTE)])
    return colors


def chosen_colors(labels: Iterable[str], colors: Colors | None) -> dict[str, Color]:
    """Return the colour of each label: the caller's, else its own; see `label_colors`.

    Raises:
        InputError: an unknown name, or no three numbers from 0 to 255.
    """
    palette = label_colors(labels)
    if colors is None:
        return palette
    if isinstance(colors, Mapping):
        return palette | {str(label): _color(f"colors[{label!r}]", color) for label, color in colors.items()}
    return dict.fromkeys(palette, _color("colors", colors))


def _color(name: str, color: object) -> Color:
    expected = 'a colour: a name such as "red", "#rrggbb", or three whole numbers from 0 to 255'
    if isinstance(color, str):
        try:
            red, green, blue = ImageColor.getrgb(color.strip())[:3]
        except ValueError as error:
            raise InputError(bad_argument(name, expected, color)) from error
        return red, green, blue
    try:
        parts = [index(part) for part in color]  # type: ignore[attr-defined]  # a TypeError is the question asked here
    except TypeError:
        parts = []
    if len(parts) != 3 or not all(0 <= part <= 255 for part in parts):
        raise InputError(bad_argument(name, expected, color))
    return parts[0], parts[1], parts[2]


def draw_boxes(
    image: Image.Image,
    boxes: npt.NDArray[np.float64],
    tags: Sequence[tuple[str, str]],
    colors: Sequence[Color],
    *,
    line_width: int | None = None,
    font_size: int | None = None,
    font: str | None = None,
) -> None:
    """Draw boxes (n, 4), float xyxy in pixels, and their tags onto an RGB image, in place; the first box is on top.

    A tag is (text, ending): where it is too long, the text is shortened and the ending stays. Line width and font
    size follow the size of the image unless given. What lies outside the image is not drawn. `font` is the path of the
    font that is taken first.
    """
    width, height = image.size
    scale = math.sqrt(width * height)
    line = line_width if line_width is not None else max(1, round(scale / 280))
    size = font_size if font_size is not None else max(10, round(scale / 42))
    pen = ImageDraw.Draw(image)

    frames: list[tuple[int, tuple[int, int, int, int]]] = []
    for number in range(len(boxes)):
        frame = _pixels(boxes[number], width, height)
        if frame is not None:
            frames.append((number, frame))
    rim = max(1, line // 4)
    for number, (x0, y0, x1, y1) in reversed(frames):
        side = min(x1 - x0, y1 - y0) + 1
        thin = max(1, min(line, side // 4))
        if side >= 4 * (line + 2 * rim):  # a rim sets the line off from a background of its own colour
            around = (x0 - rim, y0 - rim, x1 + rim, y1 + rim)
            pen.rectangle(around, outline=_contrast(colors[number]), width=line + 2 * rim)
        pen.rectangle((x0, y0, x1, y1), outline=colors[number], width=thin)

    pad = max(1, size // 5)
    placed: list[tuple[int, int, int, int]] = []
    written: list[tuple[int, list[Run], int]] = []
    for number, (x0, y0, x1, y1) in frames:
        text, ending = (_one_line(part) for part in tags[number])
        room = min(width, max(x1 - x0 + 1, width // 2, 16 * size)) - 2 * pad
        runs = _fitting(text, ending, size, font, room)
        ascent = max((each.getmetrics()[0] for _, each in runs), default=0)
        tall = ascent + max((each.getmetrics()[1] for _, each in runs), default=0) + 2 * pad
        if not runs or tall > height / 3:  # a tag would hide the image
            continue
        wide = math.ceil(_length(runs)) + 2 * pad
        spots = [(x, y) for y in (y0 - tall, y1 + 1, y0, y1 + 1 - tall) for x in (x0, x1 + 1 - wide)]
        placed.append(_free_spot(spots, (wide, tall), (width, height), placed))
        written.append((number, runs, ascent))
    for (x0, y0, x1, y1), (number, runs, ascent) in reversed(list(zip(placed, written, strict=True))):
        pen.rectangle((x0, y0, x1 - 1, y1 - 1), fill=colors[number])
        left: float = x0 + pad
        for part, face in runs:
            pen.text((left, y0 + pad + ascent), part, font=face, fill=_contrast(colors[number]), anchor="ls")
            left += face.getlength(part)


def _pixels(box: npt.NDArray[np.float64], width: int, height: int) -> tuple[int, int, int, int] | None:
    """First and last pixel column and row that a box touches, cut to the image; None where it touches none."""
    x0, y0, x1, y1 = (float(side) for side in box)
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        return None
    left, top = math.floor(max(x0, 0)), math.floor(max(y0, 0))
    return left, top, max(left, math.ceil(min(x1, width)) - 1), max(top, math.ceil(min(y1, height)) - 1)


def _free_spot(
    spots: list[tuple[int, int]],
    size: tuple[int, int],
    image: tuple[int, int],
    placed: list[tuple[int, int, int, int]],
) -> tuple[int, int, int, int]:
    """The first place, pushed inside the image sideways, that lies inside it and on no other tag."""
    wide, tall = size
    inside = []
    for x, y in spots:
        x = min(max(x, 0), image[0] - wide)
        if 0 <= y <= image[1] - tall:
            inside.append((x, y, x + wide, y + tall))
    for a in inside:
        if not any(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3] for b in placed):
            return a
    if inside:
        return inside[0]
    x, y = spots[0]
    x, y = min(max(x, 0), image[0] - wide), min(max(y, 0), image[1] - tall)
    return x, y, x + wide, y + tall


def _contrast(color: Color) -> Color:
    """Black or white, whichever reads better on a colour."""
    red, green, blue = ((part / 255) ** 2.2 for part in color)
    # At this luminance black and white have the same contrast ratio (WCAG 2).
    return (0, 0, 0) if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else (255, 255, 255)


def _one_line(text: str) -> str:
    """Text without line breaks and control characters: labels may come from a model."""
    joiners = "\u200c\u200d"  # control characters that scripts need
    kept = (each if unicodedata.category(each)[0] != "C" or each in joiners else " " for each in text[:_LONGEST])
    return " ".join("".join(kept).split()) + ("…" if len(text) > _LONGEST else "")


def _fitting(text: str, ending: str, size: int, font: str | None, room: float) -> list[Run]:
    """The runs of as much of the text as fits before the ending, with an ellipsis where it was cut; [] for nothing."""
    joint = " " if text and ending else ""
    end = runs_of(joint + ending, size, font)
    whole = runs_of(text + joint + ending, size, font)
    if _length(whole) <= room:
        return whole
    low, high = 0, len(text)  # the longest start that fits lies in low..high
    while low < high:
        middle = (low + high + 1) // 2
        if _length(runs_of(text[:middle].rstrip() + "…", size, font)) + _length(end) <= room:
            low = middle
        else:
            high = middle - 1
    if low:
        return runs_of(text[:low].rstrip() + "…" + joint + ending, size, font)
    alone = runs_of(ending, size, font)
    return alone if ending and _length(alone) <= room else []


def _length(runs: Sequence[Run]) -> float:
    return sum(font.getlength(text) for text, font in runs)
