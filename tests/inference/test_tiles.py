"""Big and long images are looked at in tiles as well; each object is found once, whole where tiles cut it."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from conftest import PHOTOS
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from vision_agent import Box, Detections, InputError, Segmentation, VisionAgent, load_image
from vision_agent.geometry.frames import TileGrid, box_iou
from vision_agent.inference.tile_layout import tiles_of
from vision_agent.inference.tile_merging import join_views

DOG = load_image(PHOTOS / "000000139872.jpg")
AT = 2777  # where the dog's photo is in the panorama
TRUTH = (114 + AT, 56, 487 + AT, 436)
STREETS = ("000000140203", "000000142472", "000000148719", "000000274272", "000000423617")  # without a dog


def one_view(width: int, height: int) -> TileGrid:
    """How the default sees images."""
    return TileGrid.for_image(width, height, max_tiles=1)


def own_tiles(width: int, height: int) -> TileGrid:
    """How InternVL sees images, in up to twelve tiles of its own."""
    return TileGrid.for_image(width, height)


@pytest.fixture(scope="module")
def panorama() -> Image.Image:
    """6000 x 480: streets side by side, and a dog in full size."""
    whole = Image.new("RGB", (6000, 480))
    at = 0
    while at < whole.width:
        street = load_image(PHOTOS / f"{STREETS[at % len(STREETS)]}.jpg")
        street = street.resize((round(street.width * 480 / street.height), 480))
        whole.paste(street, (at, 0))
        at += street.width
    whole.paste(DOG, (AT, 0))
    return whole


# --- where tiles are -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "count"),
    [
        ((640, 480), 0),
        ((1920, 1080), 0),
        ((6000, 480), 11),
        ((480, 6000), 11),
        ((4000, 3000), 12),
        ((1600, 200), 7),
        ((8, 5000), 0),
        ((1, 1), 0),
    ],
)
def test_tiles_are_where_the_image_is_much_larger_than_the_view(size: tuple[int, int], count: int) -> None:
    assert len(tiles_of(size, None, one_view)) == count
    assert tiles_of(size, False, one_view) == tiles_of(size, 1, one_view) == []


def test_a_model_that_cuts_images_itself_is_not_doubled() -> None:
    for size in ((6000, 480), (480, 6000), (4000, 3000), (8000, 6000)):
        assert tiles_of(size, None, own_tiles, 12) == []
    some = tiles_of((30000, 480), None, own_tiles, 12)  # beyond what twelve tiles show
    assert 2 <= len(some) <= 5


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(8, 20000), st.integers(8, 20000)),
    st.one_of(st.none(), st.just(True), st.integers(2, 40)),
)
@example((640, 480), True)
@example((10, 20000), 40)
def test_tiles_cover_the_image_and_overlap(size: tuple[int, int], asked: Any) -> None:
    tiles = tiles_of(size, asked, one_view)
    assert len(tiles) <= (32 if asked in (None, True) and not (asked == 1 and asked is not True) else asked)
    if not tiles:
        return
    boxes = np.array(tiles)
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= size).all() and (boxes[:, 2:] > boxes[:, :2]).all()
    for axis in (0, 1):
        spans = sorted({(int(box[axis]), int(box[axis + 2])) for box in boxes})
        assert spans[0][0] == 0 and spans[-1][1] == size[axis]
        assert all(start < end for (_, end), (start, _) in pairwise(spans))


# --- what is put together --------------------------------------------------------------------------------------------


def seen_in(tiles: list[Any], objects: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """What a perfect detector says of objects in every tile: the part inside, where at least a third is."""
    boxes, views = [], []
    for view, (x0, y0, x1, y1) in enumerate(tiles, start=1):
        for box in objects:
            part = [max(box[0], x0), max(box[1], y0), min(box[2], x1), min(box[3], y1)]
            area = max(part[2] - part[0], 0) * max(part[3] - part[1], 0)
            if area >= (box[2] - box[0]) * (box[3] - box[1]) / 3:
                boxes.append(part)
                views.append(view)
    return np.array(boxes, dtype=np.float64).reshape(-1, 4), views


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**9), st.sampled_from([(6000, 480), (480, 6000), (4000, 3000)]))
def test_objects_that_tiles_cut_are_whole_and_there_once(seed: int, size: tuple[int, int]) -> None:
    random = np.random.default_rng(seed)
    tiles = tiles_of(size, None, one_view)
    across = min(size) // 2
    # One object in each cell of a grid, so that none overlaps another.
    objects = []
    for left in range(0, size[0] - across + 1, across):
        for top in range(0, size[1] - across + 1, across):
            low = np.array([left, top]) + random.integers(0, across // 3, 2)
            objects.append([*low, *(low + random.integers(across // 4, across // 2, 2))])
    truth = np.array(objects, dtype=np.float64)
    boxes, views = seen_in(tiles, truth)
    scores = random.uniform(0.3, 1.0, len(boxes))
    joined = join_views(boxes, scores, views, tiles, size)
    hulls = np.array([[*boxes[rows, :2].min(0), *boxes[rows, 2:].max(0)] for rows in joined])
    iou = box_iou(truth, hulls)
    assert len(joined) == len(truth)
    assert (iou.max(axis=1) > 0.6).all()  # less than a third of an object in the next tile tells nobody where it ends
    assert (iou.max(axis=1) > 0.99).mean() >= 0.5
    best = [max(scores[rows]) for rows in joined]
    assert best == sorted(best, reverse=True)


def test_a_part_that_is_drawn_too_large_is_no_object() -> None:
    """What a model made of a dog's head at the border of a tile, beside the whole dog."""
    tiles = tiles_of((3000, 480), None, one_view)
    boxes = np.array([[1969.0, 32, 2081, 175], [2039, 62, 2394, 432], [1376, 300, 1500, 440]])
    scores = np.array([0.8, 0.75, 0.5])
    assert tiles[3][2] == 2082
    assert join_views(boxes, scores, [4, 5, 3], tiles, (3000, 480)) == [[1], [2]]


def test_nothing_found_is_nothing_joined() -> None:
    assert join_views(np.zeros((0, 4)), np.zeros(0), [], tiles_of((6000, 480), None, one_view), (6000, 480)) == []


def test_the_whole_image_shows_what_no_tile_holds() -> None:
    tiles = tiles_of((6000, 480), None, one_view)
    train = np.array([[100.0, 100, 5900, 400]])
    boxes, views = np.concatenate([train, [[600, 100, 1320, 400]]]), [0, 2]
    assert join_views(boxes, np.array([0.8, 0.7]), views, tiles, (6000, 480)) == [[0]]


# --- the model that ships --------------------------------------------------------------------------------------------


def test_a_dog_in_a_panorama_is_found_once(agent: VisionAgent, panorama: Image.Image) -> None:
    assert len(agent.detect("dog", panorama, tiles=False)) == 0
    found = agent.detect(["dog", "frisbee"], panorama)
    assert found.labels == ["dog", "frisbee"] and found.tiles == 11
    assert found[0].box.iou(Box.from_xyxy(TRUTH)) > 0.75
    assert "6000x480 in 11 tiles" in repr(found)
    assert Detections.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize("verb", ["segment", "point", "count", "run"])
def test_every_verb_that_finds_looks_in_tiles(agent: VisionAgent, panorama: Image.Image, verb: str) -> None:
    dog = Box.from_xyxy(TRUTH)
    if verb == "segment":
        segments = agent.segment("dog", panorama)
        assert len(segments) == 1 and segments.tiles == segments.detections.tiles == 11
        mask = segments[0].mask
        assert mask.box is not None and mask.box.iou(dog) > 0.7 and mask.size == (480, 6000)
        alone = agent.segment("dog", DOG)[0].mask.to_array()
        placed = np.zeros((480, 6000), dtype=np.bool_)
        placed[:, AT : AT + 640] = alone
        both = placed & mask.to_array()
        assert both.sum() / (placed | mask.to_array()).sum() > 0.7
    elif verb == "point":
        (point,) = agent.point("dog", panorama)
        assert TRUTH[0] < point.x < TRUTH[2] and TRUTH[1] < point.y < TRUTH[3]
    elif verb == "count":
        count = agent.count("dog", panorama)
        assert count.count == 1 and count.evidence.tiles == 11
    else:
        (route,) = agent.run("where is the dog?", panorama).routes
        assert route.detections is not None and route.detections.tiles == 11
        assert [each.box.iou(dog) > 0.75 for each in route.detections] == [True]


@pytest.mark.parametrize("size", [(480, 3000), (2600, 1950)])
def test_tall_and_large_images(agent: VisionAgent, size: tuple[int, int]) -> None:
    whole = Image.new("RGB", size, (96, 110, 96))
    dog = DOG.crop((60, 0, 540, 480))  # as wide as the tall image
    whole.paste(dog, (size[0] - 480, 1200))
    (found,) = (result := agent.detect("dog", whole))
    assert result.tiles > 1
    left = size[0] - 480 - 60
    assert found.box.iou(Box.from_xyxy((114 + left, 56 + 1200, 487 + left, 436 + 1200))) > 0.75


def test_what_is_not_there_is_not_found_in_any_tile(agent: VisionAgent, panorama: Image.Image) -> None:
    names = ["zebra", "toilet", "bed", "sheep", "oven", "surfboard", "keyboard", "cow", "scissors", "sink"]
    found = agent.detect(names, panorama)
    assert len(set(found.labels)) <= 1, found


def test_a_photo_is_looked_at_once_and_as_before(agent: VisionAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    tiles = []
    see = agent.backbone.see
    monkeypatch.setattr(agent.backbone, "see", lambda some: tiles.append(len(some)) or see(some))
    agent.clear_cache()
    found = agent.detect("dog", DOG)
    assert tiles == [1] and found.tiles == 0 and "tiles" not in repr(found)
    assert found == agent.detect("dog", DOG, tiles=False)
    asked = agent.detect("dog", DOG, tiles=np.int64(4))
    assert asked.tiles == 4 and asked[0].box.iou(found[0].box) > 0.8


@pytest.mark.parametrize("tiles", [0, -1, 257, 2.5, "all", np.bool_(True), float("nan"), [4]])
def test_bad_tiles(agent: VisionAgent, tiles: Any) -> None:
    verbs: list[Callable[..., Any]] = [agent.detect, agent.segment, agent.point, agent.count]
    for verb in verbs:
        with pytest.raises(InputError, match="`tiles` must be None, True, False or a whole number from 1 to 256"):
            verb("dog", DOG, tiles=tiles)


def test_results_of_before_have_no_tiles() -> None:
    old = '{"detections": [], "image_size": [4, 4], "model": "m"}'
    assert Detections.model_validate_json(old).tiles == 0
    assert Segmentation.empty((4, 4), "m").tiles == 0
