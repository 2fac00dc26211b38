"""Fills in what nobody marked: boxes that stronger detectors gave, with how sure they were.

`pseudo/NAME.jsonl.gz` beside the archive `NAME.zip` has one line an image: `{"file", "size", "boxes"}`, each box
`[class, score, x1, y1, x2, y2]` in pixels of the stored image; `pseudo/names.json` has the names by class. People's
boxes stay the truth where they exist. What detectors are fairly sure of becomes an object, the rest is neither there
nor absent.
"""

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vision_agent.data.scene import ANYTHING, Scene
from vision_agent.errors import ConfigError
from vision_agent.geometry.frames import box_iou

_DOUBTFUL = 0.2  # from this score on a box is neither an object nor background
_UNNAMED = 0.3  # and from this on an object, where its name is not to be believed
_ABSENT = 0.1  # a name is absent where no box of it has this score
_SAME_OBJECT = 0.5  # IoU with a box of people's
_SAME_BOX = 0.65  # IoU of two soft boxes with different names


class SoftBox(NamedTuple):
    """One detector's box: name, score, and xyxy in pixels."""

    name: str
    score: float
    xyxy: NDArray[np.float32]


class SoftLabels:
    """The soft labels of one archive.

    Args:
        folder: the training archives.
        archive: name without its ending.
        named_from: least score at which a box is an object of its name. Boxes from 0.3 up to it, if it is above 0.4,
            are objects without a name: archives that show mostly what the detectors have no name for.
        left_out: names that nothing may be learned about: their boxes are neither there nor absent, and images on
            which one is an object are not listed.

    Raises:
        ConfigError: no soft labels for this archive.
    """

    def __init__(
        self, folder: Path, archive: str, named_from: float = 0.4, left_out: frozenset[str] = frozenset()
    ) -> None:
        path = folder / "pseudo" / f"{archive}.jsonl.gz"
        if not path.is_file():
            raise ConfigError(f"soft labels {str(path)!r} are not there")
        self.names: tuple[str, ...] = tuple(json.loads((folder / "pseudo" / "names.json").read_text("utf-8")))
        self._named_from, self._left_out = named_from, left_out
        self._unnamed_from = _UNNAMED if named_from > 0.4 else named_from
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            self._boxes = {line["file"]: line["boxes"] for line in map(json.loads, lines)}

    def files(self) -> list[str]:
        """Return all files that have soft labels, sorted."""
        return sorted(file for file in self._boxes if not self.shows_left_out(file))

    def shows_left_out(self, file: str) -> bool:
        """Return whether an image is fairly sure to show a name that is left out."""
        return any(name in self._left_out and score >= self._unnamed_from for name, score, _ in self.of(file))

    def of(self, file: str) -> list[SoftBox]:
        """Return the boxes of an image, best first."""
        return [
            SoftBox(self.names[int(kind)], float(score), np.array(box, dtype=np.float32))
            for kind, score, *box in self._boxes.get(file, ())
        ]

    def completed(self, scene: Scene, file: str) -> Scene:
        """Return the scene with what nobody marked.

        Boxes on one that people marked say nothing new. Elsewhere, a name that people marked wherever it occurs is
        doubtful; others become objects, as sure as the detectors were.
        """
        boxes, names, sure = list(scene.boxes), list(scene.names), list(scene.sureness)
        crowds = list(scene.crowds)
        soft: list[NDArray[np.float32]] = []
        found = self.of(file)
        for name, score, box in found:
            if score < _DOUBTFUL or _overlap(box, scene.boxes) >= _SAME_OBJECT:
                continue
            if _overlap(box, soft) >= _SAME_BOX:
                crowds.append((box, name))  # a second name for one object: not denied
            elif name in scene.known_names | self._left_out or score < self._unnamed_from:
                crowds.append((box, ANYTHING))
            else:
                soft.append(box)
                boxes.append(box)
                names.append(name if score >= self._named_from else ANYTHING)
                sure.append(_sureness(score))
        named = {name for name in names if name != ANYTHING}
        hinted = {name for name, score, _ in found if score >= _ABSENT}
        return replace(
            scene,
            boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
            names=tuple(names),
            colours=(*scene.colours, *(None for _ in soft)),
            crowds=tuple(crowds),
            known_names=scene.known_names | (set(self.names) - hinted - self._left_out) | named,
            sure=tuple(sure),
        )


def _sureness(score: float) -> float:
    """About how often a box of this score is right, measured where people's boxes are known."""
    return min(1.0, score + 0.25)


def _overlap(box: NDArray[np.float32], others: NDArray[np.float32] | list[NDArray[np.float32]]) -> float:
    """The largest IoU with any of the others."""
    return float(np.asarray(box_iou(box[None], np.reshape(others, (-1, 4)))).max(initial=0.0))
