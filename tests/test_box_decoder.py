"""The box decoder on its own: assignment, suppression, learning."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vision_agent import BoxTargets, DecodeRequest, DenseFeatures
from vision_agent.decoders.box import BoxDecoder, _non_maximum
from vision_agent.geometry import TileGrid, box_nms


def features(seed: int = 0, rows: int = 1) -> DenseFeatures:
    torch.manual_seed(seed)
    return DenseFeatures((torch.randn(rows, 16, 28, 28), torch.randn(rows, 24, 14, 14), torch.randn(rows, 32, 7, 7)))


def decoder() -> BoxDecoder:
    torch.manual_seed(1)
    return BoxDecoder(hidden_size=64, feature_widths=(16, 24, 32), width=32)


def targets(boxes: list[list[float]], belongs: list[list[bool]]) -> BoxTargets:
    return BoxTargets(
        torch.tensor(boxes).reshape(-1, 4),
        torch.tensor(belongs, dtype=torch.bool).reshape(len(belongs), len(boxes)),
        torch.zeros(0, 4),
        torch.zeros(0, dtype=torch.long),
    )


def test_it_learns_which_phrase_means_which_box_and_that_absent_means_none() -> None:
    model, seen = decoder(), features()
    states = torch.randn(3, 4, 64)
    boxes = [[0.1, 0.1, 0.4, 0.5], [0.55, 0.3, 0.95, 0.9]]
    truth = targets(boxes, [[True, False], [False, True], [False, False]])
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(120):
        loss = model.loss(states, [0, 0, 0], model.prepare(seen), [truth])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    request = DecodeRequest(("first", "second", "absent"), TileGrid(640, 480, 1, 1, 448, 28), "test", 0.4)
    with torch.no_grad():
        found = model.decode(states, model.prepare(seen), request)
    assert sorted(set(found.labels)) == ["first", "second"]
    for label, box in (("first", boxes[0]), ("second", boxes[1])):
        best = found.filter(label=label)[0].box.xyxy
        expected = np.array(box) * [640, 480, 640, 480]
        assert np.abs(np.array(best) - expected).max() < 25


def test_one_map_backbones_get_a_pyramid() -> None:
    model = BoxDecoder(hidden_size=64, feature_widths=(32,), width=32)
    prepared = model.prepare(DenseFeatures((torch.randn(2, 32, 9, 12),)))
    assert prepared.boxes_BL4.shape == (2, 18 * 24 + 9 * 12 + 5 * 6, 4)
    assert bool((prepared.centres_L2 > 0).all() and (prepared.centres_L2 < 1).all())


def test_pictures_without_boxes_or_phrases_have_a_finite_loss_with_gradients() -> None:
    model = decoder()
    empty = targets([], [[]])
    loss = model.loss(torch.randn(1, 4, 64), [0], model.prepare(features()), [empty])
    loss.backward()
    assert torch.isfinite(loss)
    assert model.phrase_bias.bias.grad is not None


def test_crowd_regions_are_not_trained() -> None:
    model, seen = decoder(), features()
    states = torch.randn(1, 4, 64)
    everywhere = BoxTargets(
        torch.zeros(0, 4),
        torch.zeros(1, 0, dtype=torch.bool),
        torch.tensor([[-0.1, -0.1, 1.1, 1.1]]),
        torch.tensor([0]),
    )
    with torch.no_grad():
        assert float(model.loss(states, [0], model.prepare(seen), [everywhere])) == 0
        assert float(model.loss(states, [0], model.prepare(seen), [targets([], [[]])])) > 0


def test_a_box_smaller_than_any_cell_still_trains() -> None:
    model, seen = decoder(), features()
    tiny = targets([[0.5, 0.5, 0.502, 0.502]], [[True]])
    loss = model.loss(torch.randn(1, 4, 64), [0], model.prepare(seen), [tiny])
    loss.backward()
    assert model.box_head[-1].weight.grad.abs().sum() > 0  # type: ignore[union-attr]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 40), st.sampled_from([0.1, 0.5, 0.7]))
def test_suppression_equals_the_greedy_definition(seed: int, count: int, iou: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(1, count, 2, generator=generator)
    boxes = torch.cat([corner, corner + 0.05 + 0.5 * torch.rand(1, count, 2, generator=generator)], dim=-1)
    kept = _non_maximum(boxes, torch.ones(1, count, dtype=torch.bool), iou)[0].nonzero().flatten().tolist()
    expected = box_nms(boxes[0].double().numpy(), np.linspace(1, 0.1, count), iou)
    assert kept == sorted(np.asarray(expected).tolist())


@pytest.mark.parametrize("limit", [1, 3])
def test_no_more_boxes_a_phrase_than_the_limit(limit: int) -> None:
    model = BoxDecoder(hidden_size=64, feature_widths=(16, 24, 32), width=32, limit=limit)
    request = DecodeRequest(("a", "b"), TileGrid(640, 480, 1, 1, 448, 28), "test", 0.0)
    found = model.decode(torch.randn(2, 4, 64), model.prepare(features()), request)
    assert [len(found.filter(label=label)) for label in "ab"] == [limit, limit]
