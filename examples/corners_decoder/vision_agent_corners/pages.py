"""Photos of sheets of paper that never were: pages of words, seen at an angle, on objects that pages lie on.

Everything about scene `number` follows from the number, so the truth is known and a run can be resumed. A quarter of
the scenes has no sheet. Hard scenes are what training never shows: stronger slant, sheets on pale ground, shadows
across the page, blur, noise, and blank pale cards lying about.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from vision_agent import load_image
from vision_agent_corners.perspective import Corners, is_convex, moved, rectangle

_WORDS = (
    "account address amount april august balance bank board book bread broken butter camera card carrier cash centre "
    "change chapter city client clock coffee company copper corner cost country credit current customer date delivery "
    "dinner discount document dollar double east engine evening family field figure final flour forest freight friday "
    "garden glass green ground harbour hour house invoice island january journey june kitchen ladder lemon letter "
    "library light listen market material metal milk minute monday morning mountain music north notice number office "
    "orange order paper payment pencil person picture place plan platform price printer product quantity question "
    "railway receipt record river sample school season second service silver simple sister station street subject "
    "sugar summer table tax teacher ticket timber total train transfer unit valley village volume water weather "
    "wednesday west window winter wooden yellow"
).split()
_RNG = np.random.Generator


@dataclass(frozen=True)
class Scene:
    """A photo of a page.

    Attributes:
        image: RGB.
        corners: top left, top right, bottom right, bottom left in pixels; None where there is no sheet.
        words: on the page, in reading order.
    """

    image: Image.Image
    corners: Corners | None
    words: tuple[str, ...] = ()


def draw_scene(
    number: int,
    *,
    size: tuple[int, int] | None = None,
    hard: bool = False,
    held_out: bool = False,
    photos: Sequence[Path] = (),
    sheet: bool | None = None,
) -> Scene:
    """Draw scene `number`.

    Args:
        size: (width, height) in pixels; None for one of some that phones take, at most 640.
        hard: of the kind that training never shows.
        held_out: numbers of another stream, and other photos (every fourth), than training takes.
        photos: files that half of the scenes take as their ground.
        sheet: whether there is one; None for three of four.
    """
    rng = np.random.default_rng((number, int(held_out), int(hard)))
    if size is None:
        size = ((640, 480), (480, 640), (640, 360), (360, 640), (512, 512))[int(rng.integers(5))]
    mine = [path for place, path in enumerate(sorted(photos)) if (place % 4 == 0) == held_out]
    ground = _ground(rng, size, mine, pale=hard and rng.random() < 0.5)
    _scatter(rng, ground, cards=hard)
    if not (rng.random() < 0.75 if sheet is None else sheet):
        return Scene(_photographed(rng, ground, hard), None)
    corners, shape = _placed(rng, size, 0.2 if hard else 0.12)
    page, words = _page(rng, shape)
    mask = moved(Image.new("L", page.size, 255), rectangle(page.size), corners, size)
    ground.paste(Image.new("RGB", size), (0, 0), _shadow(rng, mask))
    ground.paste(moved(page, rectangle(page.size), corners, size), (0, 0), mask)
    return Scene(_photographed(rng, ground, hard), corners, words)


def _placed(rng: _RNG, size: tuple[int, int], slant: float) -> tuple[Corners, tuple[int, int]]:
    """Corners that lie within the image, and the (width, height) at which a page fits them."""
    width, height = size
    while True:
        ratio = float(np.exp(rng.uniform(np.log(0.35), np.log(1.5))))  # width by height: from receipts to slides
        area = width * height * rng.uniform(0.15, 0.75)
        shape = (area * ratio) ** 0.5, (area / ratio) ** 0.5
        flat = rectangle((1, 1)) - 0.5
        bent = (flat + rng.uniform(-slant, slant, (4, 2))) * shape
        turn = np.deg2rad(rng.uniform(-35, 35))
        spin = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        corners = bent @ spin + rng.uniform(0.3, 0.7, 2) * size
        inside = (corners > 4).all() and (corners < np.array(size) - 4).all()
        if inside and is_convex(corners):
            return corners, (round(shape[0]), round(shape[1]))


def _page(rng: _RNG, size: tuple[int, int]) -> tuple[Image.Image, tuple[str, ...]]:
    """Flat paper with a heading, then paragraphs or the lines of a bill."""
    width, height = size
    paper = tuple(int(value) for value in rng.integers(225, 256, 3))
    ink = tuple(int(value) for value in rng.integers(0, 80, 3))
    page = Image.new("RGB", size, paper)
    draw = ImageDraw.Draw(page)
    margin = round(width * rng.uniform(0.04, 0.12))
    letter = max(7.0, min(width, height) * rng.uniform(0.03, 0.06))
    bill = rng.random() < 0.5
    words: list[str] = []
    y, first = float(margin), True
    while y < height - margin - letter:
        font = ImageFont.load_default(letter * 1.6 if first else letter)
        line: list[str] = []
        room = width - 2 * margin
        while len(line) < (2 if bill or first else 14):
            word = str(rng.choice(_WORDS))
            if draw.textlength(" ".join([*line, word]), font) > room * (0.7 if bill else 1.0):
                break
            line.append(word)
        draw.text((margin, y), " ".join(line), ink, font)
        words += line
        if bill and not first:
            price = f"{rng.uniform(1, 99):.2f}"
            draw.text((width - margin - draw.textlength(price, font), y), price, ink, font)
            words.append(price)
        y += letter * (2.6 if first else rng.choice([1.4, 1.4, 1.4, 2.4]))
        if rng.random() < 0.06:
            draw.line((margin, y, width - margin, y), ink, max(1, round(letter / 10)))
            y += letter * 0.6
        if rng.random() < 0.08:
            y += letter * rng.uniform(1, 6)
        first = False
    return page, tuple(words)


def _ground(rng: _RNG, size: tuple[int, int], photos: Sequence[Path], pale: bool) -> Image.Image:
    """What the sheet lies on: a photo, or colours with grain, planks or tiles."""
    width, height = size
    if photos and rng.random() < 0.5 and not pale:
        photo = load_image(photos[int(rng.integers(len(photos)))])
        share = rng.uniform(0.5, 1.0)
        x, y = rng.uniform(0, 1 - share, 2) * photo.size
        box = (x, y, x + share * photo.width, y + share * photo.height)
        return photo.resize(size, Image.Resampling.BILINEAR, box)
    first, second = rng.uniform(190, 235, (2, 3)) if pale else rng.uniform(0, 255, (2, 3))
    v, u = np.mgrid[0:height, 0:width] / max(size)
    turn = rng.uniform(0, 2 * np.pi)
    along = u * np.cos(turn) + v * np.sin(turn)
    kind = rng.integers(4)
    if kind == 0:
        mix = (along - along.min()) / (np.ptp(along) + 1e-6)
    elif kind == 1:  # planks
        mix = np.floor(along * rng.uniform(4, 20)) * 0.37 % 1.0 * 0.5
    elif kind == 2:  # tiles
        across = u * -np.sin(turn) + v * np.cos(turn)
        often = rng.uniform(3, 14)
        mix = (np.floor(along * often) + np.floor(across * often)) % 2 * rng.uniform(0.1, 0.7)
    else:
        mix = np.zeros_like(along)
    for cells in (6, 24, 96):  # grain, coarse to fine
        mix = mix + rng.uniform(0, 0.35) * (_cloud(rng, size, cells) - 0.5)
    colours = first + (second - first) * mix.clip(0, 1)[..., None]
    return Image.fromarray(colours.clip(0, 255).astype(np.uint8))


def _cloud(rng: _RNG, size: tuple[int, int], cells: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Smooth noise, 0-1, (height, width)."""
    coarse = Image.fromarray((rng.random((cells, cells)) * 255).astype(np.uint8))
    return np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), dtype=np.float64) / 255


def _scatter(rng: _RNG, ground: Image.Image, cards: bool) -> None:
    """Coloured objects that are no sheets; with `cards`, some as pale as one, but small and blank."""
    draw = ImageDraw.Draw(ground)
    for _ in range(int(rng.integers(0, 6))):
        pale = cards and rng.random() < 0.4
        colour = tuple(int(value) for value in (rng.integers(215, 256, 3) if pale else rng.integers(0, 200, 3)))
        middle = rng.uniform(0, 1, 2) * ground.size
        reach = rng.uniform(0.02, 0.07 if pale else 0.18) * max(ground.size)
        if pale or rng.random() < 0.5:
            turn = rng.uniform(0, np.pi) + np.array([0.0, 0.4, 1.0, 1.4]) * np.pi
            points = middle + reach * np.stack([np.cos(turn), np.sin(turn)], axis=1)
            draw.polygon([(float(x), float(y)) for x, y in points], fill=colour)
        else:
            x, y = middle.tolist()
            draw.ellipse((x - reach, y - reach * rng.uniform(0.4, 1), x + reach, y + reach), fill=colour)


def _shadow(rng: _RNG, mask: Image.Image) -> Image.Image:
    """The soft shade of the sheet on the ground, as strengths 0-255."""
    shift = rng.uniform(-0.015, 0.015, 2) * mask.size
    moved_mask = mask.transform(mask.size, Image.Transform.AFFINE, (1, 0, shift[0], 0, 1, shift[1]))
    strength = rng.uniform(0, 0.7)
    return moved_mask.filter(ImageFilter.GaussianBlur(max(mask.size) * 0.01)).point(lambda value: value * strength)


def _photographed(rng: _RNG, scene: Image.Image, hard: bool) -> Image.Image:
    """Uneven light, a camera's blur and noise, and a JPEG's marks."""
    width, height = scene.size
    v, u = np.mgrid[0:height, 0:width] / np.array([height, width])[:, None, None] - 0.5
    turn = rng.uniform(0, 2 * np.pi)
    light = 1 + rng.uniform(0, 0.5) * (u * np.cos(turn) + v * np.sin(turn)) - rng.uniform(0, 0.25)
    if hard:  # the edge of a shadow across the image
        turn = rng.uniform(0, 2 * np.pi)
        edge = (u * np.cos(turn) + v * np.sin(turn) + rng.uniform(-0.3, 0.3)) * rng.uniform(8, 60)
        light = light * (1 - rng.uniform(0.2, 0.55) / (1 + np.exp(-edge)))
    tint = light[..., None] * rng.uniform(0.9, 1.05, 3)
    blurred = scene.filter(ImageFilter.GaussianBlur(rng.uniform(0, 2.0 if hard else 0.8) * max(scene.size) / 640))
    noise = rng.normal(0, rng.uniform(0, 14.0 if hard else 6.0), (height, width, 1))
    pixels = (np.asarray(blurred, dtype=np.float64) * tint + noise).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=int(rng.integers(35 if hard else 60, 95)))
    return Image.open(file).convert("RGB")
