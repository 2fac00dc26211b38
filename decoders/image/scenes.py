"""Training scenes of the small generator: objects of known name, colour, number and place, and edits of such scenes.

A scene is a background, objects drawn in order, and a prompt that says what is in it. An edit is a scene as an image,
words for a change of one object, and what the change draws. Every draw follows from the random generator given, so
sample number n of a run is always the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vision_agent.data.sources import Cutout, Cutouts, ImageArchive
from vision_agent.data.text.phrases import NUMBERS
from vision_agent.inference.colors import COLOURS
from vision_agent.inference.nouns import plural

from .samples import Pixels, Sample, SceneObject

GRID = 3  # colours of a background a side
SPRITE = 96  # pixels a side of an object

PLACES = {"left": (0.27, 0.5), "right": (0.73, 0.5), "top": (0.5, 0.28), "bottom": (0.5, 0.72)}
_PLACE_WORDS = {
    "left": ("on the left", "on the left side"),
    "right": ("on the right", "on the right side"),
    "top": ("at the top", "on top"),
    "bottom": ("at the bottom", "at the bottom"),
}
_RELATIONS = ("left of", "right of", "above", "below")
_OPENINGS = ("a photo of", "a picture of", "an image of", "draw", "generate", "show")
# Hue in degrees, saturation, mean value of each paint; what `colour_of` calls by the same word.
_PAINTS = {
    "red": (0, 200, 190),
    "orange": (28, 220, 225),
    "yellow": (54, 200, 225),
    "green": (120, 180, 160),
    "blue": (222, 190, 190),
    "purple": (280, 170, 180),
    "pink": (325, 130, 230),
    "brown": (24, 160, 105),
    "black": (0, 10, 38),
    "white": (0, 8, 228),
    "grey": (0, 8, 135),
}
_BACKGROUNDS = {
    "white": (240, 240, 240),
    "grey": (150, 150, 150),
    "black": (25, 25, 28),
    "blue": (120, 165, 225),
    "green": (130, 185, 120),
    "yellow": (235, 220, 140),
    "pink": (240, 190, 205),
    "brown": (150, 115, 80),
}


def vocabulary(names: Sequence[str]) -> list[str]:
    """Return all words that prompts of these names can hold, sorted."""
    texts = [*names, *map(plural, names), *COLOURS, *NUMBERS, *_RELATIONS, *_OPENINGS, *PLACES, "1 2 3 4"]
    texts += ["a an the and of on in at with side it its background left right above below under over one"]
    texts += ["make turn paint change colour color to into remove delete erase take away add put replace by is are"]
    texts += ["gray picture photo image please to middle center centre next beside"]
    return sorted({word for text in texts for word in text.lower().split()})


class GeneratorScenes:
    """Draws samples.

    Args:
        folder: the training archives.
        names: each name's files among the cut-outs.

    Attributes:
        names: in order.
        sprites: every look in every paint, uint8 (looks, paints, 96, 96, 4), RGBA in the middle of a square.
    """

    def __init__(self, folder: Path, names: Mapping[str, Sequence[str]]) -> None:
        archive = Cutouts(folder)
        self.names = tuple(names)
        self._looks: dict[str, list[int]] = {}
        sprites: list[list[Pixels]] = []
        for name, files in names.items():
            self._looks[name] = list(range(len(sprites), len(sprites) + len(files)))
            for file in files:
                plain = _squared(archive.open(Cutout(file, name, "")))
                sprites.append([np.asarray(plain), *(np.asarray(painted(plain, colour)) for colour in COLOURS)])
        self.sprites: Pixels = np.array(sprites)
        backgrounds = ImageArchive(folder / "backgrounds_320.zip")
        photos = [name for name in backgrounds.names() if name.endswith(".webp") and "mask" not in name]
        self._photos = [_shrunk(backgrounds.open(name).convert("RGB")) for name in photos[::8]]

    def sample(self, rng: np.random.Generator, *, edit: bool) -> Sample:
        """Return one example: a new image or an edit."""
        if edit:
            return self._edit(rng)
        kind = rng.random()
        if kind < 0.36:
            text, objects = self._alone(rng)
        elif kind < 0.66:
            text, objects = self._several(rng)
        elif kind < 0.80:
            text, objects = self._placed(rng)
        else:
            text, objects = self._pair(rng)
        colour = str(rng.choice(list(_BACKGROUNDS))) if rng.random() < 0.12 else None
        if colour is not None:
            text = f"{text} on a {colour} background"
        if rng.random() < 0.1:
            text = f"{rng.choice(_OPENINGS)} {text}"
        return Sample(text, self._background(rng, colour), tuple(objects))

    # New images

    def _alone(self, rng: np.random.Generator) -> tuple[str, list[SceneObject]]:
        name, colour = self._subject(rng)
        size = rng.uniform(0.58, 0.88)
        room = (1 - size) / 2 * 0.7
        obj = self._object(rng, name, colour, 0.5 + rng.uniform(-room, room), 0.5 + rng.uniform(-room, room), size)
        return _described(rng, name, colour), [obj]

    def _placed(self, rng: np.random.Generator) -> tuple[str, list[SceneObject]]:
        name, colour = self._subject(rng)
        place = str(rng.choice(list(PLACES)))
        x, y = (value + rng.uniform(-0.03, 0.03) for value in PLACES[place])
        obj = self._object(rng, name, colour, x, y, rng.uniform(0.4, 0.54))
        return f"{_described(rng, name, colour)} {rng.choice(_PLACE_WORDS[place])}", [obj]

    def _several(self, rng: np.random.Generator) -> tuple[str, list[SceneObject]]:
        name, colour = self._subject(rng)
        count = int(rng.integers(2, 5))
        spots, size = _spots(rng, count)
        look = int(rng.choice(self._looks[name]))
        objects = []
        for x, y in spots:
            obj = self._object(rng, name, colour, x + rng.uniform(-0.02, 0.02), y + rng.uniform(-0.02, 0.02), size)
            objects.append(replace(obj, look=look, size=size * float(rng.uniform(0.92, 1.05))))
        number = NUMBERS[count - 1] if rng.random() < 0.85 else str(count)
        words = [number, *([colour] if colour else []), plural(name)]
        return " ".join(words), objects

    def _pair(self, rng: np.random.Generator) -> tuple[str, list[SceneObject]]:
        first, second = self._subject(rng), self._subject(rng)
        while second[0] == first[0]:
            second = self._subject(rng)
        relation = str(rng.choice(_RELATIONS)) if rng.random() < 0.6 else "and"
        towards = relation if relation != "and" else str(rng.choice(["left of", "right of"]))
        spots = {
            "left of": ((0.27, 0.5), (0.73, 0.5)),
            "right of": ((0.73, 0.5), (0.27, 0.5)),
            "above": ((0.5, 0.27), (0.5, 0.73)),
            "below": ((0.5, 0.73), (0.5, 0.27)),
        }[towards]
        objects = []
        for (name, colour), (x, y) in zip((first, second), spots, strict=True):
            x, y = x + rng.uniform(-0.03, 0.03), y + rng.uniform(-0.03, 0.03)
            objects.append(self._object(rng, name, colour, x, y, rng.uniform(0.4, 0.48)))
        return f"{_described(rng, *first)} {relation} {_described(rng, *second)}", objects

    # Edits

    def _edit(self, rng: np.random.Generator) -> Sample:
        kind = str(rng.choice(["recolour", "remove", "add", "replace"], p=[0.4, 0.2, 0.2, 0.2]))
        objects = (self._alone if rng.random() < 0.45 or kind == "add" else self._pair)(rng)[1]
        if kind == "add":
            objects = [replace(objects[0], size=objects[0].size * 0.55, x=0.27, y=0.5)]
            if rng.random() < 0.5:
                objects = [replace(objects[0], x=0.73)]
        grid = self._background(rng, None)
        index = int(rng.integers(len(objects)))
        old = objects[index]
        source = self.draw(grid, objects)
        the = f"the {old.name}" if len(objects) > 1 or rng.random() < 0.6 else "it"
        new: SceneObject | None = None
        gone: tuple[float, float, float, float] | None = None
        if kind == "recolour":
            new = replace(old, colour=str(rng.choice(COLOURS)))
            text = f"{rng.choice(['make', 'make', 'turn', 'paint'])} {the} {new.colour}"
        elif kind == "add":
            name, colour = self._subject(rng)
            side = "right" if old.x < 0.5 else "left"
            new = self._object(rng, name, colour, *PLACES[side], rng.uniform(0.4, 0.48))
            text = f"add {_described(rng, name, colour, article=True)}"
            if rng.random() < 0.5:
                text = f"{text} {rng.choice(_PLACE_WORDS[side])}"
        else:
            gone = self._extent(old)
            text = f"{rng.choice(['remove', 'remove', 'delete', 'erase'])} {the}"
        if kind == "replace":
            name, colour = self._subject(rng)
            new = self._object(rng, name, colour, old.x, old.y, old.size)
            text = f"replace {the} {rng.choice(['with', 'by'])} {_described(rng, name, colour, article=True)}"
        mask = None
        if rng.random() < 0.5:
            extents = [*([self._extent(new)] if new else []), *([gone] if gone else [])]
            mask = _grown_boxes(extents, source.shape[0], rng)
        return Sample(text, grid, (new,) if new else (), source, mask, gone)

    # Parts

    def _subject(self, rng: np.random.Generator) -> tuple[str, str | None]:
        return str(rng.choice(self.names)), str(rng.choice(COLOURS)) if rng.random() < 0.5 else None

    def _object(
        self, rng: np.random.Generator, name: str, colour: str | None, x: float, y: float, size: float
    ) -> SceneObject:
        look = int(rng.choice(self._looks[name]))
        return SceneObject(name, colour, look, float(x), float(y), float(size), light=float(rng.uniform(0.9, 1.1)))

    def _background(self, rng: np.random.Generator, colour: str | None) -> NDArray[np.float32]:
        """A grid of colours: plain, shaded, with a floor, or a photo far out of focus."""
        grid: NDArray[np.float32] = np.empty((GRID, GRID, 3), dtype=np.float32)
        kind = rng.random()
        light = float(rng.uniform(0.6, 0.95))
        base = (light + rng.uniform(-0.1, 0.1, 3)).clip(0, 1)
        grid[:] = base
        if colour is not None:
            grid[:] = np.array(_BACKGROUNDS[colour]) / 255 + rng.uniform(-0.05, 0.05, 3)
        elif kind < 0.15:
            grid[:] = self._photos[int(rng.integers(len(self._photos)))]
        elif kind < 0.45:
            other = (rng.uniform(0.45, 0.92) + rng.uniform(-0.1, 0.1, 3)).clip(0, 1)
            grid[1:] = (base + other) / 2
            grid[2] = other
            if rng.random() < 0.4:
                grid[1] = other if rng.random() < 0.5 else base
        return grid.clip(0, 1)

    def _extent(self, obj: SceneObject) -> tuple[float, float, float, float]:
        """The box of what is seen of an object, as shares of the image's side."""
        cover = self.sprites[obj.look, 0, :, :, 3] > 60
        rows, columns = np.nonzero(cover.any(1))[0], np.nonzero(cover.any(0))[0]
        left, top = obj.x - obj.size / 2, obj.y - obj.size / 2
        step = obj.size / SPRITE
        x0, x1 = left + columns[0] * step, left + (columns[-1] + 1) * step
        y0, y1 = top + rows[0] * step, top + (rows[-1] + 1) * step
        return max(0.0, x0), max(0.0, y0), min(1.0, x1), min(1.0, y1)

    def draw(self, grid: NDArray[np.float32], objects: Sequence[SceneObject], side: int = 96) -> Pixels:
        """Draw a scene as an image, uint8 (side, side, 3)."""
        canvas = Image.fromarray(spread(grid, side))
        for obj in objects:
            size = max(4, round(obj.size * side))
            sprite = Image.fromarray(self.sprites[obj.look, obj.paint]).resize((size, size), Image.Resampling.BOX)
            lit = sprite.convert("RGB").point([min(255, round(value * obj.light)) for value in range(256)] * 3)
            corner = round(obj.x * side - size / 2), round(obj.y * side - size / 2)
            canvas.paste(lit, corner, sprite.getchannel("A"))
        return np.asarray(canvas)


def spread(grid: NDArray[np.float32], side: int) -> Pixels:
    """Return a grid of colours, its corners in the image's corners, as uint8 (side, side, 3)."""
    places = np.linspace(0, GRID - 1, side)
    share = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(GRID)))  # bilinear
    smooth = np.einsum("yi,xj,ijc->yxc", share, share, grid)
    pixels: Pixels = (smooth * 255).round().clip(0, 255).astype(np.uint8)
    return pixels


def painted(cutout: Image.Image, colour: str) -> Image.Image:
    """Return an RGBA cut-out in one of the eleven colours: its shading stays, around the paint's own brightness."""
    hue, saturation, value = _PAINTS[colour]
    grey = np.asarray(cutout.convert("RGB").convert("L")).astype(np.float32)
    alpha = np.asarray(cutout.getchannel("A"))
    inside = grey[alpha > 110]
    if not inside.size:
        return cutout
    contrast = {"black": 22.0, "white": 22.0}.get(colour, 42.0)
    relief = (grey - float(np.median(inside))) / max(float(inside.std()), 1.0)
    shade = value + contrast * relief.clip(-2, 2)
    low, high = {"black": (8, 80), "white": (170, 255), "grey": (60, 188), "brown": (45, 148)}.get(colour, (75, 255))
    hsv = np.empty((*grey.shape, 3), dtype=np.uint8)
    hsv[..., 0] = hue * 255 // 360
    hsv[..., 1] = saturation
    hsv[..., 2] = shade.clip(low, high)
    channels = [Image.fromarray(np.ascontiguousarray(hsv[..., channel])) for channel in range(3)]
    new = Image.merge("HSV", channels).convert("RGB")
    new.putalpha(cutout.getchannel("A"))
    return new


def _described(rng: np.random.Generator, name: str, colour: str | None, article: bool = False) -> str:
    words = [colour, name] if colour else [name]
    if article or rng.random() < 0.75:
        words.insert(0, "an" if str(words[0])[0] in "aeiou" else "a")
    return " ".join(map(str, words))


def _spots(rng: np.random.Generator, count: int) -> tuple[list[tuple[float, float]], float]:
    """Middles of `count` objects that do not overlap, and their size."""
    if count == 2:
        across = [(0.27, 0.5), (0.73, 0.5)]
        return (across if rng.random() < 0.75 else [(0.5, 0.27), (0.5, 0.73)]), float(rng.uniform(0.4, 0.47))
    if count == 3:
        shape = [(0.27, 0.28), (0.73, 0.28), (0.5, 0.73)]
        if rng.random() < 0.5:
            shape = [(x, 1 - y) for x, y in shape]
        return shape, float(rng.uniform(0.36, 0.43))
    return [(0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73)], float(rng.uniform(0.35, 0.43))


def _grown_boxes(
    boxes: Sequence[tuple[float, float, float, float]], side: int, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Boxes, some pixels larger, as a mask."""
    mask = np.zeros((side, side), dtype=np.bool_)
    for box in boxes:
        x0, y0, x1, y1 = (round(value * side) for value in box)
        grow = rng.integers(1, 8, 4)
        mask[max(0, y0 - grow[0]) : y1 + grow[1], max(0, x0 - grow[2]) : x1 + grow[3]] = True
    return mask


def _squared(cutout: Image.Image) -> Image.Image:
    """A cut-out without its margins, in the middle of a square of `SPRITE` pixels."""
    cutout = cutout.crop(cutout.getchannel("A").point([0] * 40 + [255] * 216).getbbox())
    scale = (SPRITE - 2) / max(cutout.size)
    width, height = (max(4, round(length * scale)) for length in cutout.size)
    square = Image.new("RGBA", (SPRITE, SPRITE))
    small = cutout.resize((width, height), Image.Resampling.LANCZOS)
    square.paste(small, ((SPRITE - width) // 2, (SPRITE - height) // 2))
    return square


def _shrunk(photo: Image.Image) -> NDArray[np.float32]:
    """A photo as a grid of colours."""
    return np.asarray(photo.resize((GRID, GRID), Image.Resampling.BOX), dtype=np.float32) / np.float32(255)
