"""The box decoder on its own: proposals, descriptions, truth, suppression, learning."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numerics import assert_same, tolerance
from numpy.typing import NDArray

from vision_agent import BoxTargets, DecodeRequest, DenseFeatures, Detections
from vision_agent.decoders.box import BoxDecoder, PreparedBoxes
from vision_agent.decoders.box_geometry import non_maximum, pairwise_iou
from vision_agent.decoders.box_truth import certain, nameable, named
from vision_agent.geometry.frames import TileGrid, box_area, box_nms

WIDTHS = (8, 16, 24, 32)
PROPOSAL_OVERLAP = 0.7
SUMS = 9 * 32  # terms of the longest: a 3 x 3 convolution of the widest map
GRID = TileGrid(640, 480, 1, 1, 448, 28)


def features(seed: int = 0, rows: int = 1) -> DenseFeatures:
    """Four maps, as the small tower gives them, of strides 4, 8, 16 and 32."""
    generator = torch.Generator().manual_seed(seed)
    return DenseFeatures(
        tuple(torch.randn(rows, w, s, s, generator=generator) for w, s in zip(WIDTHS, (32, 16, 8, 4), strict=True))
    )


def decoder(**changed: float) -> BoxDecoder:
    torch.manual_seed(1)
    small = {"width": 32, "embedding": 32, "proposals": 30}
    return BoxDecoder(hidden_size=64, feature_widths=WIDTHS, **(small | changed))  # type: ignore[arg-type]


def states(count: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(count, 4, 64, generator=torch.Generator().manual_seed(seed))


def targets(
    boxes: Sequence[Sequence[float]],
    belongs: Sequence[Sequence[bool]],
    ignored: Sequence[tuple[int, Sequence[float]]] = (),
) -> BoxTargets:
    """True boxes, which phrase names which, and (phrase, box) pairs to ignore."""
    return BoxTargets(
        torch.tensor(boxes).reshape(-1, 4),
        torch.tensor(belongs, dtype=torch.bool).reshape(len(belongs), len(boxes)),
        torch.tensor([box for _, box in ignored]).reshape(-1, 4),
        torch.tensor([phrase for phrase, _ in ignored], dtype=torch.long),
    )


def picked(prepared: PreparedBoxes, rows: Sequence[int]) -> PreparedBoxes:
    """A batch of some images of a batch, in another order or repeated."""
    names = ("regions_BN4", "embeddings_BNE", "proposed_BN", "prominence_BN", "objectness_BL", "boxes_BL4")
    changed = {name: getattr(prepared, name)[list(rows)] for name in names}
    return replace(prepared, **changed, sampled=tuple(map_BCHW[list(rows)] for map_BCHW in prepared.sampled or ()))


def decoded(model: BoxDecoder, of: torch.Tensor, prepared: PreparedBoxes, threshold: float) -> Detections:
    """Boxes of phrases called a, b, c, ..."""
    return model.decode(of, prepared, DecodeRequest(tuple("abcdefgh"[: len(of)]), GRID, "test", threshold))


def found(model: BoxDecoder, of: torch.Tensor, seen: DenseFeatures, threshold: float) -> Detections:
    with torch.no_grad():
        return decoded(model, of, model.prepare(seen), threshold)


def fit(
    model: BoxDecoder,
    seen: DenseFeatures,
    of: torch.Tensor,
    rows: Sequence[int],
    truth: Sequence[BoxTargets],
    steps: int,
) -> None:
    torch.manual_seed(0)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(steps):
        loss = model.loss(of, rows, model.prepare(seen), truth)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


# Proposals ---------------------------------------------------------------------------------------------------------


def test_proposals_are_the_best_cells_that_do_not_overlap_much() -> None:
    model = decoder()
    with torch.no_grad():
        prepared = model.prepare(features(rows=2))
    for objectness, cells, regions, proposed in zip(
        prepared.objectness_BL, prepared.boxes_BL4.clamp(0, 1), prepared.regions_BN4, prepared.proposed_BN, strict=True
    ):
        assert bool(proposed.all())
        best = objectness.argsort(descending=True)[:120]  # four times as many as wanted
        assert pairwise_iou(cells[best[:30]], cells[best[:30]]).triu(1).max() > PROPOSAL_OVERLAP
        assert pairwise_iou(regions, regions).triu(1).max() <= PROPOSAL_OVERLAP
        chosen = box_nms(cells[best].double().numpy(), objectness[best].double().numpy(), PROPOSAL_OVERLAP)[:30]
        assert torch.equal(regions, cells[best[torch.from_numpy(chosen)]])


def test_prominence_is_objectness_against_the_other_proposals_of_the_image() -> None:
    with torch.no_grad():
        prepared = decoder().prepare(features(rows=2))
    for objectness, cells, regions, prominence in zip(
        prepared.objectness_BL,
        prepared.boxes_BL4.clamp(0, 1),
        prepared.regions_BN4,
        prepared.prominence_BN,
        strict=True,
    ):
        own = objectness[(regions[:, None] == cells[None]).all(-1).float().argmax(dim=1)]
        torch.testing.assert_close(prominence, own - own.mean())


def test_prominence_joins_the_score_by_its_weight() -> None:
    plain, weighted = decoder(nms_iou=1.0), decoder(nms_iou=1.0, prominence=0.5)
    with torch.no_grad():
        prepared = plain.prepare(features())
    spread = replace(prepared, prominence_BN=torch.linspace(-3, 3, 30)[None])
    before, after = (decoded(model, states(1), spread, 0.0) for model in (plain, weighted))
    assert len(before) == len(after) == 30
    prominent = np.linspace(-3, 3, 30)[[_row_of(box, spread) for box in after.xyxy]]
    unweighted = dict(zip(map(tuple, before.xyxy), before.scores, strict=True))
    plain_scores = np.array([unweighted[tuple(box)] for box in after.xyxy])
    np.testing.assert_allclose(_logit(after.scores) - _logit(plain_scores), 0.5 * prominent, atol=1e-3)


def test_what_lies_in_a_better_box_or_holds_it_is_less_sure() -> None:
    plain, doubtful = decoder(nms_iou=0.3), decoder(nms_iou=0.3, nested_weight=0.4)
    with torch.no_grad():
        prepared = plain.prepare(features())
    before, after = (decoded(model, states(2), prepared, 0.0) for model in (plain, doubtful))
    expected = []
    for label in dict.fromkeys(before.labels):
        rows = [row for row, each in enumerate(before.labels) if each == label]
        boxes, scores = before.xyxy[rows].astype(np.float64), before.scores[rows].copy()
        for row in range(1, len(rows)):
            low = np.maximum(boxes[row, :2], boxes[:row, :2])
            high = np.minimum(boxes[row, 2:], boxes[:row, 2:])
            shared = (high - low).clip(min=0).prod(axis=1)
            smaller = np.minimum(box_area(boxes[row]), box_area(boxes[:row]))
            scores[row] *= 0.4 if (shared > 0.65 * smaller).any() else 1.0
        expected += sorted(scores.tolist(), reverse=True)
    assert len(expected) == len(before) == len(after)
    assert 0 < np.sum(np.abs(np.array(expected) - before.scores) > 1e-6) < len(before) - 2
    np.testing.assert_allclose(after.scores, expected, rtol=1e-5)
    bar = float(np.median(after.scores))
    above = decoded(doubtful, states(2), prepared, bar)
    assert above.scores.tolist() == [score for score in after.scores.tolist() if score >= bar]


@pytest.mark.parametrize(("left", "doubted"), [(0.436, False), (0.434, True), (0.3, True)])
def test_two_thirds_of_the_smaller_box_make_it_doubtful(left: float, doubted: bool) -> None:
    plain, doubtful = decoder(), decoder(nested_weight=0.4)
    with torch.no_grad():
        prepared = plain.prepare(features())
    regions = torch.zeros_like(prepared.regions_BN4)  # boxes without a size are not shown
    regions[0, :2] = torch.tensor([[0, 0, 0.5, 0.5], [left, 0.1, left + 0.1, 0.2]])
    before, after = (
        decoded(model, states(1), replace(prepared, regions_BN4=regions), 0.0) for model in (plain, doubtful)
    )
    assert len(before) == len(after) == 2
    weights = sorted(after.scores) / before.scores[::-1]
    np.testing.assert_allclose(weights, [0.4 if doubted else 1.0, 1.0], rtol=1e-5)


@pytest.mark.parametrize("place", [0, 3])
def test_edges_at_infinity_are_told(place: int) -> None:
    model = refined_twin(decoder())
    *_, bias = model.refine.parameters()
    with torch.no_grad():
        bias[place] = torch.inf
        with pytest.raises(FloatingPointError, match="NaN or infinite"):
            decoded(model, states(1), model.prepare(features()), 0.0)


def _row_of(box: NDArray[np.float32], prepared: PreparedBoxes) -> int:
    regions = GRID.convert(prepared.regions_BN4[0].double().numpy(), "unit", "image")
    return int(np.abs(regions - box).sum(axis=1).argmin())


def _logit(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    inside = scores.astype(np.float64)
    return np.log(inside / (1 - inside))


def one_proposal_only() -> BoxDecoder:
    """Every cell's box is the whole image, so all but one are suppressed."""
    model = decoder()
    torch.nn.init.constant_(model.box_head[-1].bias, 8.0)  # type: ignore[arg-type]
    return model


def test_what_fills_up_missing_proposals_never_comes_out() -> None:
    model = one_proposal_only()
    with torch.no_grad():
        assert model.prepare(features()).proposed_BN[0].tolist() == [True] + [False] * 29
    result = found(model, states(2), features(), threshold=0.0)
    assert [(item.label, item.box.xyxy) for item in result] == [(name, (0, 0, 640, 480)) for name in "ab"]


def test_what_fills_up_missing_proposals_suppresses_nothing() -> None:
    model = decoder()
    with torch.no_grad():
        prepared = model.prepare(features())
    every_second = torch.arange(30) % 2 == 1
    masked = decoded(model, states(2), replace(prepared, proposed_BN=every_second[None]), 0.0)
    names = ("regions_BN4", "embeddings_BNE", "proposed_BN", "prominence_BN")
    kept = {name: getattr(prepared, name)[:, every_second] for name in names}
    fewer = decoded(model, states(2), replace(prepared, **kept), 0.0)
    assert len(fewer) > 5
    assert masked.labels == fewer.labels
    np.testing.assert_allclose(masked.xyxy, fewer.xyxy, rtol=0, atol=1e-3)


def test_what_fills_up_missing_proposals_is_not_trained() -> None:
    model, truth = one_proposal_only(), targets([[0.1, 0.1, 0.4, 0.5]], [[True]])
    prepared = model.prepare(features())
    losses = []
    for noise in (0.0, 9.0):
        noisy = prepared.embeddings_BNE + noise * ~prepared.proposed_BN[..., None]
        torch.manual_seed(0)
        losses.append(float(model.loss(states(1), [0], replace(prepared, embeddings_BNE=noisy), [truth]).detach()))
    assert losses[0] == losses[1]


def test_one_map_backbones_get_a_pyramid() -> None:
    model = BoxDecoder(hidden_size=64, feature_widths=(32,), width=32, embedding=32)
    prepared = model.prepare(DenseFeatures((torch.randn(2, 32, 9, 12),)))
    assert prepared.boxes_BL4.shape == (2, 18 * 24 + 9 * 12 + 5 * 6, 4)
    assert prepared.embeddings_BNE.shape == (2, 150, 32)
    assert bool((prepared.centres_L2 > 0).all() and (prepared.centres_L2 < 1).all())


def test_what_is_kept_of_a_image_is_small_unless_it_trains() -> None:
    model = decoder()
    assert model.prepare(features()).sampled is not None
    with torch.no_grad():
        prepared = model.prepare(features())
    assert prepared.sampled is None
    with pytest.raises(RuntimeError, match="gradients"):
        model.loss(states(1), [0], prepared, [targets([], [[]])])


# Descriptions ------------------------------------------------------------------------------------------------------


def test_a_region_is_described_by_what_is_in_it() -> None:
    describe = decoder().describe
    boxes = torch.tensor([[[0.05, 0.05, 0.4, 0.4]]])
    maps = describe.reduced(features())

    def described(column: slice) -> torch.Tensor:
        """With other content in some columns (quarters of the image) of all maps."""
        changed = []
        for map_BCHW in maps:
            copy = map_BCHW.clone()
            quarter = copy.shape[-1] // 4
            copy[..., column.start * quarter : column.stop * quarter] += 1.0
            changed.append(copy)
        vector: torch.Tensor = describe(changed, boxes)
        return vector

    with torch.no_grad():
        before = describe(maps, boxes)
        assert torch.equal(described(slice(3, 4)), before)  # far right of the region
        assert (described(slice(0, 1)) - before).norm() > 0.1 * before.norm()


@pytest.mark.parametrize("which", range(4))
def test_every_map_tells_regions_apart(which: int) -> None:
    describe, boxes = decoder().describe, torch.tensor([[[0.1, 0.2, 0.6, 0.7]]])
    maps = list(features().maps)
    with torch.no_grad():
        before = describe(describe.reduced(DenseFeatures(tuple(maps))), boxes)
        maps[which] = -maps[which]
        after = describe(describe.reduced(DenseFeatures(tuple(maps))), boxes)
    assert (after - before).norm() > 0.01 * before.norm()


def test_regions_with_the_same_content_differ_by_place_and_size() -> None:
    describe = decoder().describe
    plain = DenseFeatures(tuple(torch.ones(1, w, 8, 8) for w in WIDTHS))
    boxes = torch.tensor([[[0.1, 0.1, 0.3, 0.3], [0.6, 0.1, 0.8, 0.3], [0.1, 0.1, 0.6, 0.6]]])
    with torch.no_grad():
        first, moved, larger = describe(describe.reduced(plain), boxes)[0]
    assert (first - moved).norm() > 0.01 * first.norm()
    assert (first - larger).norm() > 0.01 * first.norm()


# Decoding ----------------------------------------------------------------------------------------------------------


def test_a_list_of_phrases_equals_single_phrases() -> None:
    model, asked = decoder(), states(6)
    torch.nn.init.normal_(model.phrase_bias.weight)
    together = found(model, asked, features(), threshold=0.0)
    for number, name in enumerate("abcdef"):
        alone = found(model, asked[number : number + 1], features(), threshold=0.0)
        mine = together.filter(label=name)
        assert len(alone) > 3
        np.testing.assert_allclose(mine.scores, alone.scores, rtol=0, atol=tolerance(torch.float32, SUMS))
        np.testing.assert_allclose(mine.xyxy, alone.xyxy, rtol=0, atol=640 * tolerance(torch.float32, SUMS))


def test_a_batch_of_images_is_prepared_as_each_alone() -> None:
    model, both = decoder(), features(rows=2)
    with torch.no_grad():
        together = model.prepare(both)
        for number in range(2):
            alone = model.prepare(DenseFeatures(tuple(m[number : number + 1] for m in both.maps)))
            assert_same(together.regions_BN4[number], alone.regions_BN4[0], SUMS)
            assert_same(together.embeddings_BNE[number], alone.embeddings_BNE[0], SUMS)


@pytest.mark.parametrize("limit", [1, 3])
def test_no_more_boxes_a_phrase_than_the_limit(limit: int) -> None:
    result = found(decoder(limit=limit), states(2), features(), threshold=0.0)
    assert [len(result.filter(label=label)) for label in "ab"] == [limit, limit]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 40), st.sampled_from([0.1, 0.5, 0.7]), st.sampled_from([None, 40]))
def test_suppression_equals_the_greedy_definition(seed: int, count: int, iou: float, steps: int | None) -> None:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(1, count, 2, generator=generator)
    boxes = torch.cat([corner, corner + 0.05 + 0.5 * torch.rand(1, count, 2, generator=generator)], dim=-1)
    candidates = torch.ones(1, count, dtype=torch.bool)
    keep, settled = non_maximum(boxes, candidates, iou, steps=steps)
    kept = keep[0].nonzero().flatten().tolist()
    assert bool(settled)
    expected = box_nms(boxes[0].double().numpy(), np.linspace(1, 0.1, count), iou)
    assert kept == sorted(np.asarray(expected).tolist())


@pytest.mark.parametrize("length", [10, 32, 33, 34, 70])
def test_a_row_of_boxes_that_overlap_each_other_is_suppressed_to_its_end(length: int) -> None:
    """Of boxes that overlap the next one each, every second stays: the last is decided after all others."""
    left = torch.arange(length) * 0.4
    row = torch.stack([left, torch.zeros(length), left + 1, torch.ones(length)], dim=-1)
    boxes, candidates = row[None], torch.ones(1, length, dtype=torch.bool)
    few, settled = non_maximum(boxes, candidates, 0.4, steps=32)
    assert bool(settled) == (length <= 32)
    every, _ = non_maximum(boxes, candidates, 0.4)
    assert every[0].tolist() == [number % 2 == 0 for number in range(length)]
    assert bool((few | ~every).all())  # never too few


@pytest.mark.parametrize("size", [(4, 4), (5, 7), (1, 3)])
@torch.no_grad()
def test_channels_of_the_only_map_are_reduced_before_it_is_resized(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = BoxDecoder(16, [24], width=16, embedding=8).eval()
    only = torch.randn(2, 24, *size, generator=torch.Generator().manual_seed(0))
    resized = (F.interpolate(only, scale_factor=2.0, mode="bilinear"), only, F.avg_pool2d(only, 2, ceil_mode=True))
    fine, middle, coarse = (lateral(each) for lateral, each in zip(model.laterals, resized, strict=True))
    middle = middle + F.interpolate(coarse, size=middle.shape[-2:], mode="nearest")
    fine = fine + F.interpolate(middle, size=fine.shape[-2:], mode="nearest")
    expected = [smooth(each) for smooth, each in zip(model.smooth, (fine, middle, coarse), strict=True)]
    channels: list[int] = []
    real = F.interpolate

    def watched(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        channels.append(x.shape[1])
        return real(x, *args, **kwargs)

    monkeypatch.setattr(F, "interpolate", watched)
    for found_level, level in zip(model._pyramid(DenseFeatures((only,))), expected, strict=True):
        torch.testing.assert_close(found_level, level, rtol=1e-4, atol=1e-5)
    assert channels == [16, 16, 16]


# Truth and loss ----------------------------------------------------------------------------------------------------


def test_regions_are_called_what_the_box_they_overlap_most_is_called() -> None:
    left, right, inner = [0.0, 0.0, 0.4, 0.4], [0.5, 0.0, 0.9, 0.4], [0.5, 0.0, 0.9, 0.3]
    #                        left   right  inner
    belongs = [
        [True, False, False],
        [False, True, False],
        [False, False, True],
        [True, True, False],  # a kind
        [False, False, False],  # absent
    ]
    regions = {
        "the left one": ([0.0, 0.0, 0.4, 0.4], [1.0, 0.0, 0.0, 1.0, 0.0]),
        "six tenths of it": ([0.0, 0.0, 0.24, 0.4], [0.6, 0.0, 0.0, 0.6, 0.0]),
        "four tenths of it": ([0.0, 0.0, 0.16, 0.4], [0.0] * 5),
        "the right one": ([0.5, 0.0, 0.9, 0.4], [0.0, 1.0, 0.0, 1.0, 0.0]),
        "nearer to the inner one": ([0.5, 0.0, 0.9, 0.32], [0.0, 0.0, 0.9375, 0.0, 0.0]),
        "elsewhere": ([0.1, 0.6, 0.5, 1.0], [0.0] * 5),
    }
    truth = targets([left, right, inner], belongs)
    called = named(torch.tensor([box for box, _ in regions.values()]), truth)
    expected = torch.tensor([truly for _, truly in regions.values()]).T
    torch.testing.assert_close(called, expected, rtol=0, atol=1e-5)


def test_nothing_is_named_in_a_image_without_boxes() -> None:
    assert torch.equal(named(torch.rand(7, 4), targets([], [[], []])), torch.zeros(2, 7))


@pytest.fixture
def unmoved(monkeypatch: pytest.MonkeyPatch) -> None:
    """True boxes are not moved at random, so losses can be compared."""
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)


@pytest.mark.usefixtures("unmoved")
def test_a_batch_loses_what_its_images_lose() -> None:
    model, asked = decoder(), states(3)
    prepared = model.prepare(features(rows=2))
    # So small that what is assigned weighs less than one: sums are then divided by one, and losses add up.
    first = targets([[0.5, 0.5, 0.502, 0.502]], [[True], [False]])
    second = targets([[0.2, 0.7, 0.202, 0.702]], [[False]])
    parts = [
        model.loss(asked[:2], [0, 0], picked(prepared, [0]), [first]),
        model.loss(asked[2:], [0], picked(prepared, [1]), [second]),
    ]
    assert min(parts) > 0
    torch.testing.assert_close(model.loss(asked, [0, 0, 1], prepared, [first, second]), parts[0] + parts[1])


@pytest.mark.usefixtures("unmoved")
def test_the_loss_is_per_assigned_weight_and_the_order_does_not_matter() -> None:
    model, asked = decoder(), states(3)
    prepared = model.prepare(features(rows=2))
    # Large enough for the assigned weights to be above one.
    first = targets([[0.1, 0.1, 0.6, 0.5], [0.3, 0.3, 0.9, 0.9]], [[True, False], [True, True]])
    second = targets([[0.2, 0.4, 0.7, 0.8]], [[True]])
    loss = model.loss(asked, [0, 0, 1], prepared, [first, second])
    turned = model.loss(asked[[2, 0, 1]], [0, 1, 1], picked(prepared, [1, 0]), [second, first])
    torch.testing.assert_close(turned, loss)
    once = model.loss(asked[:2], [0, 0], picked(prepared, [0]), [first])
    twice = model.loss(asked[[0, 1, 0, 1]], [0, 0, 1, 1], picked(prepared, [0, 0]), [first, first])
    torch.testing.assert_close(twice, once)


def test_images_without_boxes_or_phrases_have_a_finite_loss_with_gradients() -> None:
    model = decoder()
    loss = model.loss(states(1), [0], model.prepare(features()), [targets([], [[]])])
    loss.backward()
    assert torch.isfinite(loss)
    assert model.phrase_bias.bias.grad is not None
    unasked = targets([[0.1, 0.1, 0.4, 0.5]], [])
    assert torch.isfinite(model.loss(states(0), [], model.prepare(features()), [unasked]))


def test_crowd_regions_are_not_trained() -> None:
    model, everywhere = decoder(), [-0.1, -0.1, 1.1, 1.1]
    asked = states(2).requires_grad_()
    crowd = targets([], [[], []], ignored=[(0, everywhere), (1, everywhere)])
    loss = model.loss(asked, [0, 0], model.prepare(features()), [crowd])
    (gradient,) = torch.autograd.grad(loss, asked)
    assert loss == 0
    assert not gradient.any()
    assert model.loss(asked, [0, 0], model.prepare(features()), [targets([], [[], []])]) > 0


def test_a_crowd_hides_a_place_from_its_own_phrase_only() -> None:
    model, asked = decoder(), states(2).requires_grad_()
    prepared = model.prepare(features())
    crowd = targets([], [[], []], ignored=[(0, [-0.1, -0.1, 1.1, 1.1])])
    (gradient,) = torch.autograd.grad(model.loss(asked, [0, 0], prepared, [crowd]), asked)
    assert not gradient[0].any()
    assert gradient[1].any()


def test_a_box_smaller_than_any_cell_still_trains() -> None:
    model = decoder()
    tiny = targets([[0.5, 0.5, 0.502, 0.502]], [[True]])
    loss = model.loss(states(1), [0], model.prepare(features()), [tiny])
    loss.backward()
    assert model.box_head[-1].weight.grad.abs().sum() > 0  # type: ignore[union-attr]


def test_gradients_reach_every_map_every_phrase_and_every_weight() -> None:
    model, asked = decoder(), states(2).requires_grad_()
    seen = DenseFeatures(tuple(map_BCHW.requires_grad_() for map_BCHW in features().maps))
    truth = targets([[0.1, 0.1, 0.4, 0.5]], [[True], [False]])
    model.loss(asked, [0, 0], model.prepare(seen), [truth]).backward()
    reached = {f"map {number}": map_BCHW.grad for number, map_BCHW in enumerate(seen.maps)}
    reached |= {f"phrase {number}": None if asked.grad is None else asked.grad[number] for number in range(2)}
    reached |= {name: parameter.grad for name, parameter in model.named_parameters()}
    assert not [name for name, gradient in reached.items() if gradient is None or not gradient.any()]


# Learning ----------------------------------------------------------------------------------------------------------


def test_it_learns_which_phrase_means_which_box_and_that_absent_means_none() -> None:
    model, seen, asked = decoder(proposals=15), features(), states(3)
    boxes = [[0.1, 0.1, 0.4, 0.5], [0.55, 0.3, 0.95, 0.9]]
    fit(model, seen, asked, [0, 0, 0], [targets(boxes, [[True, False], [False, True], [False, False]])], 90)
    result = found(model, asked, seen, threshold=0.4)
    assert sorted(set(result.labels)) == ["a", "b"]
    for label, box in zip("ab", boxes, strict=True):
        best = result.filter(label=label)[0].box.xyxy
        assert np.abs(np.array(best) - np.array(box) * [640, 480, 640, 480]).max() < 25


LEFT, RIGHT = [0.1, 0.25, 0.4, 0.75], [0.6, 0.25, 0.9, 0.75]


def drawn(things: Sequence[tuple[int, int, list[float]]], seed: int) -> DenseFeatures:
    """Maps of an image of things (paint, shape, box). Only the finest map shows paint, only coarser ones shape."""
    maps = [0.3 * map_BCHW for map_BCHW in features(seed).maps]
    for paint, shape, (x0, y0, x1, y1) in things:
        for number, map_BCHW in enumerate(maps):
            side = map_BCHW.shape[-1]
            rows, columns = slice(round(y0 * side), round(y1 * side)), slice(round(x0 * side), round(x1 * side))
            map_BCHW[0, paint if number == 0 else shape, rows, columns] += 3.0
    return DenseFeatures(tuple(maps))


def test_it_learns_red_a_from_blue_a_by_looking_not_by_place() -> None:
    phrases = [(paint, shape) for paint in range(2) for shape in range(2)]  # red cup, red hat, blue cup, blue hat
    scenes = []
    for shape in range(2):
        scenes += [[(0, shape, LEFT), (1, shape, RIGHT)], [(1, shape, LEFT), (0, shape, RIGHT)]]
    images = [drawn(scene, seed) for seed, scene in enumerate(scenes)]
    batch = DenseFeatures(tuple(torch.cat(level) for level in zip(*(p.maps for p in images), strict=True)))
    truth = [
        targets([box for *_, box in scene], [[(p, s) == phrase for p, s, _ in scene] for phrase in phrases])
        for scene in scenes
    ]
    model, asked = decoder(proposals=15), states(4)
    fit(model, batch, asked.repeat(4, 1, 1), [r for r in range(4) for _ in phrases], truth, 70)
    for number, scene in enumerate(scenes):
        result = found(model, asked, drawn(scene, 100 + number), threshold=0.4)  # an image it never saw
        best = {
            label: np.array(result.filter(label=label)[0].box.xyxy) / [640, 480, 640, 480] for label in result.labels
        }
        expected = {"abcd"[phrases.index((paint, shape))]: box for paint, shape, box in scene}
        assert best.keys() == expected.keys()
        for label, box in expected.items():
            assert np.abs(best[label] - box).max() < 0.1


# Refined regions ---------------------------------------------------------------------------------------------------


def refined_twin(model: BoxDecoder, **changed: float) -> BoxDecoder:
    """A refined decoder with the weights of one that is not; its own part is as it starts."""
    twin = decoder(refined=True, **changed)
    missing, unexpected = twin.load_state_dict(model.state_dict(), strict=False)
    assert {name.split(".")[0] for name in missing} == {"refine"}
    assert not unexpected
    return twin


def test_a_refined_decoder_starts_as_the_one_it_was() -> None:
    model = decoder()
    twin = refined_twin(model)
    before, after = (found(each, states(2), features(), threshold=0.0) for each in (model, twin))
    assert np.array_equal(before.xyxy, after.xyxy)
    assert np.array_equal(before.scores, after.scores)
    assert model.settings["refined"] is False
    assert not [name for name in model.state_dict() if name.startswith("refine")]


def test_how_well_a_region_fits_joins_the_score_by_its_weight() -> None:
    plain = decoder(nms_iou=1.0)
    twin = refined_twin(plain, nms_iou=1.0, quality=0.5)
    with torch.no_grad():
        prepared = twin.prepare(features())
    fit = torch.linspace(-3, 3, 30)
    graded = replace(prepared, fit_BN=fit[None])
    before, after = decoded(plain, states(1), prepared, 0.0), decoded(twin, states(1), graded, 0.0)
    expected = 0.5 * np.log(1 / (1 + np.exp(-fit.numpy())))[[_row_of(box, graded) for box in after.xyxy]]
    unweighted = dict(zip(map(tuple, before.xyxy), before.scores, strict=True))
    plain_scores = np.array([unweighted[tuple(box)] for box in after.xyxy])
    np.testing.assert_allclose(_logit(after.scores) - _logit(plain_scores), expected, atol=1e-3)


def test_a_refined_decoder_learns_where_edges_are_and_how_well_regions_fit() -> None:
    seen, truth = features(), targets([[0.1, 0.1, 0.4, 0.5], [0.55, 0.3, 0.95, 0.9]], [[True, True]])
    model = decoder(proposals=15, refined=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("refine"))  # cells stay as bad as they are
    with torch.no_grad():
        torch.nn.init.constant_(model.box_head[-1].bias, 1.7)  # type: ignore[arg-type]
    fit(model, seen, states(1), [0], [truth], 80)
    with torch.no_grad():
        prepared = model.prepare(seen)
    assert prepared.proposals_BN4 is not None and prepared.fit_BN is not None
    first, last = (pairwise_iou(truth.boxes_G4, b[0]).amax(0) for b in (prepared.proposals_BN4, prepared.regions_BN4))
    near = first >= 0.4
    assert near.any()
    assert last[near].mean() > first[near].mean() + 0.1
    beside = (last >= 0.1) & (last < 0.3)
    assert prepared.fit_BN[0][near].mean() > prepared.fit_BN[0][beside].mean()


# Soft truth --------------------------------------------------------------------------------------------------------

BOX, ELSEWHERE = [0.1, 0.1, 0.4, 0.5], [0.6, 0.6, 0.9, 0.9]


def test_a_region_is_called_its_name_as_surely_as_its_box_is() -> None:
    truth = replace(targets([BOX], [[True]]), sure_G=torch.tensor([0.7]))
    called = named(torch.tensor([BOX, ELSEWHERE]), truth)
    torch.testing.assert_close(called, torch.tensor([[0.7, 0.0]]))


def test_an_object_without_a_name_is_no_phrases_business() -> None:
    unnamed = replace(targets([BOX], [[False]]), named_G=torch.tensor([False]))
    assert nameable(torch.tensor([BOX, ELSEWHERE]), unnamed).tolist() == [0, 1]
    assert nameable(torch.tensor([BOX]), targets([BOX], [[False]])).tolist() == [1]


def test_what_lies_on_a_doubtful_box_is_not_trained_unless_on_a_true_one() -> None:
    doubtful = replace(targets([BOX], [[True]]), doubtful_D4=torch.tensor([BOX, ELSEWHERE]))
    assert certain(torch.tensor([BOX, ELSEWHERE, [0.0, 0.7, 0.2, 0.9]]), doubtful).tolist() == [1, 0, 1]


@pytest.mark.parametrize("refined", [False, True])
@pytest.mark.usefixtures("unmoved")
def test_sure_and_named_truth_without_doubt_loses_what_plain_truth_does(refined: bool) -> None:
    model, plain = decoder(refined=refined), targets([BOX], [[True]])
    prepared = model.prepare(features())
    said = replace(plain, sure_G=torch.ones(1), named_G=torch.ones(1, dtype=torch.bool), doubtful_D4=torch.zeros(0, 4))
    first, second = (model.losses(states(1), [0], prepared, [truth]) for truth in (plain, said))
    assert first.keys() == second.keys() == {"objects", "boxes", "names"} | ({"moved", "fit"} if refined else set())
    for name, loss in first.items():
        torch.testing.assert_close(loss, second[name])
    torch.testing.assert_close(torch.stack(list(first.values())).sum(), model.loss(states(1), [0], prepared, [plain]))
