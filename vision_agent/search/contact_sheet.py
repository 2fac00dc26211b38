"""Images side by side on one sheet, each with a line of text under it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from vision_agent.errors import InputError, VisionAgentError, bad_argument
from vision_agent.images.loading import load_image
from vision_agent.results.annotate import draw_boxes
from vision_agent.results.box import Box
from vision_agent.results.fonts import runs_of

_MOST_CELLS = 100
_GAP, _TEXT = 6, 12  # pixels between cells; of the letters
_LINE = _TEXT + 6
_PAPER, _EMPTY, _INK, _FRAME = (255, 255, 255), (225, 225, 225), (30, 30, 30), (230, 25, 75)


@dataclass(frozen=True)
class Cell:
    """An image of a sheet: its file, the line under it, and a box that is drawn on it."""

    file: str
    text: str
    box: Box | None = None


def contact_sheet(cells: Sequence[Cell], columns: int, side: int) -> Image.Image:
    """Draw at most 100 images on white paper, in the order of reading; see `SearchResults.sheet`."""
    for name, value, least, most in (("columns", columns, 1, 20), ("side", side, 64, 1024)):
        if type(value) is not int or not least <= value <= most:
            raise InputError(bad_argument(name, f"a whole number from {least} to {most}", value))
    cells = cells[:_MOST_CELLS]
    across = max(1, min(columns, len(cells)))
    down = max(1, -(-len(cells) // across))
    sheet = Image.new("RGB", (across * (side + _GAP) + _GAP, down * (side + _LINE + _GAP) + _GAP), _PAPER)
    pen = ImageDraw.Draw(sheet)
    if not cells:
        _write(pen, (_GAP, _GAP), "nothing found", side)
    for number, cell in enumerate(cells):
        x = _GAP + number % across * (side + _GAP)
        y = _GAP + number // across * (side + _LINE + _GAP)
        image = _small(cell, side)
        if image is None:
            pen.rectangle((x, y, x + side - 1, y + side - 1), fill=_EMPTY)
            _write(pen, (x + _GAP, y + side // 2), "cannot be read", side - 2 * _GAP)
        else:
            sheet.paste(image, (x + (side - image.width) // 2, y + side - image.height))
        _write(pen, (x, y + side + 2), cell.text, side)
    return sheet


def _small(cell: Cell, side: int) -> Image.Image | None:
    """The image as large as its cell; None where it cannot be read."""
    try:
        image = load_image(cell.file)
    except VisionAgentError:
        return None
    scale = side / max(image.size)
    small = image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS
    )
    if cell.box is not None:
        draw_boxes(small, np.array([cell.box.xyxy]) * scale, [("", "")], [_FRAME], line_width=2)
    return small


def _write(pen: ImageDraw.ImageDraw, place: tuple[int, int], text: str, room: int) -> None:
    """Write one line, cut where it is longer than the room."""
    left, (x, y) = 0.0, place
    for part, font in runs_of("".join(each if each.isprintable() else " " for each in text[:200]), _TEXT, None):
        while part and left + font.getlength(part) > room:
            part = part[:-1]
        pen.text((x + left, y), part, font=font, fill=_INK)
        left += font.getlength(part)
