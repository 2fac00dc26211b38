"""Videos whose truth is known: cut-outs of a folder's photos, moved over other photos of it.

The cut-outs are what the model itself outlines surely in photos. Objects cross, cover each other, turn back, leave and
come in; the camera pans, and frames come at an uneven rate.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from vision_agent.agent import VisionAgent

SIZE = (304, 228)  # of a frame, width and height
_SURE = 0.9  # least score of an object that is cut out
_TALL, _SHORT = 0.55, 0.28  # most and least height or width of a cut-out, as a share of the frame's
_VISIBLE = 0.35  # an object of which less is visible is not asked for
_RATES = (1 / 24, 1 / 12)  # seconds between two frames, least and most


@dataclass(frozen=True)
class TrueBox:
    """Where an object is in a frame; `wanted` where enough of it is visible to be found."""

    object: int
    label: str
    xyxy: tuple[float, float, float, float]
    wanted: bool


@dataclass(frozen=True)
class ComposedVideo:
    """Frames, their times in seconds, and what is in each."""

    frames: tuple[Image.Image, ...]
    seconds: tuple[float, ...]
    truth: tuple[tuple[TrueBox, ...], ...]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class CutOut:
    """An object, RGBA, and the photo that it is from."""

    label: str
    image: Image.Image
    photo: int


def cut_outs(agent: VisionAgent, photos: Sequence[Path], labels: Sequence[str]) -> list[CutOut]:
    """Return the objects that the model outlines surely, from photos with whole objects of a good size."""
    found = []
    for number, photo in enumerate(photos):
        with Image.open(photo) as opened:
            image = opened.convert("RGB")
        for index, each in enumerate(segments := agent.segment(list(labels), image)):
            inside = min(each.box.x0, each.box.y0, image.width - each.box.x1, image.height - each.box.y1) > 1
            least = _SURE if each.label == "person" else _SURE - 0.12  # people stand before people more than dogs do
            if each.score >= least and inside and each.mask.area >= 4000:
                found.append(CutOut(each.label, segments.cutout(image, index), number))
    return found


def compose(cuts: Sequence[CutOut], photos: Sequence[Path], seed: int, count: int = 24) -> ComposedVideo:
    """Compose one video of `count` frames.

    Args:
        cuts: what moves.
        photos: what may lie behind; blurred, so that what is on them is not found.
        seed: the same seed gives the same video.
    """
    rng = np.random.default_rng((23, seed))
    chosen = [cuts[each] for each in rng.permutation(len(cuts))[: int(rng.integers(2, 5))]]
    used = {each.photo for each in chosen}
    free = [number for number in range(len(photos)) if number not in used] or list(range(len(photos)))
    with Image.open(photos[int(rng.choice(free))]) as opened:
        behind = opened.convert("RGB").resize((SIZE[0] * 5 // 4, SIZE[1] * 5 // 4)).filter(ImageFilter.GaussianBlur(5))
    sizes = [_size(each.image, float(rng.uniform(_SHORT, _TALL))) for each in chosen]
    pieces = [each.image.resize(size, Image.Resampling.LANCZOS) for each, size in zip(chosen, sizes, strict=True)]
    seconds = np.concatenate([[0.0], np.cumsum(rng.uniform(*_RATES, count - 1))])
    paths = [_path(rng, size, seconds) for size in sizes]
    pan = np.stack([rng.uniform(0, 1), rng.uniform(0, 1)]) * np.linspace(0, 1, count)[:, None]
    frames, truth = [], []
    for place in range(count):
        x, y = (pan[place] * (behind.width - SIZE[0], behind.height - SIZE[1])).astype(int)
        frame = behind.crop((x, y, x + SIZE[0], y + SIZE[1]))
        top = np.full((SIZE[1], SIZE[0]), -1)
        whole = []
        for number, piece in enumerate(pieces):
            left, upper = (round(float(side)) for side in paths[number][place])
            frame.paste(piece, (left, upper), piece)
            alpha = Image.new("L", SIZE)
            alpha.paste(piece.getchannel("A"), (left, upper))
            top[np.asarray(alpha) > 127] = number
            whole.append(int((np.asarray(piece.getchannel("A")) > 127).sum()))
        frames.append(frame)
        truth.append(
            tuple(
                TrueBox(number, chosen[number].label, box, bool((top == number).sum() >= _VISIBLE * whole[number]))
                for number in range(len(pieces))
                if (box := _box(paths[number][place], sizes[number])) is not None
            )
        )
    labels = tuple(dict.fromkeys(each.label for each in chosen))
    return ComposedVideo(tuple(frames), tuple(seconds.tolist()), tuple(truth), labels)


def _size(image: Image.Image, share: float) -> tuple[int, int]:
    scale = share * min(SIZE[0] / image.width, SIZE[1] / image.height) * 1.3
    return max(8, round(image.width * scale)), max(8, round(image.height * scale))


def _path(rng: np.random.Generator, size: tuple[int, int], seconds: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The left upper corner of an object at each time: across the frame, through it and back, or in from outside."""
    room = np.array(SIZE) - size
    start, end = rng.uniform(0, 1, 2) * room, rng.uniform(0, 1, 2) * room
    if rng.random() < 0.3:  # comes in, or leaves
        outside = np.array([-size[0] if rng.random() < 0.5 else SIZE[0], start[1]])
        start, end = (outside, end) if rng.random() < 0.5 else (start, outside)
    share = seconds / seconds[-1]
    if rng.random() < 0.3:  # turns back half way
        share = 1 - np.abs(1 - 2 * share)
    path: npt.NDArray[np.float64] = start + share[:, None] * (end - start)
    path[:, 1] += 6 * np.sin(2 * np.pi * seconds * rng.uniform(0.5, 1.5))
    return path


def _box(corner: npt.NDArray[np.float64], size: tuple[int, int]) -> tuple[float, float, float, float] | None:
    left, upper = (round(float(side)) for side in corner)
    x0, y0, x1, y1 = max(left, 0), max(upper, 0), min(left + size[0], SIZE[0]), min(upper + size[1], SIZE[1])
    return (float(x0), float(y0), float(x1), float(y1)) if x0 < x1 and y0 < y1 else None
