"""The part of an image that is looked for."""

from collections.abc import Sequence

from PIL import Image

from vision_agent.errors import InputError, bad_argument
from vision_agent.results.box import Box


def part_of(image: Image.Image, box: Box | Sequence[float] | None, least_side: int) -> Image.Image:
    """Return the part of an image that a box holds; all of it without a box.

    Raises:
        InputError: a box that is none, or too little of which lies inside the image.
    """
    if box is None:
        return image
    if not isinstance(box, Box):
        try:
            box = Box.from_xyxy(box)
        except (ValueError, TypeError) as error:
            raise InputError(bad_argument("box", "x0, y0, x1, y1 with x1 >= x0 and y1 >= y0", box)) from error
    x0, y0 = max(0, round(box.x0)), max(0, round(box.y0))
    x1, y1 = min(image.width, round(box.x1)), min(image.height, round(box.y1))
    if min(x1 - x0, y1 - y0) < least_side:
        inside = f"inside the image of {image.width} x {image.height} pixels"
        raise InputError(bad_argument("box", f"a box of at least {least_side} pixels a side {inside}", box.xyxy))
    return image.crop((x0, y0, x1, y1))
