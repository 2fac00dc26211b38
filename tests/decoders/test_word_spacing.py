"""How recognised characters become words. No OCR engine."""

import numpy as np
import pytest

from vision_agent.decoders.ocr.lookalikes import plain_characters
from vision_agent.decoders.ocr.word_spacing import Glyphs, fit, ink_columns, split


def glyphs(text: str, gaps: list[float], space: list[float], pitch: float = 20.0) -> Glyphs:
    """Characters 12 px wide; `gaps` px of paper after each but the last; `space`: probability of a space there."""
    starts = np.zeros(len(text))
    for index, gap in enumerate(gaps):
        starts[index + 1] = starts[index] + 12 + gap
    ink = np.zeros(int(starts[-1]) + 12)
    for start in starts.astype(int):
        ink[start : start + 12] = 1.0
    return Glyphs(tuple(text), np.full(len(text), 0.9), starts, starts + 12, np.array(space), ink, 48)


def test_a_gap_that_the_recogniser_nearly_called_a_space_parts_words() -> None:
    gaps = [3.0] * 4 + [11.0] + [3.0] * 5
    likely = split(glyphs("TotalAmount"[:11], gaps, [0.001] * 4 + [0.3] + [0.001] * 5))
    assert [span.text for span in likely] == ["Total", "Amount"]
    assert (likely[0].start, likely[0].end) == (0, 72) and likely[1].start == 83
    unlikely = split(glyphs("TotalAmount"[:11], [3.0] * 10, [0.001] * 4 + [0.02] + [0.001] * 5))
    assert [span.text for span in unlikely] == ["TotalAmount"]


def test_a_gap_is_cut_at_its_widest_blank_and_not_beside_an_accent() -> None:
    gaps, space = [3.0] * 4 + [14.0] + [3.0] * 5, [0.001] * 4 + [0.6] + [0.001] * 5
    line = glyphs("TotalAmount"[:11], gaps, space)
    line.ink[74] = 1.0  # two columns behind the "l" that ends at 72; "A" begins at 86
    left, right = split(line)
    assert (left.text, left.end, right.start) == ("Total", 75, 86)


def test_letters_set_far_apart_are_one_word() -> None:
    spaced = split(glyphs("INVOICE", [14.0] * 6, [0.05] * 6))
    assert [span.text for span in spaced] == ["INVOICE"]


def test_the_weights_of_spacing_can_be_learned() -> None:
    generator = np.random.default_rng(0)
    rows = np.stack([np.ones(4000), generator.normal(size=4000), generator.normal(size=4000)], axis=1)
    chance = 1 / (1 + np.exp(-rows @ [-1.0, 2.0, 0.5]))
    assert fit(rows, generator.random(4000) < chance) == pytest.approx((-1.0, 2.0, 0.5), abs=0.2)


def test_ink_is_dark_on_light_and_light_on_dark() -> None:
    image = np.full((48, 40), 250, dtype=np.uint8)
    image[10:40, 12:18] = 20
    assert np.flatnonzero(ink_columns(image) > 0.5).tolist() == list(range(12, 18))
    assert np.flatnonzero(ink_columns(255 - image) > 0.5).tolist() == list(range(12, 18))


def test_wide_forms_become_plain_in_latin_lines_only() -> None:
    assert plain_characters(["N", "o", "\uff1a"]) == ("N", "o", ":")
    assert plain_characters(["\u53f7", "\uff1a"]) == ("\u53f7", "\uff1a")
