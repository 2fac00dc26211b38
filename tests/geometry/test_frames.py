"""Coordinates: every frame there and back, on every shape of image, and against the official tiling."""

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vision_agent.errors import InputError
from vision_agent.geometry import frames as geo
from vision_agent.geometry.frames import Frame, TileGrid

WHOLE_FRAMES: tuple[Frame, ...] = tuple(frame for frame in get_args(Frame) if frame != "tile")
modest = settings(max_examples=60, deadline=None)

sizes = st.one_of(
    st.tuples(st.integers(1, 5000), st.integers(1, 3000)),
    st.sampled_from([(1, 1), (1, 3000), (5000, 1), (5000, 3000), (448, 448), (449, 447), (3, 2), (1333, 799)]),
)
fractions = st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=1, max_size=8)
grids = st.builds(
    lambda size, columns, rows, tile_size, cells, thumbnail: TileGrid(
        *size, columns, rows, tile_size, cells, thumbnail
    ),
    sizes,
    st.integers(1, 6),
    st.integers(1, 6),
    st.sampled_from([1, 14, 224, 448]),
    st.sampled_from([1, 7, 16, 32]),
    st.booleans(),
)


def boxes_on(size: tuple[int, int], parts: list[tuple[float, ...]]) -> np.ndarray:
    """Boxes float64 (n, 4) inside the image, from numbers in 0..1."""
    corners = np.array(parts) * [*size, *size]
    return np.concatenate([np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])], 1)


# --- frames ---------------------------------------------------------------------------------------------------------


@modest
@given(grids, fractions, st.sampled_from(WHOLE_FRAMES), st.sampled_from(WHOLE_FRAMES))
def test_there_and_back(grid, parts, source, target):
    boxes = boxes_on((grid.image_width, grid.image_height), parts)
    there = grid.convert(grid.convert(boxes, "image", source), source, target)
    np.testing.assert_allclose(grid.convert(there, target, "image"), boxes, atol=1e-6)
    np.testing.assert_allclose(there, grid.convert(boxes, "image", target), atol=1e-6)  # the way does not matter
    width, height = grid.frame_size(target)
    assert (there >= 0).all() and (there <= np.array([width, height] * 2) * (1 + 1e-12)).all()
    points = grid.convert(boxes.reshape(-1, 2, 2), "image", target)
    np.testing.assert_allclose(points.reshape(-1, 4), grid.convert(boxes, "image", target))


@modest
@given(grids, fractions, st.data())
def test_there_and_back_by_any_tile(grid, parts, data):
    boxes = boxes_on((grid.image_width, grid.image_height), parts)
    for tile in (
        data.draw(st.integers(0, grid.tile_count - 1)),
        np.array(data.draw(st.lists(st.integers(0, grid.tile_count - 1), min_size=len(parts), max_size=len(parts)))),
    ):
        in_tile = grid.convert(boxes, "image", "tile", tile=tile)
        np.testing.assert_allclose(grid.convert(in_tile, "tile", "image", tile=tile), boxes, atol=1e-6)
        np.testing.assert_allclose(grid.convert(in_tile, "tile", "tile", tile=tile), in_tile, atol=1e-6)


@modest
@given(grids, fractions)
def test_float32_comes_back_within_half_a_pixel(grid, parts):
    boxes = boxes_on((grid.image_width, grid.image_height), parts).astype(np.float32)
    for frame in WHOLE_FRAMES:
        back = grid.convert(grid.convert(boxes, "image", frame), frame, "image")
        assert back.dtype == np.float32
        assert np.abs(back - boxes).max() < 0.01


@modest
@given(sizes, fractions)
def test_thousand_ints_are_off_by_half_a_step_at_most(size, parts):
    boxes = boxes_on(size, parts)
    written = geo.to_thousand_ints(boxes, size)
    assert written.dtype == np.int64 and written.min() >= 0 and written.max() <= 1000
    error = np.abs(geo.from_thousand(written, size) - boxes)
    assert (error <= np.array([*size, *size]) * 0.5 / 1000 + 1e-9).all()
    assert (geo.to_thousand_ints(geo.from_thousand(written, size), size) == written).all()  # what is written stays
    np.testing.assert_allclose(geo.from_thousand(geo.to_thousand(boxes, size), size), boxes, atol=1e-6)
    np.testing.assert_allclose(geo.from_unit(geo.to_unit(boxes, size), size), boxes, atol=1e-6)
    grid = TileGrid(*size, 2, 3)
    np.testing.assert_allclose(grid.convert(boxes, "image", "thousand"), geo.to_thousand(boxes, size))
    np.testing.assert_allclose(grid.convert(boxes, "image", "unit"), geo.to_unit(boxes, size))


def test_thousand_ints_clip_and_refuse_nan():
    assert geo.to_thousand_ints(np.array([-5, 0, 641, 480.0]), (640, 480)).tolist() == [0, 0, 1000, 1000]
    with pytest.raises(InputError, match="NaN"):
        geo.to_thousand_ints(np.array([np.nan, 0]), (10, 10))


def test_known_values():
    grid = TileGrid(800, 300, columns=3, rows=2, tile_size=448, cells=32)
    corner = np.array([400, 150])  # the middle of the image
    assert grid.convert(corner, "image", "unit").tolist() == [0.5, 0.5]
    assert grid.convert(corner, "image", "thousand").tolist() == [500, 500]
    assert grid.convert(corner, "image", "input").tolist() == [672, 448]
    assert grid.convert(corner, "image", "map").tolist() == [48, 32]
    assert grid.convert(corner, "image", "tile", tile=1).tolist() == [224, 448]
    assert grid.convert(corner, "image", "tile", tile=4).tolist() == [224, 0]
    assert grid.convert(corner, "image", "tile", tile=6).tolist() == [224, 224]  # the thumbnail
    every = grid.convert(np.tile(corner, (7, 1)), "image", "tile", tile=np.arange(7, dtype=np.uint8))
    assert every[[1, 4, 6]].tolist() == [[224, 448], [224, 0], [224, 224]]


def test_the_input_is_never_changed_and_the_output_never_shared():
    grid = TileGrid(10, 10, 1, 1)
    boxes = np.array([[1.0, 2, 3, 4]])
    before = boxes.copy()
    calls = [lambda f=f: grid.convert(boxes, "image", f) for f in WHOLE_FRAMES]
    calls += [lambda: grid.convert(boxes, "image", "tile", tile=0), lambda: geo.to_thousand(boxes, (10, 10))]
    calls += [lambda f=f: f(boxes) for f in (geo.box_to_xywh, geo.xywh_to_box, geo.box_to_cxcywh, geo.cxcywh_to_box)]
    calls += [lambda: grid.clip(boxes)]
    for call in calls:
        result = call()
        result += 100
        np.testing.assert_array_equal(boxes, before)


def test_integers_and_half_precision_are_widened():
    grid = TileGrid(4000, 3000, 1, 1)
    assert grid.convert(np.array([2, 3], dtype=np.uint8), "image", "unit").dtype == np.float64
    assert grid.convert(np.array([2, 3], dtype=np.float16), "image", "unit").dtype == np.float32
    assert grid.convert(torch.tensor([2, 3], dtype=torch.bfloat16), "image", "unit").dtype == torch.float32
    assert grid.convert([[2, 3]], "image", "unit").shape == (1, 2)


@pytest.mark.parametrize(
    ("coordinates", "source", "target", "tile", "message"),
    [
        (np.zeros(3), "image", "unit", None, "of shape"),
        (np.float64(3), "image", "unit", None, "of shape"),
        (np.zeros(4), "image", "metre", None, "one of image, unit"),
        (np.zeros(4), "image", "tile", None, "`tile`"),
        (np.zeros(4), "image", "unit", 0, "`tile`"),
        (np.zeros(4), "image", "tile", 5, "from 0 to 4"),
        (np.zeros(4), "image", "tile", -1, "from 0 to 4"),
        (np.zeros((2, 4)), "image", "tile", np.array([0, 5]), "from 0 to 4"),
        (np.zeros((1, 4)), "image", "tile", np.array([0.5]), "whole"),
    ],
)
def test_convert_refuses(coordinates, source, target, tile, message):
    with pytest.raises(InputError, match=message):
        TileGrid(10, 10, 2, 2).convert(coordinates, source, target, tile=tile)


@pytest.mark.parametrize("field", ["image_width", "image_height", "columns", "rows", "tile_size", "cells"])
def test_grid_refuses_what_is_not_positive(field):
    with pytest.raises(InputError, match=field):
        TileGrid(**{"image_width": 1, "image_height": 1, "columns": 1, "rows": 1, field: 0})


def test_size_of_image_is_checked():
    with pytest.raises(InputError, match="image_size"):
        geo.to_thousand(np.zeros(4), (0, 10))


# --- tiles ----------------------------------------------------------------------------------------------------------


@modest
@given(grids)
def test_pieces_cover_the_canvas_once(grid):
    boxes = grid.tile_boxes("input")
    width, height = grid.frame_size("input")
    assert boxes.shape == (grid.tile_count, 4)
    pieces = boxes[: grid.piece_count]
    assert geo.box_area(pieces).sum() == width * height  # no gap can hide, since
    overlap = geo.box_iou(pieces, pieces) - np.eye(len(pieces))
    assert overlap.max() == 0  # none overlap
    assert pieces.min() == 0 and pieces[:, 2].max() == width and pieces[:, 3].max() == height
    if grid.has_thumbnail:
        assert boxes[-1].tolist() == [0, 0, width, height]
    np.testing.assert_allclose(grid.tile_boxes("image").max(0)[2:], (grid.image_width, grid.image_height))


@modest
@given(grids, fractions)
def test_a_point_lies_on_its_tile(grid, parts):
    points = boxes_on((grid.image_width, grid.image_height), parts).reshape(-1, 2)
    tile = grid.tile_index_of(points)
    assert tile.dtype == np.int64 and tile.min() >= 0 and tile.max() < grid.piece_count
    inside = grid.convert(points, "image", "tile", tile=tile)
    assert inside.min() >= -1e-6 and inside.max() <= grid.tile_size + 1e-6
    on_map = grid.convert(points, "image", "map")
    np.testing.assert_array_equal(grid.tile_index_of(on_map, "map").shape, tile.shape)


def test_tile_of_centers_edges_and_outside():
    grid = TileGrid(300, 200, 3, 2)
    centers = grid.convert(np.full((6, 2), 224.0), "tile", "image", tile=np.arange(6))
    assert grid.tile_index_of(centers).tolist() == [0, 1, 2, 3, 4, 5]
    assert grid.tile_index_of(np.array([[300.0, 200], [-5, -5], [100, 0], [99.9, 100], [1e9, 0]])).tolist() == [
        *(5, 0, 1, 3, 2)
    ]
    assert int(grid.tile_index_of(np.array([299.0, 1]))) == 2
    with pytest.raises(InputError, match="whole image"):
        grid.tile_index_of(np.zeros(2), "tile")
    with pytest.raises(InputError, match="whole image"):
        grid.tile_boxes("tile")


def test_a_thumbnail_comes_only_with_several_pieces():
    assert TileGrid(9, 9, 1, 1, thumbnail=True).tile_count == 1
    assert TileGrid(9, 9, 2, 1, thumbnail=True).tile_count == 3
    assert TileGrid(9, 9, 2, 1, thumbnail=False).tile_count == 2


def test_cell_centers_sit_in_the_middle_of_cells():
    grid = TileGrid(60, 40, columns=3, rows=2, cells=2)
    centers = grid.cell_centers()
    assert centers.shape == (4, 6, 2)
    assert centers[0, 0].tolist() == [5, 5] and centers[3, 5].tolist() == [55, 35] and centers[0, 5].tolist() == [55, 5]
    assert grid.cell_centers("map")[1, 2].tolist() == [2.5, 1.5]


def test_choice_of_tiles_is_the_official_one():
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

    random = np.random.default_rng(0)
    images = [(1, 1), (1, 3000), (5000, 1), (448, 448), (896, 896), (897, 896), (640, 480), (1344, 896), (300, 200)]
    images += [(448 * i, 448 * j) for i in range(1, 8) for j in range(1, 8)]
    images += [(int(w), int(h)) for w, h in random.integers(1, (5000, 3000), size=(500, 2))]
    for limits in ((1, 12), (1, 6), (1, 1), (2, 9), (3, 40)):
        for tile_size in (448, 224):
            for width, height in images:
                expected = get_optimal_tiled_canvas((height, width), (tile_size, tile_size), *limits)
                chosen = geo.choose_tiles(width, height, min_tiles=limits[0], max_tiles=limits[1], tile_size=tile_size)
                assert chosen == expected, (width, height, limits, tile_size)


def test_choice_of_tiles_refuses_bad_limits():
    with pytest.raises(InputError, match="max_tiles"):
        geo.choose_tiles(10, 10, min_tiles=4, max_tiles=3)
    with pytest.raises(InputError, match="min_tiles"):
        geo.choose_tiles(10, 10, min_tiles=0)
    with pytest.raises(InputError, match="height"):
        geo.choose_tiles(10, -1)


@pytest.mark.parametrize("size", [(640, 480), (333, 1001), (1500, 100), (64, 64)])
def test_a_marked_spot_is_found_where_the_official_tiles_show_it(size):
    """The whole chain, on pixels: mark a rectangle, cut with transformers' own code, look where it went."""
    from transformers.image_utils import SizeDict
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    width, height = size
    box = np.floor(np.array([0.55 * width, 0.30 * height, 0.80 * width, 0.65 * height]))
    x0, y0, x1, y1 = box.astype(int)
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[y0:y1, x0:x1] = 255

    side = 64
    tiles = GotOcr2ImageProcessorPil().crop_image_to_patches(
        image, 1, 12, patch_size=SizeDict(height=side, width=side), resample=2
    )
    grid = TileGrid.for_image(width, height, tile_size=side, cells=4)
    assert len(tiles) == grid.tile_count
    for number, tile in enumerate(tiles):
        lit = np.argwhere(np.asarray(tile)[..., 0] > 127)
        expected = grid.convert(box, "image", "tile", tile=number)
        seen = geo.box_clip(expected, (side, side))
        if not geo.non_degenerate(seen, 2):
            assert len(lit) < 3 * side
            continue
        found = np.array([*lit.min(0)[::-1], *(lit.max(0)[::-1] + 1)])
        assert np.abs(found - seen).max() <= 1, (number, found, seen)


# --- boxes ----------------------------------------------------------------------------------------------------------


@modest
@given(sizes, fractions)
def test_box_formats_there_and_back(size, parts):
    boxes = boxes_on(size, parts)
    np.testing.assert_allclose(geo.xywh_to_box(geo.box_to_xywh(boxes)), boxes, atol=1e-9)
    np.testing.assert_allclose(geo.cxcywh_to_box(geo.box_to_cxcywh(boxes)), boxes, atol=1e-9)


def test_box_formats_by_hand():
    box = np.array([10, 20, 40, 80])
    assert geo.box_to_xywh(box).tolist() == [10, 20, 30, 60]
    assert geo.box_to_cxcywh(box).tolist() == [25, 50, 30, 60]
    assert geo.box_area(box) == 1800
    assert geo.box_area(np.array([[40, 20, 10, 80], [0, 0, 1, 1]])).tolist() == [0, 1]
    assert geo.box_clip(np.array([-5, 5, 700, 500]), (640, 480)).tolist() == [0, 5, 640, 480]
    assert geo.box_area(geo.box_clip(np.array([700, 0, 800, 10]), (640, 480))) == 0


@modest
@given(sizes, fractions, fractions)
def test_iou_laws(size, some, others):
    a, b = boxes_on(size, some), boxes_on(size, others)
    iou = geo.box_iou(a, b)
    assert iou.shape == (len(a), len(b)) and iou.min() >= 0 and iou.max() <= 1 + 1e-9
    np.testing.assert_allclose(iou, geo.box_iou(b, a).T)
    own = np.diag(geo.box_iou(a, a))
    np.testing.assert_allclose(own, (geo.box_area(a) > 0).astype(float))


def test_iou_by_hand():
    assert geo.box_iou([[0, 0, 10, 10]], [[5, 0, 15, 10], [20, 20, 30, 30], [0, 0, 0, 0]])[0].tolist() == [1 / 3, 0, 0]
    assert geo.box_iou(np.zeros((0, 4)), np.zeros((3, 4))).shape == (0, 3)
    with pytest.raises(InputError, match=r"\(n, 4\)"):
        geo.box_iou([0, 0, 1, 1], [[0, 0, 1, 1]])


def test_nms_keeps_the_best_of_each_heap():
    boxes = [[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60], [0, 0, 10, 10]]
    assert geo.box_nms(boxes, [0.5, 0.9, 0.1, 0.4]).tolist() == [1, 2]
    assert geo.box_nms(boxes, [0.5, 0.9, 0.1, 0.4], 0.9).tolist() == [1, 0, 2]
    assert geo.box_nms(boxes, [0.5, 0.9, 0.1, 0.4], groups=["a", "b", "a", "a"]).tolist() == [1, 0, 2]
    for groups in (["a", "b"], ["b", "a"]):  # the same place, under two labels
        assert geo.box_nms([[0, 0, 9, 9]] * 2, [0.9, 0.8], groups=groups).tolist() == [0, 1]
        assert geo.box_nms([[0, 0, 9, 9]] * 2, [0.8, 0.9], groups=groups).tolist() == [1, 0]
    half = [[0, 0, 2, 1], [0, 0, 1, 1]]  # overlap by 0.5, which is not more than 0.5
    assert geo.box_nms(half, [0.9, 0.8], 0.5).tolist() == [0, 1]
    assert geo.box_nms(half, [0.9, 0.8], 0.49).tolist() == [0]
    assert geo.box_nms(np.zeros((0, 4)), []).tolist() == []
    with pytest.raises(InputError, match="scores"):
        geo.box_nms(boxes, [1, 2])


def test_nms_agrees_with_torchvision():
    ops = pytest.importorskip("torchvision.ops")
    random = np.random.default_rng(1)
    boxes = geo.xywh_to_box(random.uniform(1, 50, (300, 4)))
    scores, groups = random.permutation(300) / 300, random.integers(0, 3, 300)
    for limit in (0.1, 0.5, 0.8):
        expected = ops.batched_nms(*map(torch.tensor, (boxes, scores, groups)), limit)
        assert geo.box_nms(boxes, scores, limit, groups).tolist() == expected.tolist()


def test_degenerate_boxes():
    inf, nan = float("inf"), float("nan")
    boxes = np.array([[0, 0, 2, 2], [0, 0, 2, 0.5], [5, 5, 1, 9], [0, 0, inf, 9], [0, nan, 5, 5], [inf, 0, inf, 5]])
    assert geo.non_degenerate(boxes).tolist() == [True, False, False, False, False, False]
    assert geo.non_degenerate(boxes, 0.5).tolist() == [True, True, False, False, False, False]


# --- torch ----------------------------------------------------------------------------------------------------------


def test_tensors_give_the_same_numbers_and_gradients():
    grid = TileGrid(640, 480, 3, 2)
    boxes = boxes_on((640, 480), [(0.1, 0.2, 0.7, 0.9), (0.5, 0.5, 0.6, 0.95)])
    tensor = torch.tensor(boxes, requires_grad=True)
    tiles = np.array([1, 6])
    pairs = [(grid.convert(tensor, "image", f), grid.convert(boxes, "image", f)) for f in WHOLE_FRAMES]
    pairs += [
        (
            grid.convert(tensor, "image", "tile", tile=torch.tensor(tiles)),
            grid.convert(boxes, "image", "tile", tile=tiles),
        ),
        (grid.convert(tensor, "tile", "unit", tile=3), grid.convert(boxes, "tile", "unit", tile=3)),
        (grid.tile_index_of(tensor[:, :2]), grid.tile_index_of(boxes[:, :2])),
        (geo.to_thousand_ints(tensor, (640, 480)), geo.to_thousand_ints(boxes, (640, 480))),
    ]
    functions = (geo.box_area, geo.box_to_xywh, geo.xywh_to_box, geo.box_to_cxcywh, geo.cxcywh_to_box, grid.clip)
    pairs += [(function(tensor), function(boxes)) for function in (*functions, geo.non_degenerate)]
    for ours, expected in pairs:
        assert isinstance(ours, torch.Tensor)
        np.testing.assert_allclose(ours.detach().numpy(), expected)
    sum(ours.sum() for ours, _ in pairs if ours.requires_grad).backward()
    assert tensor.grad is not None and bool(tensor.grad.isfinite().all())
