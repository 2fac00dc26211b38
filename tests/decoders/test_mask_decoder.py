"""The mask decoder: masks belong to boxes and phrases, lie in place and are learned; boxes and points do as well."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_backbone
from hypothesis import given, settings
from hypothesis import strategies as st

from vision_agent import DecodeRequest, DenseFeatures, InputError, RouteError, RouteSpec, VisionAgent
from vision_agent.decoders.mask.decoder import MaskDecoder
from vision_agent.geometry.frames import TileGrid
from vision_agent.geometry.rle import RunLengths
from vision_agent.model.checkpoint import save_backbone
from vision_agent.plugins.decoder import MaskTargets
from vision_agent.routing.adapter import new_route, save_adapter

WIDTHS = (8, 16, 24, 32)
GRID = TileGrid(160, 120, 1, 1, 448, 28)
SEGMENT = RouteSpec(token="[SEG]", decoder="mask", num_queries=4)


def decoder(margin: float = 0.15) -> MaskDecoder:
    torch.manual_seed(1)
    finder = {"hidden_size": 64, "feature_widths": list(WIDTHS), "width": 32, "embedding": 32, "proposals": 30}
    return MaskDecoder(finder, width=16, margin=margin).eval()


def noise(seed: int = 0) -> DenseFeatures:
    generator = torch.Generator().manual_seed(seed)
    sides = (32, 16, 8, 4)
    return DenseFeatures(
        tuple(torch.randn(1, w, s, s, generator=generator) for w, s in zip(WIDTHS, sides, strict=True))
    )


def states(count: int) -> torch.Tensor:
    return torch.randn(count, 4, 64, generator=torch.Generator().manual_seed(3))


def request(*phrases: str, threshold: float | None = None) -> DecodeRequest:
    return DecodeRequest(phrases, GRID, "test", threshold)


def disc(cells: int, middle: tuple[float, float], radius: float) -> torch.Tensor:
    """(cells, cells) bool: a disc in the frame "unit"."""
    places = (torch.arange(cells) + 0.5) / cells
    return (places[None] - middle[0]) ** 2 + (places[:, None] - middle[1]) ** 2 < radius**2


def images_of_discs(count: int) -> tuple[DenseFeatures, list[MaskTargets]]:
    """Images whose maps show a disc each, at places and of sizes of their own."""
    generator = torch.Generator().manual_seed(5)
    maps = [torch.randn(count, w, s, s, generator=generator) * 0.3 for w, s in zip(WIDTHS, (32, 16, 8, 4), strict=True)]
    targets = []
    for row in range(count):
        radius = 0.12 + 0.15 * float(torch.rand((), generator=generator))
        x, y = (0.3 + 0.4 * torch.rand(2, generator=generator)).tolist()
        for map_BCHW in maps:
            map_BCHW[row, :4] += 2.0 * disc(map_BCHW.shape[-1], (x, y), radius)
        targets.append(
            MaskTargets(
                boxes_G4=torch.tensor([[x - radius, y - radius, x + radius, y + radius]]),
                masks_GHW=disc(112, (x, y), radius)[None],
                phrase_G=torch.tensor([-1]),
            )
        )
    return DenseFeatures(tuple(maps)), targets


@pytest.fixture(scope="module")
def trained() -> MaskDecoder:
    """A decoder that has learned discs."""
    model = decoder().train()
    model.finder.requires_grad_(False)
    optimiser = torch.optim.AdamW(model.head.parameters(), lr=3e-3)
    features, targets = images_of_discs(6)
    for step in range(30):
        torch.manual_seed(step)
        losses = model.losses(torch.zeros(0, 4, 64), [], model.prepare(features), targets, 1)
        optimiser.zero_grad()
        torch.autograd.backward(torch.stack(list(losses.values())).sum())
        optimiser.step()
    return model.eval()


def test_every_mask_belongs_to_a_box_and_its_phrase() -> None:
    model = decoder()
    with torch.no_grad():
        prepared = model.prepare(noise())
    asked = request("dog", "cat", threshold=0.05)
    found = model.finder.decode(states(2), prepared.boxes, asked)
    result = model.decode(states(2), prepared, asked)
    assert len(result) == len(found) > 2 and result.decoder == "mask" and result.phrases == ("dog", "cat")
    assert result.labels == found.labels and np.array_equal(result.scores, found.scores)
    np.testing.assert_allclose(result.xyxy, found.xyxy, atol=1e-4)
    assert {each.label for each in result} == {"dog", "cat"}
    for each in result:
        assert each.mask.size == (120, 160) and each.mask_score is not None
        x0, y0, x1, y1 = each.box.xyxy
        grown = (x0 - 0.15 * (x1 - x0), y0 - 0.15 * (y1 - y0), x1 + 0.15 * (x1 - x0), y1 + 0.15 * (y1 - y0))
        inside = each.mask.runs.box
        assert inside is None or all(np.subtract(inside[:2], grown[:2]) >= -1)
        assert inside is None or all(np.subtract(grown[2:], inside[2:]) >= -1)
    assert result.union().area >= max(each.mask.area for each in result)


def test_nothing_found_is_an_empty_result() -> None:
    model = decoder()
    with torch.no_grad():
        prepared = model.prepare(noise())
    result = model.decode(states(1), prepared, request("dog", threshold=1.0))
    assert len(result) == 0 and result.image_size == (160, 120) and result.masks.shape == (0, 120, 160)


def test_masks_do_not_depend_on_what_else_is_asked(trained: MaskDecoder) -> None:
    with torch.no_grad():
        prepared = trained.prepare(noise())
    boxes = [[5.0, 5, 60, 50], [80, 20, 150, 110], [30, 60, 70, 119]]
    together = trained.decode_boxes(boxes, prepared, request())
    for number, box in enumerate(boxes):
        alone = trained.decode_boxes([box], prepared, request())[0]
        assert alone.mask.iou(together[number].mask) > 0.999
        assert alone.score == pytest.approx(together[number].score, abs=1e-5)


def test_shapes_are_learned(trained: MaskDecoder) -> None:
    features, targets = images_of_discs(6)
    with torch.no_grad():
        prepared = trained.prepare(features)
        boxes_BN4 = torch.stack([target.boxes_G4 for target in targets])
        logits_MSS, rating_M = trained.head(prepared.maps, boxes_BN4, torch.zeros(6, 1, 32))
    true = torch.stack([target.masks_GHW[0] for target in targets])
    for row, box_4 in enumerate(boxes_BN4[:, 0]):
        grown = (trained.head.grown(box_4) * 112).tolist()
        mask = RunLengths.from_logits(logits_MSS[row].numpy(), (112, 112), box=grown).to_mask()
        iou = (mask & true[row].numpy()).sum() / (mask | true[row].numpy()).sum()
        assert iou > 0.85  # the filled box has pi / 4
        assert abs(float(torch.sigmoid(rating_M[row])) - iou) < 0.25


def test_images_without_outlined_things_teach_nothing() -> None:
    model = decoder()
    features, (first, *_) = images_of_discs(2)
    empty = MaskTargets(torch.zeros(0, 4), torch.zeros(0, 112, 112, dtype=torch.bool), torch.zeros(0, dtype=torch.long))
    torch.manual_seed(0)
    both = model.loss(torch.zeros(0, 4, 64), [], model.prepare(features), [first, empty]).detach()
    torch.manual_seed(0)
    alone = DenseFeatures(tuple(map_BCHW[:1] for map_BCHW in features.maps))
    one = model.loss(torch.zeros(0, 4, 64), [], model.prepare(alone), [first]).detach()
    none = model.loss(torch.zeros(0, 4, 64), [], model.prepare(alone), [empty]).detach()
    assert float(both) == pytest.approx(float(one)) and float(none) == 0


def test_the_phrase_matters_to_the_mask() -> None:
    model = decoder()
    with torch.no_grad():
        prepared = model.prepare(noise())
        unit_KE, _ = model.finder.phrase_vectors(states(2))
        boxes_BN4 = torch.tensor([[[0.1, 0.1, 0.6, 0.7]] * 2])
        logits_MSS, _ = model.head(prepared.maps, boxes_BN4, unit_KE[None])
    assert float((logits_MSS[0] - logits_MSS[1]).abs().max()) > 1e-3


def test_points_take_the_mask_that_agrees_with_them(trained: MaskDecoder) -> None:
    features, targets = images_of_discs(1)
    with torch.no_grad():
        prepared = trained.prepare(features)
    x0, y0, x1, y1 = (targets[0].boxes_G4[0] * torch.tensor([160.0, 120, 160, 120])).tolist()
    middle = [(x0 + x1) / 2, (y0 + y1) / 2]
    result = trained.decode_points([middle], prepared, request())
    assert len(result) == 1 and result.labels == ["object"] and result[0].prompt == 0
    # Its score goes by the expected IoU and the probability of the point, which is surely on the disc.
    assert result[0].mask_score is not None and 0.3 * result[0].mask_score < result[0].score <= result[0].mask_score
    assert result[0].mask.to_array()[int(middle[1]), int(middle[0])]
    two = trained.decode_points([[middle, [1, 1]]], prepared, request(), [[1, 0]], ["disc"])
    assert two.labels == ["disc"] and not two[0].mask.to_array()[1, 1]


def test_a_point_that_no_proposal_holds_has_a_mask_around_it(trained: MaskDecoder) -> None:
    features, targets = images_of_discs(1)
    with torch.no_grad():
        prepared = trained.prepare(features)
    prepared.boxes.proposed_BN.zero_()
    x0, y0, x1, y1 = (targets[0].boxes_G4[0] * torch.tensor([160.0, 120, 160, 120])).tolist()
    middle = [(x0 + x1) / 2, (y0 + y1) / 2]
    (found,) = trained.decode_points([middle], prepared, request())
    assert found.mask.to_array()[int(middle[1]), int(middle[0])]


@settings(max_examples=40, deadline=None)
@given(
    corner=st.tuples(st.floats(-30, 90), st.floats(-30, 60)),
    size=st.tuples(st.floats(2, 140), st.floats(2, 140)),
    seed=st.integers(0, 999),
)
def test_logits_lie_over_their_box_alone(corner: tuple[float, float], size: tuple[float, float], seed: int) -> None:
    """As if every pixel's middle inside the box sampled the logits bilinearly, and none outside did."""
    width, height = 100, 70
    logits_SS = torch.randn(9, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    box = (*corner, corner[0] + size[0], corner[1] + size[1])
    mask = RunLengths.from_logits(logits_SS.float().numpy(), (height, width), box=box).to_mask()
    middle = (20.2, 10.0, 61.7, 66.5)
    part = RunLengths.from_logits(logits_SS.float().numpy(), (height, width), box=box, within=middle).to_mask()
    x = ((torch.arange(width) + 0.5).double() - box[0]) / size[0]
    y = ((torch.arange(height) + 0.5).double() - box[1]) / size[1]
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1) * 2 - 1
    sampled = F.grid_sample(logits_SS[None, None], grid[None], padding_mode="border", align_corners=False)[0, 0]
    inside = (x >= 0)[None] & (x < 1)[None] & (y >= 0)[:, None] & (y < 1)[:, None]
    sure = sampled.abs() > 1e-4  # the last digit may fall on either side
    assert np.array_equal(mask[sure], (inside & (sampled > 0))[sure].numpy())
    kept = np.zeros_like(mask)
    kept[10:66, 20:62] = True  # whose middles lie inside: 65.5 does, 66.5 does not
    assert np.array_equal(part, mask & kept)


@pytest.mark.parametrize(
    ("boxes", "problem"),
    [
        ([], "boxes"),
        ([[1, 2, 3]], "shape"),
        ([[50, 10, 20, 40]], r"boxes\[0\]"),
        ([[1, 1, 9, 9], [200, 10, 240, 60]], r"boxes\[1\]"),
        ([[1, 1, float("nan"), 9]], "finite"),
    ],
)
def test_boxes_that_cannot_be_are_refused(boxes: list[list[float]], problem: str) -> None:
    model = decoder()
    with torch.no_grad():
        prepared = model.prepare(noise())
    with pytest.raises(InputError, match=problem):
        model.decode_boxes(boxes, prepared, request())


def test_points_that_cannot_be_are_refused() -> None:
    model = decoder()
    with torch.no_grad():
        prepared = model.prepare(noise())
    with pytest.raises(InputError, match=r"points\[0\]"):
        model.decode_points([[500, 3]], prepared, request())
    with pytest.raises(InputError, match="point_labels"):
        model.decode_points([[5, 3]], prepared, request(), [0])


def test_an_agent_segments_by_phrase_box_and_point(tmp_path: Path, photo: Path) -> None:
    """An adapter saved for a backbone with one feature map, as InternViT gives it."""
    backbone = tiny_backbone()
    save_backbone(backbone, tmp_path / "tiny", torch.float32)
    route = new_route(backbone, SEGMENT, torch.Generator().manual_seed(0))
    save_adapter(tmp_path / "seg", route, backbone)
    agent = VisionAgent.from_pretrained(tmp_path / "tiny", adapters=[tmp_path / "seg"])
    result = agent.segment(["dog", "cat"], photo, threshold=0.05)
    assert len(result) > 0 and result.decoder == "mask" and set(result.labels) <= {"dog", "cat"}
    assert result.masks.shape == (len(result), 480, 640)
    boxes = agent.segment(image=photo, boxes=[[10, 10, 100, 80], [50, 60, 700, 200]])
    assert [each.box.xyxy for each in boxes] == [(10, 10, 100, 80), (50, 60, 700, 200)]
    assert boxes[1].score == boxes[1].mask_score
    assert len(agent.segment(image=photo, points=[[320, 240], [10, 10]])) == 2
    with pytest.raises(InputError, match="together"):
        agent.segment(image=photo, boxes=[[10, 10, 100, 80]], points=[[320, 240]])


def test_without_the_route_boxes_need_a_segmenter(checkpoint: Path, photo: Path) -> None:
    with pytest.raises(RouteError, match="seg"):
        VisionAgent.from_pretrained(checkpoint).segment(image=photo, boxes=[[10, 10, 100, 80]])
