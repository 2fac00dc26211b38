"""Figures of search: recall, chance and histograms, by hand."""

import numpy as np
import pytest
from PIL import Image

from vision_agent.evaluate.retrieval import LabelledPhoto, chance, histograms, recalls

BLANK = Image.new("RGB", (8, 8))


def photos(*names: str, asks: str = "") -> list[LabelledPhoto]:
    return [LabelledPhoto(BLANK, name, name in asks if asks else True) for name in names]


def test_recall_counts_those_who_ask_and_never_the_photo_itself() -> None:
    rows = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4], [0.5, 0.5]], dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    shown = photos("a", "b", "a", "b", "c", "c", "c")
    first, five, asked = recalls(rows, shown)
    # The nearest: 0-1, 1-0, 2-6, 3-1, 4-3, 5-4, 6-5; each a is the farthest of the other, the sixth.
    assert asked == 7 and first == pytest.approx(3 / 7) and five == pytest.approx(5 / 7)
    assert recalls(rows, photos("a", "b", "a", "b", "c", "c", "c", asks="c")) == (pytest.approx(2 / 3), 1.0, 3)


def test_chance_is_that_of_an_order_at_random() -> None:
    first, five = chance(photos("a", "a", *"bcdefgh", asks="a"))
    assert first == pytest.approx(1 / 8) and five == pytest.approx(5 / 8)


def test_histograms_compare_colours_alone() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    turned = Image.fromarray(np.ascontiguousarray(pixels[::-1, ::-1]))
    rows = histograms([Image.fromarray(pixels), turned, Image.new("RGB", (5, 5), "red"), BLANK])
    likeness = rows @ rows.T
    assert rows.shape == (4, 512) and np.diag(likeness) == pytest.approx(1, abs=1e-6)
    assert likeness[0, 1] == pytest.approx(1, abs=1e-6) and likeness[2, 3] == 0 and likeness[0, 2] < 0.5
