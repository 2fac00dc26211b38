"""Which answers count as which failure, and the sheet that shows them."""

import numpy as np
import pytest
from PIL import Image

from vision_agent import Detections
from vision_agent.evaluate.failures import KINDS, Failure, draw_failures, kind_of

SIZE = (200, 100)
DOG, FAR, SMALL = (10.0, 10.0, 60.0, 60.0), (120.0, 10.0, 170.0, 60.0), (5.0, 5.0, 15.0, 15.0)


def boxes(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array(rows, dtype=np.float32).reshape(-1, 4)


def found(*rows: tuple[float, ...]) -> Detections:
    return Detections.from_arrays(rows, [0.5] * len(rows), ["dog"] * len(rows), image_size=SIZE, model="drawn")


@pytest.mark.parametrize(
    ("truth", "answer", "kind"),
    [
        (boxes(DOG), found(), "missed"),
        (boxes(SMALL), found(), None),
        (boxes(), found(DOG), "seen though absent"),
        (boxes(), found(), None),
        (boxes(DOG), found(FAR), "in another place"),
        (boxes(DOG), found(DOG, (10.0, 10.0, 60.0, 30.0)), "too many boxes"),
        (boxes(DOG), found(DOG), None),
        (boxes(DOG, FAR), found(DOG, FAR), None),
    ],
)
def test_kinds_of_failures(truth: np.ndarray, answer: Detections, kind: str | None) -> None:
    assert kind_of(truth, answer, SIZE) == kind


def test_the_sheet_has_a_row_for_each_kind() -> None:
    photo = Image.new("RGB", SIZE, "gray")
    failures = [
        Failure(KINDS[0], "dog", 7, photo, boxes(DOG), found()),
        Failure(KINDS[2], "dog", 9, photo, boxes(DOG), found(FAR)),
    ]
    pixels = np.asarray(draw_failures(failures)).astype(int)
    rows = np.array_split(pixels, len(KINDS))
    drawn = [bool((abs(row - 255).sum(axis=2) > 60).any()) for row in rows]
    assert drawn == [True, False, True, False]
