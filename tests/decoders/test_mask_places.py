"""Where masks lie: shapes that are alike in no direction, in images that are not square, by every way to a mask."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from test_mask_decoder import GRID, decoder, noise, request, states
from torch import Tensor

from vision_agent import InputError
from vision_agent.decoders.mask.decoder import MaskDecoder, PreparedMasks
from vision_agent.decoders.mask.head import MaskHead, _look, grid_points

WIDTH, HEIGHT = GRID.image_width, GRID.image_height  # 160 x 120
FINE = 56


def shape(x: Tensor, y: Tensor) -> Tensor:
    """Signed, in the frame "unit": positive inside a slanted corner piece without any symmetry, far from the middle."""
    return torch.minimum(0.45 * x + 0.35 - y, 0.8 - x) * 40


class Seen:
    """Stands for the network: draws `shape` over whatever box it gets, and notes what it was told."""

    def __init__(self, head: MaskHead) -> None:
        self._head = head
        self.phrases: list[Tensor] = []

    def __call__(self, maps: Sequence[Tensor], boxes_BN4: Tensor, phrases_BNE: Tensor) -> tuple[Tensor, Tensor]:
        self.phrases += list(phrases_BNE.flatten(0, 1))
        logits = []
        for x0, y0, x1, y1 in boxes_BN4[0].tolist():
            wide, high = (x1 - x0) * self._head.margin, (y1 - y0) * self._head.margin
            steps = (torch.arange(FINE) + 0.5) / FINE
            x = x0 - wide + steps * (x1 - x0 + 2 * wide)
            y = y0 - high + steps * (y1 - y0 + 2 * high)
            logits.append(shape(x[None, :], y[:, None]))
        return torch.stack(logits), torch.full((len(logits),), 2.0)


@pytest.fixture
def drawing() -> tuple[MaskDecoder, PreparedMasks, Seen]:
    model = decoder()
    with torch.no_grad():
        prepared = model.prepare(noise())
    seen = Seen(model.head)
    model.head.forward = seen  # type: ignore[assignment]
    return model, prepared, seen


def true_mask() -> NDArray[np.float64]:
    """How far inside the shape each pixel's middle is."""
    x, y = (torch.arange(WIDTH) + 0.5) / WIDTH, (torch.arange(HEIGHT) + 0.5) / HEIGHT
    depth: NDArray[np.float64] = shape(x[None, :], y[:, None]).double().numpy()
    return depth


def assert_shape(mask: NDArray[np.bool_], limit: Sequence[float], inside: Sequence[float]) -> None:
    """The shape inside the box `inside`, and no pixel outside the box `limit`; pixels on an edge are either."""
    columns, rows = np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5

    def within(box: Sequence[float]) -> NDArray[np.bool_]:
        across = (columns >= box[0]) & (columns < box[2])
        held: NDArray[np.bool_] = across[None, :] & ((rows >= box[1]) & (rows < box[3]))[:, None]
        return held

    assert not (mask & ~within(limit)).any()
    depth = true_mask()
    sure = (np.abs(depth) > 0.5) & within(inside)
    assert np.array_equal(mask[sure], depth[sure] > 0)
    assert mask[within(inside)].any() and not mask[within(inside)].all()


@pytest.mark.parametrize("box", [(20.3, 10.6, 150.2, 100.9), (60.0, 30.0, 140.0, 118.0), (-30.0, 5.0, 200.0, 90.0)])
def test_masks_of_boxes(drawing: tuple[MaskDecoder, PreparedMasks, Seen], box: tuple[float, ...]) -> None:
    model, prepared, _ = drawing
    result = model.decode_boxes([box], prepared, request())
    cut = np.clip(box, 0, [WIDTH, HEIGHT] * 2)
    assert_shape(result[0].mask.to_array(), cut, cut)
    assert result[0].score == pytest.approx(1 / (1 + np.exp(-2.0)), abs=1e-6)


def test_many_boxes_come_back_in_their_order(drawing: tuple[MaskDecoder, PreparedMasks, Seen]) -> None:
    model, prepared, _ = drawing
    boxes = [(4.0 * (n % 8), 3.0 * (n // 8), 100.0 + n, 70.0 + n) for n in range(40)]  # more than one pass takes
    result = model.decode_boxes(boxes, prepared, request(), labels=[str(n) for n in range(40)])
    assert result.labels == [str(n) for n in range(40)]
    for box, each in zip(boxes, result, strict=True):
        assert_shape(each.mask.to_array(), box, box)


def test_masks_of_phrases(drawing: tuple[MaskDecoder, PreparedMasks, Seen]) -> None:
    """Each is told its own phrase and reaches over its box by the margin at most, on every side."""
    model, prepared, seen = drawing
    result = model.decode(states(2), prepared, request("dog", "cat", threshold=0.0))
    assert set(result.labels) == {"dog", "cat"}
    unit_KE, _ = model.finder.phrase_vectors(states(2))
    assert not torch.allclose(unit_KE[0], unit_KE[1])
    reached = np.zeros(4, dtype=bool)
    for each, told in zip(result, seen.phrases, strict=True):
        assert torch.equal(told, unit_KE[["dog", "cat"].index(each.label)])
        x0, y0, x1, y1 = each.box.xyxy
        wide, high = 0.15 * (x1 - x0), 0.15 * (y1 - y0)
        mask = each.mask.to_array()
        grown = (x0 - wide, y0 - high, x1 + wide, y1 + high)
        rows, columns = np.nonzero(mask)
        if len(rows):
            reached |= [columns.min() < x0 - 1, rows.min() < y0 - 1, columns.max() > x1, rows.max() > y1]
        outside = np.ones_like(mask)
        outside[int(max(grown[1], 0)) : int(grown[3]) + 1, int(max(grown[0], 0)) : int(grown[2]) + 1] = False
        assert not (mask & outside).any()
    assert reached.all()


@pytest.mark.parametrize("point", [(30.5, 20.5), (100.0, 60.0), (120.0, 10.0), (10.0, 40.0)])
def test_masks_of_clicks_hold_them(
    drawing: tuple[MaskDecoder, PreparedMasks, Seen], point: tuple[float, float]
) -> None:
    model, prepared, _ = drawing
    depth = true_mask()
    assert depth[int(point[1]), int(point[0])] > 0.5
    result = model.decode_points([point], prepared, request())
    mask = result[0].mask.to_array()
    assert mask[int(point[1]), int(point[0])]
    assert not (mask & (depth < -0.5)).any()  # nothing of what lies beside the shape


@pytest.mark.parametrize("point", [(20.0, 100.0), (150.0, 20.0), (60.0, 110.0)])
def test_clicks_beside_the_shape_have_no_mask_of_it(
    drawing: tuple[MaskDecoder, PreparedMasks, Seen], point: tuple[float, float]
) -> None:
    """Places that would lie in the shape if x and y were swapped, or the image turned."""
    model, prepared, _ = drawing
    assert true_mask()[int(point[1]), int(point[0])] < -1.5
    assert len(model.decode_points([point], prepared, request())) == 0


def test_a_click_beside_an_object_is_not_in_its_mask(drawing: tuple[MaskDecoder, PreparedMasks, Seen]) -> None:
    model, prepared, _ = drawing
    on, beside = (100.0, 60.0), (100.0, 110.0)
    result = model.decode_points([[on, beside]], prepared, request(), [[1, 0]])
    mask = result[0].mask.to_array()
    assert mask[60, 100] and not mask[110, 100]
    with pytest.raises(InputError, match="at least one 1"):
        model.decode_points([[on, beside]], prepared, request(), [[0, 0]])


def test_points_of_a_grid_go_along_its_rows() -> None:
    boxes = torch.tensor([[[0.0, 0.2, 0.4, 1.0]]])
    assert torch.allclose(grid_points(boxes, 2), torch.tensor([[[[0.1, 0.4], [0.3, 0.4]], [[0.1, 0.8], [0.3, 0.8]]]]))


def test_the_network_looks_where_its_boxes_are() -> None:
    """A map whose channels say x and y of their cells, seen in two boxes."""
    x, y = (torch.arange(32) + 0.5) / 32, (torch.arange(20) + 0.5) / 20
    places = torch.stack([x.expand(20, 32), y[:, None].expand(20, 32)])[None]
    boxes = torch.tensor([[[0.1, 0.3, 0.5, 0.9], [0.2, 0.1, 0.9, 0.4]]])
    seen = _look(places, boxes, 4)
    for number, (x0, y0, x1, y1) in enumerate(boxes[0].tolist()):
        steps = (torch.arange(4) + 0.5) / 4
        assert torch.allclose(seen[number, 0], (x0 + steps * (x1 - x0)).expand(4, 4), atol=1e-5)
        assert torch.allclose(seen[number, 1], (y0 + steps * (y1 - y0))[:, None].expand(4, 4), atol=1e-5)


def test_the_network_is_told_the_sides_of_its_box() -> None:
    head = decoder(margin=0.25).head
    x, y = head._frame(torch.zeros(1))[0]
    assert torch.equal(x, x[:1].expand_as(x)) and torch.equal(y, y[:, :1].expand_as(y))
    assert torch.allclose(x[0], y[:, 0])
    assert float(x[0, 0]) == pytest.approx(-1.5 * 27 / 28) and float(x[0, -1]) == pytest.approx(1.5 * 27 / 28)


def test_boxes_are_grown_on_every_side() -> None:
    grown = decoder(margin=0.25).head.grown(torch.tensor([10.0, 20.0, 30.0, 60.0]))
    assert grown.tolist() == [5.0, 10.0, 35.0, 70.0]
