"""A sheet of what a model gets wrong, chosen by rule and not by hand.

    python -m vision_agent.evaluate.failures FOLDER OUT.jpg

Of the photos of a split that may be shown (licences without "non-commercial" and "no derivatives"), the first ones by
their id that show each kind of failure, at most one a photo: white is what was annotated, colour what was found.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from vision_agent.agent import VisionAgent
from vision_agent.data.samples import absent_phrases, present_phrases
from vision_agent.data.scene import Scene
from vision_agent.data.sources import CocoPhotos
from vision_agent.evaluate.asking import ABSENT_A_PHOTO, default_threshold, each
from vision_agent.evaluate.command import read_command
from vision_agent.geometry.frames import box_area, box_iou
from vision_agent.results.detections import Detections

KINDS = ("missed", "seen though absent", "in another place", "too many boxes")
_SHOWABLE = (4, 5, 7, 8)  # licence numbers of COCO: attribution, share-alike, no known restrictions, US government
_EACH = 4  # photos of each kind
_LEAST_AREA = 0.04  # of the photo: smaller objects are known to be missed
_RIGHT = 0.5  # intersection over union
_WIDTH, _HEIGHT, _LINE = 280, 240, 14  # pixels of a cell, and of a line under it


@dataclass(frozen=True)
class Failure:
    """One phrase that went wrong on one photo.

    Attributes:
        kind: one of `KINDS`.
        phrase: what was asked.
        number: the photo's COCO id.
        truth: annotated boxes (n, 4), xyxy pixels.
        found: what was given, by the default threshold.
    """

    kind: str
    phrase: str
    number: int
    image: Image.Image
    truth: NDArray[np.float32]
    found: Detections


def failures_on(agent: VisionAgent, scene: Scene, number: int) -> Iterator[Failure]:
    """Yield what goes wrong on one photo. Names that are annotated as a crowd somewhere are left out."""
    present = [target for target in present_phrases(scene) if not target.ignored]
    absent = absent_phrases(scene, np.random.default_rng(number), ABSENT_A_PHOTO)
    asked = [*present, *(target for target in absent if target.phrase in scene.known_names)]
    least = default_threshold(agent)
    for target, found in zip(asked, each(agent, [target.phrase for target in asked], scene), strict=True):
        truth = scene.boxes[list(target.owned)]
        shown = found.filter(min_score=least)
        if kind := kind_of(truth, shown, scene.image.size):
            yield Failure(kind, target.phrase, number, scene.image, truth, shown)


def kind_of(truth: NDArray[np.float32], found: Detections, size: tuple[int, int]) -> str | None:
    """Return which of `KINDS` an answer is; None for a right one, and for what is wrong in another way.

    Args:
        truth: boxes (n, 4) of the phrase, xyxy pixels.
        size: (width, height) of the photo, pixels.
    """
    if not len(truth):
        return "seen though absent" if len(found) else None
    if not len(found):
        large = np.asarray(box_area(truth)).max() >= _LEAST_AREA * size[0] * size[1]
        return "missed" if large else None
    overlap = np.asarray(box_iou(found.xyxy, truth)).reshape(len(found), len(truth))
    if overlap.max() < _RIGHT / 2:
        return "in another place"
    if len(truth) == 1 and len(found) > 1 and overlap.max() >= _RIGHT:
        return "too many boxes"
    return None


def first_failures(agent: VisionAgent, folder: Path, split: str) -> list[Failure]:
    """Return the first few of each kind, in the order of `KINDS`."""
    photos = CocoPhotos(folder, "coco_train_448")
    chosen: dict[str, list[Failure]] = {kind: [] for kind in KINDS}
    records = [record for record in photos.images(split) if record["license"] in _SHOWABLE]
    for record in tqdm(sorted(records, key=lambda record: int(record["id"])), desc="photos"):
        failures = failures_on(agent, photos.scene(record, colours=False), int(record["id"]))
        wanted = [failure for failure in failures if len(chosen[failure.kind]) < _EACH]
        if wanted:
            # The rarest kind first, so that no kind takes all photos.
            rarest = min(wanted, key=lambda failure: len(chosen[failure.kind]))
            chosen[rarest.kind].append(rarest)
        if all(len(failures) == _EACH for failures in chosen.values()):
            break
    return [failure for kind in KINDS for failure in chosen[kind]]


def draw_failures(failures: list[Failure]) -> Image.Image:
    """Draw a row for each kind of failure, each photo with what was asked."""
    rows = [[failure for failure in failures if failure.kind == kind] for kind in KINDS]
    height = _HEIGHT + 2 * _LINE + 8
    sheet = Image.new("RGB", (_EACH * (_WIDTH + 8), len(KINDS) * height), "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(12)
    for row, column in product(range(len(KINDS)), range(_EACH)):
        if column < len(rows[row]):
            failure = rows[row][column]
            x, y = column * (_WIDTH + 8) + 4, row * height + 4
            photo = _drawn(failure)
            photo.thumbnail((_WIDTH, _HEIGHT))
            sheet.paste(photo, (x, y))
            below = y + photo.height + 2
            pen.text((x, below), f'"{failure.phrase}": {failure.kind}', fill="black", font=font)
            pen.text((x, below + _LINE), f"COCO {failure.number}", fill="gray", font=font)
    return sheet


def _drawn(failure: Failure) -> Image.Image:
    photo = failure.found.draw(failure.image, labels=False)
    pen = ImageDraw.Draw(photo)
    for x0, y0, x1, y1 in failure.truth.tolist():
        pen.rectangle((x0, y0, x1, y1), outline="black", width=4)
        pen.rectangle((x0 + 1, y0 + 1, x1 - 1, y1 - 1), outline="white", width=2)
    return photo


def main() -> None:
    """Draw the sheet."""
    command = read_command("Draw a sheet of failures.")
    draw_failures(first_failures(command.agent, command.folder, command.split)).save(command.out, quality=85)


if __name__ == "__main__":
    main()
