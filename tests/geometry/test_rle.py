"""Masks: there and back, COCO's own numbers and text, outlines that enclose exactly the mask."""

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask as coco
from hypothesis import given, settings
from hypothesis import strategies as st
from random_masks import masks
from torch.nn import functional as F

from vision_agent.errors import InputError
from vision_agent.geometry.rle import (
    Bools,
    Ring,
    RunLengths,
    counts_text,
    mask_iou,
    mask_polygons,
    mask_union,
    polygons_to_mask,
)


def encoded(mask: Bools) -> dict[str, Any]:
    found: dict[str, Any] = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return found


def text_of(rle: dict[str, Any]) -> str:
    return rle["counts"].decode() if isinstance(rle["counts"], bytes) else rle["counts"]


@given(masks())
def test_there_and_back_as_coco(mask: Bools) -> None:
    runs = RunLengths.from_mask(mask)
    official = encoded(mask)
    assert runs.text == text_of(official) and runs.size == tuple(official["size"])
    for again in (
        RunLengths.from_text(runs.text, mask.shape),
        RunLengths.from_counts(runs.counts, mask.shape),
        RunLengths.from_counts(runs.counts.tolist(), mask.shape),
    ):
        assert (again.to_mask() == mask).all() and again.to_mask().dtype == np.bool_
        assert again.text == runs.text
    assert (coco.decode({"size": list(runs.size), "counts": runs.text.encode()}) == mask).all()
    assert runs.counts.sum() == mask.size and (runs.counts[1:] > 0).all()


@given(masks())
def test_area_and_box_as_coco(mask: Bools) -> None:
    runs = RunLengths.from_mask(mask)
    assert runs.area == mask.sum() == coco.area(encoded(mask))
    if not mask.any():
        assert runs.box is None
        return
    x, y, width, height = coco.toBbox(encoded(mask))
    assert runs.box == (x, y, x + width, y + height)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert runs.box == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)


@given(st.data(), st.integers(1, 12), st.integers(1, 12))
def test_iou_and_union_as_coco(data: st.DataObject, height: int, width: int) -> None:
    drawn = data.draw(st.lists(masks(size=(height, width)), min_size=2, max_size=4))
    runs = [RunLengths.from_mask(mask) for mask in drawn]
    official = [encoded(mask) for mask in drawn]
    iou = mask_iou(runs[:2], runs)
    assert iou.shape == (2, len(runs))
    some = [[a.any() or b.any() for b in drawn] for a in drawn[:2]]
    assert iou[np.array(some)] == pytest.approx(np.array(coco.iou(official[:2], official, [0] * len(runs)))[some])
    assert not iou[~np.array(some)].any()  # two empty masks
    together = mask_union(runs)
    assert (together.to_mask() == np.any(drawn, axis=0)).all()
    assert together.text == RunLengths.from_mask(np.any(drawn, axis=0)).text == text_of(coco.merge(official))


def test_masks_of_two_sizes_do_not_mix() -> None:
    a, b = RunLengths.from_mask(np.ones((2, 3), bool)), RunLengths.from_mask(np.ones((3, 2), bool))
    for call in (lambda: mask_iou([a], [b]), lambda: mask_union([a, b])):
        with pytest.raises(InputError, match="`masks` must be of one size"):
            call()
    with pytest.raises(InputError, match="`masks` must be at least one"):
        mask_union([])
    assert mask_iou([], [a]).shape == (0, 1)


# --- the text -------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 5_000_000), min_size=1, max_size=40))
def test_text_of_any_runs_as_coco(counts: list[int]) -> None:
    """Runs far longer and more uneven than those of small masks; runs of no pixels are merged first."""
    total = max(1, sum(counts))
    counts = counts if sum(counts) else [1]
    runs = RunLengths.from_counts(counts, (1, total))
    canonical = runs.counts.tolist()
    assert runs.text == text_of(coco.frPyObjects({"size": [1, total], "counts": canonical}, 1, total))
    assert RunLengths.from_text(runs.text, (1, total)).counts.tolist() == canonical
    assert counts_text(counts) == counts_text(runs.text) == counts_text(runs.text.encode()) == runs.text
    inside = sum(counts[1::2])
    assert runs.area == inside and all(count > 0 for count in canonical[1:])


@pytest.mark.parametrize(
    ("counts", "same"),
    [([3, 0, 2, 5], [5, 5]), ([0, 0, 4, 6], [4, 6]), ([0, 10, 0], [0, 10]), ([0, 3, 0, 7], [0, 10]), ([10, 0], [10])],
)
def test_runs_of_no_pixels_are_merged(counts: list[int], same: list[int]) -> None:
    assert RunLengths.from_counts(counts, (2, 5)).counts.tolist() == same


@pytest.mark.parametrize("text", ["", "P", "5~", "5é", "5 5", "5/", "P" * 9 + "1", "5\n"])
def test_damaged_text_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="`counts` must be"):
        RunLengths.from_text(text, (2, 5))


@pytest.mark.parametrize(
    "counts", [[], [11], [9], [-1, 11], [5.0, 5.0], [[5, 5]], ["5", "5"], [2**62, 2**62, 2**63 - 1]]
)
def test_counts_that_are_no_runs_of_the_mask_are_refused(counts: Any) -> None:
    with pytest.raises(InputError, match="`counts` must be"):
        RunLengths.from_counts(counts, (2, 5))


@pytest.mark.parametrize("mask", [np.ones((2, 2)), np.ones(4, bool), np.zeros((0, 3), bool), [[1, 0]]])
def test_what_is_no_mask_is_refused(mask: Any) -> None:
    with pytest.raises(InputError, match="`mask` must be bools"):
        RunLengths.from_mask(mask)


def test_a_large_mask_is_small_as_text() -> None:
    y, x = np.mgrid[:3000, :4000]
    runs = RunLengths.from_mask((x - 2000) ** 2 + (y - 1500) ** 2 < 1_000_000)
    assert runs.area == pytest.approx(np.pi * 1_000_000, rel=1e-3) and runs.box == (1001, 501, 3000, 2500)
    assert len(json.dumps(runs.text)) < 20_000


# --- parts and sizes ------------------------------------------------------------------------------------------------


@given(masks(), st.data())
def test_a_part_is_cropped_without_the_rest(mask: Bools, data: st.DataObject) -> None:
    height, width = mask.shape
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x1, y1 = data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height))
    assert (RunLengths.from_mask(mask).cropped((x0, y0, x1, y1)) == mask[y0:y1, x0:x1]).all()


@given(masks(), st.integers(1, 6), st.integers(1, 6))
def test_resized_to_whole_multiples_and_back(mask: Bools, tall: int, wide: int) -> None:
    runs = RunLengths.from_mask(mask)
    height, width = mask.shape
    larger = runs.resized((height * tall, width * wide))
    assert (larger.to_mask() == np.kron(mask, np.ones((tall, wide), bool))).all()
    assert larger.resized((height, width)).text == runs.text
    with pytest.raises(InputError, match="`size` must be a positive"):
        runs.resized((0, 4))


@pytest.mark.parametrize(
    ("old", "new", "taken"),
    [
        (2, 3, [0, 1, 1]),  # middles at 0.33, 1.0 (of two equally near the later one), 1.67
        (4, 6, [0, 1, 1, 2, 3, 3]),
        (3, 2, [0, 2]),
        (6, 4, [0, 2, 3, 5]),
        (5, 1, [2]),
        (2, 5, [0, 0, 1, 1, 1]),
    ],
)
def test_resizing_takes_the_pixel_under_each_middle(old: int, new: int, taken: list[int]) -> None:
    mask = np.eye(old, dtype=bool)
    runs = RunLengths.from_mask(mask)
    assert np.array_equal(runs.resized((new, old)).to_mask(), mask[taken])
    assert np.array_equal(runs.resized((old, new)).to_mask(), mask[:, taken])
    assert np.array_equal(runs.resized((new, new)).to_mask(), mask[np.ix_(taken, taken)])


def test_a_part_that_begins_and_ends_where_runs_do() -> None:
    mask = np.zeros((4, 6), dtype=bool)
    mask[:, 1:3] = mask[:, 5] = True  # whole columns: each run begins at the head of one
    runs = RunLengths.from_mask(mask)
    for x0 in range(6):
        for x1 in range(x0 + 1, 7):
            assert np.array_equal(runs.cropped((x0, 1, x1, 4)), mask[1:4, x0:x1])


def test_what_is_just_the_threshold_is_outside() -> None:
    logits = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    assert RunLengths.from_logits(logits, (2, 2)).to_mask().tolist() == [[True, False], [False, True]]
    assert RunLengths.from_logits(logits + 0.5, (2, 2), threshold=0.5).area == 2


def test_nothing_lies_outside_what_it_is_kept_within() -> None:
    logits = np.ones((5, 5), np.float32)
    mask = RunLengths.from_logits(logits, (40, 60), box=(2, 3, 50, 35), within=(10.4, 5.6, 30.5, 20.5)).to_mask()
    expected = np.zeros((40, 60), dtype=bool)
    expected[6:20, 10:30] = True  # pixels whose middles lie from 10.4 to 30.5 and from 5.6 to 20.5
    assert np.array_equal(mask, expected)


@settings(max_examples=150)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 70), st.integers(1, 70), st.integers(0, 999))
def test_logits_become_the_mask_that_torch_would_enlarge(h: int, w: int, height: int, width: int, seed: int) -> None:
    source = np.random.default_rng(seed)
    logits = source.normal(source.choice([-2.0, 0.0, 2.0]), 1, (h, w)).astype(np.float32)
    large = F.interpolate(torch.tensor(logits)[None, None], (height, width), mode="bilinear", align_corners=False)
    for threshold in (0.0, 0.7):
        found = RunLengths.from_logits(logits, (height, width), threshold=threshold)
        assert found.size == (height, width)
        expected = large[0, 0].numpy() - threshold
        clear = np.abs(expected) > 1e-5
        assert (found.to_mask() == (expected > 0))[clear].all()
        assert RunLengths.from_mask(found.to_mask()).text == found.text


def test_logits_are_enlarged_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = np.random.default_rng(0).normal(size=(9, 7)).astype(np.float32)
    whole = RunLengths.from_logits(logits, (60, 50))
    for pixels in (1, 100, 250, 2999):
        monkeypatch.setattr("vision_agent.geometry.rle._PIXELS_AT_ONCE", pixels)
        assert RunLengths.from_logits(logits, (60, 50)).text == whole.text
    full = RunLengths.from_logits(np.ones((3, 3), np.float32), (60, 50))
    assert full.area == 3000 and full.counts.tolist() == [0, 3000]
    assert RunLengths.from_logits(-np.ones((3, 3), np.float32), (60, 50)).area == 0


# --- outlines -------------------------------------------------------------------------------------------------------


def signed_area(ring: Ring) -> float:
    x, y = ring.T
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2


@given(masks())
def test_outlines_enclose_exactly_the_mask(mask: Bools) -> None:
    polygons = mask_polygons(mask)
    assert (polygons_to_mask(polygons, mask.shape) == mask).all()
    covered = np.zeros(mask.shape, dtype=int)
    for outer, *holes in polygons:
        assert signed_area(outer) > 0 and all(signed_area(hole) < 0 for hole in holes)
        part = polygons_to_mask([[outer, *holes]], mask.shape)
        assert part.sum() == signed_area(outer) + sum(signed_area(hole) for hole in holes)  # holes lie in their part
        covered += part
        for ring in (outer, *holes):
            steps = np.diff(ring, axis=0, append=ring[:1])
            assert ((steps != 0).sum(1) == 1).all(), "level and upright lines"
            assert all((a != 0).tolist() != (b != 0).tolist() for a, b in pairwise(steps)), "corners only"
    assert (covered == mask).all(), "each pixel is in one part"


@given(masks())
def test_parts_are_the_connected_ones(mask: Bools) -> None:
    parts = [polygons_to_mask([polygon], mask.shape) for polygon in mask_polygons(mask)]
    owner = np.zeros(mask.shape, dtype=int)
    for number, part in enumerate(parts, start=1):
        owner[part] = number
    beside = mask[:, 1:] & mask[:, :-1]
    below = mask[1:] & mask[:-1]
    assert (owner[:, 1:] == owner[:, :-1])[beside].all() and (owner[1:] == owner[:-1])[below].all()
    assert len(parts) == _components(mask)


def _components(mask: Bools) -> int:
    """Connected parts, counted by spreading the smallest number."""
    number = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), mask.size + 1)
    while True:
        spread = np.pad(number, 1, constant_values=mask.size + 1)
        least = np.minimum.reduce([number, spread[:-2, 1:-1], spread[2:, 1:-1], spread[1:-1, :-2], spread[1:-1, 2:]])
        least = np.where(mask, least, mask.size + 1)
        if (least == number).all():
            return len(np.unique(number[mask]))
        number = least


def test_holes_belong_to_the_part_around_them() -> None:
    image = """
        ###########....
        #.........#.###
        #.#######.#.#.#
        #.#..#..#.#.###
        #.#..#..#.#....
        #.#######.#....
        #.........#....
        ###########....
    """
    rows = image.split()
    mask = np.array([[cell == "#" for cell in row] for row in rows])
    polygons = mask_polygons(mask, origin=(100, 200))
    assert [len(polygon) - 1 for polygon in polygons] == [1, 1, 2]
    ring, small, inner = polygons
    assert ring[0].tolist() == [[100, 200], [111, 200], [111, 208], [100, 208]]
    assert small[0].min(0).tolist() == [112, 201] and small[1].min(0).tolist() == [113, 202]
    assert inner[0].min(0).tolist() == [102, 202]
    assert {tuple(hole.min(0)) for hole in inner[1:]} == {(103, 203), (106, 203)}


def test_pixels_that_touch_at_a_corner_are_two_parts() -> None:
    mask = np.array([[True, False], [False, True]])
    assert [ring.tolist() for (ring,) in mask_polygons(mask)] == [
        [[0, 0], [1, 0], [1, 1], [0, 1]],
        [[1, 1], [2, 1], [2, 2], [1, 2]],
    ]
    assert mask_polygons(np.zeros((3, 3), bool)) == []


def test_any_polygon_takes_the_pixels_whose_middles_it_covers() -> None:
    triangle = [(0, 0), (8, 0), (0, 8)]
    y, x = np.mgrid[:9, :9] + 0.5
    assert (polygons_to_mask([[triangle]], (9, 9)) == (x + y < 8)).all()
    hole = [(1, 1), (3, 1), (3, 3), (1, 3)]
    with_hole = polygons_to_mask([[triangle, hole]], (9, 9))
    assert not with_hole[1:3, 1:3].any() and with_hole.sum() == (x + y < 8).sum() - 4
    overlapping = polygons_to_mask([[hole], [[(2, 2), (5, 2), (5, 5), (2, 5)]]], (9, 9))
    assert overlapping.sum() == 4 + 9 - 1, "several polygons are joined"
    outside = polygons_to_mask([[[(-5, -5), (20, -5), (20, 4), (-5, 4)]]], (9, 9))
    assert outside[:4].all() and not outside[4:].any()
    assert not polygons_to_mask([], (3, 3)).any() and not polygons_to_mask([[]], (3, 3)).any()


@pytest.mark.parametrize("ring", [[(0, 0), (1, 1)], [1, 2, 3, 4], [(0, 0, 0)] * 3, [(0, 0), (1, 0), (float("nan"), 1)]])
def test_rings_that_are_none_are_refused(ring: Any) -> None:
    with pytest.raises(InputError, match=r"`polygons\[0\]\[0\]` must be"):
        polygons_to_mask([[ring]], (4, 4))
