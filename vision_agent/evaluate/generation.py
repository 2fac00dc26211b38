"""Do generated images show what was asked for? Judged by the model's own detector and by rules of colour.

A fixed set of prompts, object x colour x count x place, none of which names a cut-out's file or a seed that was chosen
by hand. The detector's default threshold decides what is there; a colour is that of the pixels in the object's box
which differ from what surrounds the box.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vision_agent.agent import VisionAgent
from vision_agent.data.recolor import colour_of
from vision_agent.data.text.phrases import NUMBERS
from vision_agent.evaluate.figures import Figure
from vision_agent.inference.colors import COLOURS
from vision_agent.inference.nouns import plural, with_article
from vision_agent.results.box import Box
from vision_agent.results.detections import Detection
from vision_agent.results.generated import GeneratedImage

_NAMES = (
    "airplane apple banana bear book bus butterfly camera car carrot cat chair cow cup dog duck elephant flower horse "
    "house laptop motorcycle orange pear penguin pizza rabbit sheep strawberry sunflower tomato train umbrella"
).split()
_PLACES = ("on the left", "on the right", "at the top", "at the bottom")
_RELATIONS = ("left of", "right of", "above", "below")
_LEAST_DIFFERENCE = 36  # of one of the three channels, 0-255: more belongs to the object
_BATCH = 8


@dataclass(frozen=True)
class Wanted:
    """A prompt and what its image must show."""

    prompt: str
    names: tuple[str, ...]
    colours: tuple[str | None, ...]
    count: int = 1
    place: str | None = None


@dataclass(frozen=True)
class Verdict:
    """What was right; None where the prompt did not ask for it."""

    objects: bool
    colour: bool | None
    count: bool | None
    place: bool | None


def fixed_prompts() -> list[Wanted]:
    """Return 120 prompts: one object in a colour, several of a kind, one object at a side, two in a relation."""
    rng = np.random.default_rng(11)
    names = [str(name) for name in rng.permutation(_NAMES)]
    found: list[Wanted] = []
    for number in range(44):
        name, colour = names[number % len(names)], COLOURS[number % len(COLOURS)]
        found.append(Wanted(with_article(f"{colour} {name}"), (name,), (colour,)))
    for number in range(36):
        name, count = names[(number * 5 + 3) % len(names)], 2 + number % 3
        drawn = COLOURS[(number // 2) % len(COLOURS)] if number % 2 else None
        words = [NUMBERS[count - 1], *([drawn] if drawn else []), plural(name)]
        found.append(Wanted(" ".join(words), (name,), (drawn,), count=count))
    for number in range(20):
        name, place = names[(number * 7 + 1) % len(names)], _PLACES[number % 4]
        found.append(Wanted(f"{with_article(name)} {place}", (name,), (None,), place=place))
    for number in range(20):
        first, second = names[(number * 3) % len(names)], names[(number * 3 + 11) % len(names)]
        relation = _RELATIONS[number % 4]
        colour = COLOURS[(number * 5) % len(COLOURS)]
        prompt = f"{with_article(f'{colour} {first}')} {relation} {with_article(second)}"
        found.append(Wanted(prompt, (first, second), (colour, None), place=relation))
    return found


def generation_figures(
    agent: VisionAgent, *, limit: int | None = None, sheet: Path | None = None, seed: int = 0
) -> list[Figure]:
    """Make the images of `fixed_prompts` and judge them. An agent without a `[GEN]` route has no figures.

    Args:
        limit: at most so many prompts, spread over the kinds.
        sheet: where to write a contact sheet of all images, with their prompts and verdicts.
        seed: of the first prompt; the others follow.
    """
    if "gen" not in agent.routes:
        return []
    wanted = fixed_prompts()
    if limit is not None:
        wanted = wanted[:: max(1, -(-len(wanted) // limit))]
    made: list[GeneratedImage] = []
    for begin in range(0, len(wanted), _BATCH):
        prompts = [each.prompt for each in wanted[begin : begin + _BATCH]]
        made += agent.generate(prompts, seed=seed + begin)
    verdicts = [judge(agent, each.image, want) for each, want in zip(made, wanted, strict=True)]
    if sheet is not None:
        contact_sheet([each.image for each in made], wanted, verdicts).save(sheet)
    return [
        _figure("generated images: object accuracy", [v.objects for v in verdicts], "prompts"),
        _figure("generated images: colour accuracy", [v.colour for v in verdicts], "prompts that name a colour"),
        _figure("generated images: count accuracy", [v.count for v in verdicts], "prompts that ask for 2-4"),
        _figure("generated images: place accuracy", [v.place for v in verdicts], "prompts that name a place"),
    ]


def judge(agent: VisionAgent, image: Image.Image, wanted: Wanted) -> Verdict:
    """Return whether an image shows what was wanted.

    Objects: each name found. Colour: that of the best box, however unsure, so that what is not recognised in an odd
    colour fails as an object alone. Count: boxes found are as many as asked for. Place: the middle of the best box lies
    on the side, or on the right side of the other's.
    """
    found = [agent.detect(name, image) for name in wanted.names]
    best = [_best(agent, name, image) for name in wanted.names]
    colour = None
    if any(wanted.colours):
        pairs = [(want, box) for want, box in zip(wanted.colours, best, strict=True) if want]
        colour = all(box is not None and colour_in(image, box.box) == want for want, box in pairs)
    return Verdict(
        objects=all(len(each) > 0 for each in found),
        colour=colour,
        count=None if wanted.count == 1 else len(found[0]) == wanted.count,
        place=None if wanted.place is None else _placed(wanted.place, best, image.size),
    )


def colour_in(image: Image.Image, box: Box) -> str | None:
    """Return the colour of the pixels in a box that differ from the ring around it."""
    pixels = np.asarray(image.convert("RGB")).astype(np.int16)
    height, width = pixels.shape[:2]
    x0, y0, x1, y1 = (round(value) for value in box.xyxy)
    x0, y0, x1, y1 = max(0, x0), max(0, y0), min(width, max(x1, x0 + 1)), min(height, max(y1, y0 + 1))
    margin = max(2, round(0.06 * max(width, height)))
    ring: NDArray[np.bool_] = np.zeros((height, width), dtype=np.bool_)
    ring[max(0, y0 - margin) : y1 + margin, max(0, x0 - margin) : x1 + margin] = True
    ring[y0:y1, x0:x1] = False
    inside = pixels[y0:y1, x0:x1].reshape(-1, 3)
    if ring.any():
        around = np.median(pixels[ring], axis=0)
        different = np.abs(inside - around).max(axis=1) > _LEAST_DIFFERENCE
        if different.sum() >= 20:
            inside = inside[different]
    return colour_of(inside.astype(np.uint8))


def contact_sheet(
    images: Sequence[Image.Image], wanted: Sequence[Wanted], verdicts: Sequence[Verdict], columns: int = 10
) -> Image.Image:
    """Draw all images with their prompts under them; what was wrong in red."""
    side, line = 128, 26
    rows = -(-len(images) // columns)
    canvas = Image.new("RGB", (columns * (side + 6), rows * (side + line + 6)), "white")
    draw = ImageDraw.Draw(canvas)
    for number, (image, want, verdict) in enumerate(zip(images, wanted, verdicts, strict=True)):
        x, y = number % columns * (side + 6) + 3, number // columns * (side + line + 6) + 3
        canvas.paste(image.resize((side, side)), (x, y))
        marks = {
            "object": verdict.objects,
            "colour": verdict.colour,
            "count": verdict.count,
            "place": verdict.place,
        }
        wrong = [name for name, right in marks.items() if right is False]
        draw.text((x, y + side), want.prompt[:24], fill="black")
        if wrong:
            draw.text((x, y + side + line // 2), ", ".join(wrong), fill="red")
    return canvas


def _best(agent: VisionAgent, name: str, image: Image.Image) -> Detection | None:
    found = agent.detect(name, image, threshold=0.0)
    return max(found, key=lambda each: each.score, default=None)


def _placed(place: str, best: Sequence[Detection | None], size: tuple[int, int]) -> bool:
    if any(each is None for each in best):
        return False
    middles = [each.box.center for each in best if each is not None]
    (x, y), other = middles[0], middles[1] if len(middles) > 1 else (size[0] / 2, size[1] / 2)
    side = place.removeprefix("on the ").removeprefix("at the ").removesuffix(" of")
    return {
        "left": x < other[0],
        "right": x > other[0],
        "top": y < other[1],
        "above": y < other[1],
        "bottom": y > other[1],
        "below": y > other[1],
    }[side]


def _figure(name: str, rights: Sequence[bool | None], of: str) -> Figure:
    asked = [right for right in rights if right is not None]
    return Figure(name=name, value=float(np.mean(asked)), count=len(asked), of=of)
