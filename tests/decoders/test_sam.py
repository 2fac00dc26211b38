"""SAM: the numbers of transformers' own pipeline, right coordinates in any image, one encoding, one call."""

import json
import sys
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from numerics import assert_same
from PIL import Image
from torch.nn import functional as F
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from vision_agent.decoders.sam import Network, SamSegmenter
from vision_agent.decoders.sam.original_network import OriginalNetwork
from vision_agent.errors import CheckpointError, ConfigError, InputError, MissingExtraError
from vision_agent.results.segmentation import Segmentation

SIDE = 64
KINDS = ["sam", "sam2", "sam3_tracker"]
SIZES = [(96, 40), (37, 90), (64, 64), (150, 149)]  # width, height
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def tiny_model(kind: str) -> Any:
    """A random SAM with a canvas of 64 pixels, its weights large enough for masks with some shape."""
    torch.manual_seed(3)
    decoder = {"hidden_size": 16, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
    prompts = {"hidden_size": 16, "image_size": SIDE, "patch_size": 16}
    if kind == "sam":
        vision = {
            "hidden_size": 16,
            "output_channels": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": SIDE,
            "patch_size": 8,
            "window_size": 3,
            "global_attn_indexes": [1],
            "num_pos_feats": 8,
            "mlp_dim": 32,
            "initializer_range": 0.02,
        }
        prompts |= {"patch_size": 8}
        config_class, model_class = transformers.SamConfig, transformers.SamModel
    elif kind == "sam3_tracker":
        vision = {
            "backbone_config": {
                "model_type": "sam3_vit_model",
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": SIDE,
                "patch_size": 16,
                "window_size": 2,
                "global_attn_indexes": [1],
                "pretrain_image_size": SIDE,
            },
            "fpn_hidden_size": 16,
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        }
        config_class, model_class = transformers.Sam3TrackerConfig, transformers.Sam3TrackerModel
    else:
        vision = {
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": 8,
                "image_size": [SIDE, SIDE],
                "blocks_per_stage": [1, 1, 2, 1],
                "embed_dim_per_stage": [8, 16, 32, 64],
                "num_attention_heads_per_stage": [1, 1, 2, 2],
                "window_size_per_stage": [4, 4, 4, 4],
                "global_attention_blocks": [3],
            },
            "backbone_channel_list": [64, 32, 16, 8],
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
            "fpn_hidden_size": 16,
        }
        config_class, model_class = transformers.Sam2Config, transformers.Sam2Model
    more = {}
    if kind == "sam2_video":
        config_class, model_class = transformers.Sam2VideoConfig, transformers.Sam2VideoModel
        more = {"memory_attention_hidden_size": 16, "memory_encoder_hidden_size": 16}
    config = config_class(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder, **more)
    model = model_class(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    return model.eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sam")
    for kind in [*KINDS, "sam2_video"]:
        tiny_model(kind).save_pretrained(root / kind)
    return {kind: root / kind for kind in [*KINDS, "sam2_video"]}


@cache
def segmenter_in(folder: Path) -> SamSegmenter:
    return SamSegmenter.from_pretrained(folder, device="cpu")


def random_image(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Smooth coloured noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def official(model: Any, image: Image.Image, prompts: dict[str, Any], several: bool) -> tuple[Any, Any]:
    """Logits (n, m, H, W) of the image's size, and ratings (n, m), by transformers alone, without a cache."""
    width, height = image.size
    if isinstance(model, transformers.SamModel):
        square = {"height": SIDE, "width": SIDE}
        processor = transformers.SamProcessor(SamImageProcessorPil(size={"longest_edge": SIDE}, pad_size=square))
        inputs = processor(image, **{name: values.tolist() for name, values in prompts.items()}, return_tensors="pt")
        sizes = inputs.pop("original_sizes"), inputs.pop("reshaped_input_sizes")
        inputs = {name: each.float() if each.is_floating_point() else each for name, each in inputs.items()}
        with torch.no_grad():
            out = model(**inputs, multimask_output=several)
        logits = processor.post_process_masks(out.pred_masks, *sizes, binarize=False)[0]
        return logits, out.iou_scores[0]
    # Their processors for SAM 2 and 3 need torchvision; what they do is short enough.
    centre = (0.5, 0.5, 0.5)
    mean, std = (centre, centre) if isinstance(model, transformers.Sam3TrackerModel) else (MEAN, STD)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    pixels = F.interpolate(pixels, (SIDE, SIDE), mode="bilinear", antialias=True).float()
    pixels = (pixels / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    scale = {2: [SIDE / width, SIDE / height], 4: [SIDE / width, SIDE / height] * 2}
    inputs = {
        name: torch.tensor(values)
        if name == "input_labels"
        else (torch.tensor(values) * torch.tensor(scale[values.shape[-1]])).float()
        for name, values in prompts.items()
    }
    with torch.no_grad():
        out = model(pixel_values=pixels, **inputs, multimask_output=several)
    logits = F.interpolate(out.pred_masks[0], (height, width), mode="bilinear", align_corners=False)
    return logits, out.iou_scores[0]


def agrees(found: Segmentation, logits: Any, ratings: Any) -> None:
    """Same ratings, and the same masks but where the logits are zero to rounding."""
    best = ratings.argmax(1)
    rows = torch.arange(len(best))
    expected = logits[rows, best].numpy()
    assert [each.mask_score for each in found] == pytest.approx(ratings[rows, best].clip(0, 1).tolist(), abs=1e-4)
    clear = np.abs(expected) > 1e-4
    assert clear.mean() > 0.98
    assert (found.masks == (expected > 0))[clear].all()
    assert len(np.unique(expected > 0)) == 2, "masks that are all full or all empty would prove nothing"


BOXES = np.array([[0.1, 0.1, 0.5, 0.6], [0.3, 0.2, 0.95, 0.9], [0.0, 0.5, 1.0, 1.0]])
POINTS = np.array([[[0.2, 0.3], [0.7, 0.6]], [[0.5, 0.5], [0.1, 0.9]]])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_boxes_give_what_transformers_gives(kind: str, size: tuple[int, int], folders: dict[str, Path]) -> None:
    image, boxes = random_image(size), BOXES * [*size, *size]
    found = segmenter_in(folders[kind]).segment(image, boxes=boxes)
    agrees(found, *official(tiny_model(kind), image, {"input_boxes": boxes[None]}, several=False))
    assert found.scores.tolist() == [np.float32(each.mask_score) for each in found]
    assert found.xyxy == pytest.approx(boxes.astype(np.float32)) and found.image_size == size
    assert (found.decoder, found.model, found.labels) == ("sam", kind, ["object"] * 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES[:2])
def test_points_give_the_best_of_several_masks(kind: str, size: tuple[int, int], folders: dict[str, Path]) -> None:
    image, points, labels = random_image(size), POINTS * size, np.array([[1, 0], [1, 1]])
    found = segmenter_in(folders[kind]).segment(image, points=points, point_labels=labels)
    prompts = {"input_points": points[None], "input_labels": labels[None]}
    logits, ratings = official(tiny_model(kind), image, prompts, several=True)
    assert ratings.shape == (2, 3)
    agrees(found, logits, ratings)
    for segment in found:
        assert segment.box == segment.mask.box


@pytest.mark.parametrize("kind", KINDS)
def test_points_refine_boxes(kind: str, folders: dict[str, Path]) -> None:
    image, points, boxes = random_image((96, 40)), POINTS * [96, 40], BOXES[:2] * [96, 40, 96, 40]
    labels = np.array([[1, 0], [0, 0]])
    found = segmenter_in(folders[kind]).segment(image, boxes=boxes, points=points, point_labels=labels)
    prompts = {"input_points": points[None], "input_labels": labels[None], "input_boxes": boxes[None]}
    agrees(found, *official(tiny_model(kind), image, prompts, several=False))


@pytest.mark.parametrize("kind", KINDS)
def test_one_point_for_each_object_is_the_short_form(kind: str, folders: dict[str, Path]) -> None:
    image, points = random_image((96, 40)), [[10, 10], [80.5, 30]]
    sam = segmenter_in(folders[kind])
    short = sam.segment(image, points=points)
    assert short == sam.segment(image, points=[[point] for point in points], point_labels=[[1], [1]])
    assert short == sam.segment(image, points=points, point_labels=[1, 1])


def test_a_video_checkpoint_is_taken_as_its_image_part(folders: dict[str, Path]) -> None:
    video = transformers.Sam2VideoModel.from_pretrained(folders["sam2_video"])
    alone = tiny_model("sam2")
    alone.load_state_dict({name: video.state_dict()[name] for name in alone.state_dict()})
    image, boxes = random_image((96, 40)), BOXES * [96, 40, 96, 40]
    found = SamSegmenter.from_pretrained(folders["sam2_video"], "cpu").segment(image, boxes=boxes)
    agrees(found, *official(alone.eval(), image, {"input_boxes": boxes[None]}, several=False))


# --- many objects ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_many_boxes_are_one_decoder_call_and_equal_single_ones(
    kind: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sam = SamSegmenter.from_pretrained(folders[kind], "cpu")
    calls: dict[str, list[Any]] = {"features": [], "masks": []}
    for name, made in calls.items():
        monkeypatch.setattr(sam._network, name, counting(getattr(sam._network, name), made))
    image = random_image((80, 50))
    boxes = [[5 + 4 * n, 3, 30 + 5 * n, 20 + 3 * n] for n in range(8)]
    together = sam.segment(image, boxes=boxes)
    assert [len(made) for made in calls.values()] == [1, 1]
    alone = [sam.segment(image.copy(), boxes=[box])[0] for box in boxes]
    assert len(calls["features"]) == 1, "the image is encoded once"
    many, ratings = calls["masks"][0]
    alone_logits, alone_ratings = (torch.cat(part) for part in zip(*calls["masks"][1:], strict=True))
    assert_same(alone_logits, many, terms=64)
    assert_same(alone_ratings, ratings, terms=64)
    for a, b in zip(together, alone, strict=True):
        assert a.box == b.box and a.mask.iou(b.mask) > 0.995


def counting(function: Callable[..., Any], results: list[Any]) -> Callable[..., Any]:
    def called(*arguments: Any, **keywords: Any) -> Any:
        results.append(function(*arguments, **keywords))
        return results[-1]

    return called


def test_more_objects_than_one_call_holds(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    image, boxes = random_image((80, 50)), [[n, 3, 30 + n, 20 + n] for n in range(7)]
    sam = segmenter_in(folders["sam"])
    whole = sam.segment(image, boxes=boxes)
    monkeypatch.setattr("vision_agent.decoders.sam.segmenter.OBJECTS_AT_ONCE", 3)
    pieces = sam.segment(image, boxes=boxes)
    assert [each.box for each in pieces] == [each.box for each in whole] and len(pieces) == 7
    assert all(a.mask.iou(b.mask) > 0.995 for a, b in zip(whole, pieces, strict=True))


def test_encoded_images_are_remembered_by_content_up_to_a_bound(folders: dict[str, Path]) -> None:
    made: list[Any] = []
    first, second, third = (random_image((40, 40), seed) for seed in range(3))
    box = [[1, 1, 30, 30]]
    for bound, expected in ((2**20, 3), (2 * 16 * 64 * 4, 4), (0, 7)):  # all fit; two fit; none does
        sam = SamSegmenter.from_pretrained(folders["sam"], "cpu", cache_bytes=bound)
        made.clear()
        sam._network.features = counting(sam._network.features, made)
        results = [sam.segment(each, boxes=box) for each in (first, first.copy(), second, first, third, first, second)]
        assert len(made) == expected, bound
        assert results[0] == results[1] == results[3] == results[5] and results[0].masks.any()
    sam = SamSegmenter.from_pretrained(folders["sam"], "cpu")
    sam._network.features = counting(sam._network.features, made)
    made.clear()
    sam.segment(first, boxes=box)
    sam.clear_cache()
    sam.segment(first, boxes=box)
    assert len(made) == 2


def test_threads_share_one_segmenter(folders: dict[str, Path]) -> None:
    sam = SamSegmenter.from_pretrained(folders["sam2"], "cpu", cache_bytes=20000)
    images = [random_image((60, 30 + n), n) for n in range(4)]
    boxes = [[5, 5, 40, 25]]
    expected = [sam.segment(each, boxes=boxes) for each in images]
    wrong = []

    def work(number: int) -> None:
        for turn in range(6):
            which = (number + turn) % 4
            if sam.segment(images[which], boxes=boxes) != expected[which]:
                wrong.append((number, turn))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# --- coordinates ----------------------------------------------------------------------------------------------------


class Stencil(Network):
    """A network that is a ruler: its masks are the boxes it is told, drawn on the canvas; points give squares."""

    def __init__(self, pads: bool, side: int = 256) -> None:
        self.side, self.pads, self.mean, self.std = side, pads, MEAN, STD
        self.module = torch.nn.Linear(1, 1)
        self.place(torch.device("cpu"), torch.float32)

    def features(self, pixels_1CHW: Any) -> tuple[Any, ...]:
        assert pixels_1CHW.shape == (1, 3, self.side, self.side)
        return (pixels_1CHW,)

    def masks(self, features: Any, points_NK2: Any, labels_NK: Any, boxes_N4: Any, *, several: bool) -> tuple[Any, Any]:
        assert several == (boxes_N4 is None)
        if boxes_N4 is None:
            middle = points_NK2[:, 0]
            boxes_N4 = torch.cat([middle - 20, middle + 20], dim=1)
        x0, y0, x1, y1 = boxes_N4[:, :, None, None].unbind(1)
        y, x = torch.meshgrid(torch.arange(self.side) + 0.5, torch.arange(self.side) + 0.5, indexing="ij")
        inside = torch.minimum(torch.minimum(x - x0, x1 - x), torch.minimum(y - y0, y1 - y))
        return inside[:, None], torch.full((len(inside), 1), 0.75)

    token_width = 4

    def masks_of_tokens(self, features: Any, tokens_NKE: Any) -> tuple[Any, Any]:
        """A token is a box."""
        return self.masks(features, None, None, tokens_NKE[:, 0], several=False)


@settings(max_examples=80, deadline=None)
@given(
    st.booleans(),
    st.integers(20, 400),
    st.integers(20, 400),
    st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=1, max_size=3),
)
def test_masks_lie_where_the_boxes_say(
    pads: bool, width: int, height: int, corners: list[tuple[float, float, float, float]]
) -> None:
    xs = [sorted((a * width, b * width)) for a, _, b, _ in corners]
    ys = [sorted((a * height, b * height)) for _, a, _, b in corners]
    boxes = [[x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)] for (x0, x1), (y0, y1) in zip(xs, ys, strict=True)]
    boxes = [[min(x0, width - 1), min(y0, height - 1), x1, y1] for x0, y0, x1, y1 in boxes]
    sam = SamSegmenter(Stencil(pads), model="ruler")
    found = sam.segment(Image.new("RGB", (width, height)), boxes=boxes)
    across = max(1, width / (256 if not pads else 256 * width / max(width, height)))
    down = max(1, height / (256 if not pads else 256 * height / max(width, height)))
    for segment, box in zip(found, boxes, strict=True):
        inside = np.clip(box, 0, [width, height, width, height])
        if (inside[2] - inside[0] > 2 * across + 1) and (inside[3] - inside[1] > 2 * down + 1):
            assert segment.mask.box is not None
            off = np.abs(np.array(segment.mask.box.xyxy) - inside)
            assert (off <= [across + 0.51, down + 0.51] * 2).all(), (segment.mask.box, inside)


@pytest.mark.parametrize("pads", [True, False])
@pytest.mark.parametrize("size", [(300, 100), (90, 310), (40, 40)])
def test_masks_lie_around_the_points(pads: bool, size: tuple[int, int]) -> None:
    points = np.array([[0.5, 0.5], [0.3, 0.7]]) * size
    found = SamSegmenter(Stencil(pads), model="ruler").segment(Image.new("RGB", size), points=points)
    for segment, point in zip(found, points, strict=True):
        assert segment.mask.box is not None and segment.score == 0.75
        assert segment.mask.box.center == pytest.approx(tuple(point), abs=1.5)


def test_boxes_over_the_edge_are_cut_for_the_model_and_kept_in_the_result() -> None:
    sam = SamSegmenter(Stencil(False), model="ruler")
    found = sam.segment(Image.new("RGB", (100, 50)), boxes=[[-30, 10, 40, 70]])
    assert found[0].box.xyxy == (-30, 10, 40, 70)
    assert found.masks[0, 12:, :38].all() and not found.masks[0, :9].any() and not found.masks[0, :, 42:].any()


def test_a_turned_photo_is_segmented_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (50, 100)).save(tmp_path / "turned.jpg", exif=exif)
    found = SamSegmenter(Stencil(True), model="ruler").segment(tmp_path / "turned.jpg", boxes=[[60, 10, 90, 40]])
    assert found.image_size == (100, 50) and found.masks[0, 15:35, 65:85].all() and found[0].mask.area < 1000


# --- what the result says -------------------------------------------------------------------------------------------


def test_labels_scores_and_phrases_of_a_detector_go_into_the_result() -> None:
    sam = SamSegmenter(Stencil(True), model="ruler")
    image, boxes = Image.new("RGB", (60, 60)), [[5, 5, 30, 30], [20, 20, 50, 50], [8, 8, 40, 40]]
    found = sam.segment(
        image, boxes=boxes, labels=["dog", "cat", "dog"], scores=[0.9, 0.2, 0.4], phrases=["cat", "dog"], model="toy"
    )
    assert (found.labels, found.phrases, found.model) == (["dog", "cat", "dog"], ("cat", "dog"), "toy")
    assert found.scores == pytest.approx([0.9, 0.2, 0.4]) and {each.mask_score for each in found} == {0.75}
    assert sam.segment(image, boxes=boxes, labels=["dog", "cat", "dog"]).phrases == ("dog", "cat")
    assert sam.segment(image, boxes=boxes).model == "ruler"


def test_ratings_beyond_one_are_cut() -> None:
    network = Stencil(True)
    masks = network.masks
    network.masks = lambda *a, **k: (masks(*a, **k)[0], torch.tensor([[1.2], [-0.1]]))
    found = SamSegmenter(network, model="ruler").segment(Image.new("RGB", (60, 60)), points=[[9, 9], [30, 30]])
    assert found.scores.tolist() == [1, 0]


def test_a_mask_that_is_empty_has_its_points_box() -> None:
    network = Stencil(True)
    network.masks = lambda *a, **k: (torch.full((1, 1, 8, 8), -1.0), torch.ones(1, 1))
    found = SamSegmenter(network, model="ruler").segment(Image.new("RGB", (60, 60)), points=[[[9, 5], [3, 20]]])
    assert found[0].mask.area == 0 and found[0].box.xyxy == (3, 5, 9, 20)


def test_half_precision_is_for_the_encoder_alone(folders: dict[str, Path]) -> None:
    image, boxes = random_image((96, 40)), BOXES * [96, 40, 96, 40]
    for kind in KINDS:
        exact = segmenter_in(folders[kind]).segment(image, boxes=boxes)
        sam = SamSegmenter.from_pretrained(folders[kind], "cpu", "bf16")
        rough = sam.segment(image, boxes=boxes)
        assert rough.scores == pytest.approx(exact.scores, abs=0.05)
        assert {each.dtype for features in sam._seen.values() for each in features} == {torch.float32}
        assert {parameter.dtype for parameter in sam._network.module.parameters()} == {torch.float32}


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({}, "either `boxes` or `points`"),
        ({"boxes": []}, "`boxes` must be at least one"),
        ({"boxes": np.zeros((0, 4))}, "`boxes` must be at least one"),
        ({"boxes": [1, 2, 3, 4]}, r"`boxes` must be of shape \(n, 4\)"),
        ({"boxes": [[1, 2, 3]]}, r"`boxes` must be of shape \(n, 4\)"),
        ({"boxes": [[1, 2, 3], [1]]}, "`boxes` must be boxes"),
        ({"boxes": "all"}, "`boxes` must be boxes"),
        ({"boxes": [[1, 2, float("nan"), 4]]}, "`boxes` must be finite"),
        ({"boxes": [[1, 2, 3, 4], [1, 2, float("inf"), 4]]}, "`boxes` must be finite"),
        ({"boxes": [[1, 2, 3, 4], [30, 2, 10, 9]]}, r"`boxes\[1\]` must be x0, y0, x1, y1 with x1 > x0"),
        ({"boxes": [[5, 5, 5, 9]]}, r"`boxes\[0\]`"),
        ({"boxes": [[60, 5, 90, 9]]}, r"`boxes\[0\]` .* partly inside the image of 60 x 40"),
        ({"boxes": [[-9, -9, 0, 9]]}, r"`boxes\[0\]` .* partly inside the image of 60 x 40"),
        ({"points": []}, "`points` must be at least one"),
        ({"points": [1, 2]}, r"`points` must be of shape \(n, 2\) or \(n, k, 2\)"),
        ({"points": [[1, 2, 3]]}, r"`points` must be of shape"),
        ({"points": [[1, float("nan")]]}, "`points` must be finite"),
        ({"points": [[1, 2], [60.5, 2]]}, r"`points\[1\]` must be inside the image of 60 x 40"),
        ({"points": [[[1, 2], [3, -1]]]}, r"`points\[0\]\[1\]` must be inside"),
        ({"points": [[1, 2]], "point_labels": [1, 1]}, r"`point_labels` must be of shape \(1, 1\)"),
        ({"points": [[1, 2]], "point_labels": [2]}, "`point_labels` must be 1"),
        ({"points": [[1, 2], [3, 4]], "point_labels": [1, 0]}, "`point_labels` must be at least one 1"),
        ({"boxes": [[1, 2, 3, 4]], "point_labels": [1]}, "`point_labels` must be left out"),
        ({"boxes": [[1, 2, 3, 4]], "points": [[1, 2], [3, 4]]}, "`points` must be for 1 objects"),
        ({"boxes": [[1, 2, 3, 4]], "labels": ["a", "b"]}, "`labels` must be 1 of them"),
        ({"boxes": [[1, 2, 3, 4]], "labels": "a"}, "`labels` must be 1 of them"),
        ({"boxes": [[1, 2, 3, 4]], "scores": []}, "`scores` must be 1 of them"),
        ({"boxes": [[1, 2, 3, 4]], "scores": [2]}, r"`scores\[0\]` must be from 0 to 1"),
    ],
)
def test_bad_prompts_are_named(prompts: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SamSegmenter(Stencil(True), model="ruler").segment(Image.new("RGB", (60, 40)), **prompts)


def test_missing_or_damaged_checkpoints_are_named(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no SAM checkpoint at"):
        SamSegmenter.from_pretrained(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        SamSegmenter.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json of .* is damaged"):
        SamSegmenter.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "internvl"}')
    with pytest.raises(CheckpointError, match="is a 'internvl' model; expected one of 'sam', 'sam2'"):
        SamSegmenter.from_pretrained(tmp_path)
    config = (folders["sam"] / "config.json").read_text()
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(CheckpointError, match="could not be loaded"):  # no weights
        SamSegmenter.from_pretrained(tmp_path)
    weights = (folders["sam"] / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(CheckpointError, match="could not be loaded"):
        SamSegmenter.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((folders["sam2"] / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"do not fit|could not be loaded"):
        SamSegmenter.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(weights)
    larger = json.loads(config)
    larger["mask_decoder_config"]["mlp_dim"] = 48
    (tmp_path / "config.json").write_text(json.dumps(larger))
    with pytest.raises(CheckpointError, match=r"do not fit|could not be loaded"):  # of another size
        SamSegmenter.from_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="`device`"):
        SamSegmenter.from_pretrained(folders["sam"], "toaster")
    with pytest.raises(ConfigError, match="`dtype`"):
        SamSegmenter.from_pretrained(folders["sam"], "cpu", "int3")


def test_the_folders_own_normalisation_counts(folders: dict[str, Path], tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folders["sam"] / name).read_bytes())
    for file, wrap in (("preprocessor_config.json", False), ("processor_config.json", True)):
        content = {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 0.5]}
        (tmp_path / file).write_text(json.dumps({"image_processor": content} if wrap else content))
        network = SamSegmenter.from_pretrained(tmp_path, "cpu")._network
        assert (network.mean, network.std) == ((0.1, 0.2, 0.3), (1, 1, 0.5))
        (tmp_path / file).unlink()
    assert SamSegmenter.from_pretrained(tmp_path, "cpu")._network.mean == MEAN


# --- the original package -------------------------------------------------------------------------------------------


@pytest.fixture
def original(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`segment_anything`. It imports torchvision for its automatic masks, which are not used here."""
    try:
        import torchvision  # noqa: F401
    except ImportError:
        for name, members in {
            "torchvision": (),
            "torchvision.ops": (),
            "torchvision.ops.boxes": ("batched_nms", "box_area"),
            "torchvision.transforms": (),
            "torchvision.transforms.functional": ("resize", "to_pil_image"),
        }.items():
            module = ModuleType(name)
            for member in members:
                setattr(module, member, None)
            monkeypatch.setitem(sys.modules, name, module)
    return pytest.importorskip("segment_anything")


def tiny_original(package: ModuleType) -> Any:
    """A ViT-B of one windowed layer on a canvas of 128 pixels."""
    from segment_anything import modeling

    torch.manual_seed(1)
    model = modeling.Sam(
        modeling.ImageEncoderViT(
            img_size=128,
            embed_dim=768,
            depth=1,
            num_heads=2,
            mlp_ratio=0.1,
            out_chans=16,
            window_size=4,
            use_rel_pos=True,
        ),
        modeling.PromptEncoder(
            embed_dim=16, image_embedding_size=(8, 8), input_image_size=(128, 128), mask_in_chans=16
        ),
        modeling.MaskDecoder(
            transformer_dim=16,
            transformer=modeling.TwoWayTransformer(depth=1, embedding_dim=16, num_heads=2, mlp_dim=16),
        ),
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    return model.eval()


def test_an_original_checkpoint_gives_what_its_own_package_gives(
    original: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_original(original)
    torch.save(model.state_dict(), tmp_path / "sam_vit_b_tiny.pth")
    monkeypatch.setitem(original.sam_model_registry, "vit_b", lambda: tiny_original(original))
    sam = SamSegmenter.from_pretrained(tmp_path / "sam_vit_b_tiny.pth", "cpu")
    for size in ((96, 40), (50, 200)):
        image = random_image(size)
        width, height = (int(side * 128 / max(size) + 0.5) for side in size)
        pixels = torch.from_numpy(np.array(image.resize((width, height), Image.Resampling.BILINEAR)))
        record = {"image": pixels.permute(2, 0, 1).float(), "original_size": size[::-1]}
        scale = np.array([width, height]) / size
        boxes, points = BOXES * [*size, *size], POINTS * size
        box_record = {**record, "boxes": torch.tensor(boxes * np.tile(scale, 2)).float()}
        labels = torch.tensor([[1, 0], [1, 1]])
        point_record = {**record, "point_coords": torch.tensor(points * scale).float(), "point_labels": labels}
        expected = model([box_record], multimask_output=False)[0]
        found = sam.segment(image, boxes=boxes)
        assert (found.masks != expected["masks"][:, 0].numpy()).mean() < 1e-3
        assert found.scores == pytest.approx(expected["iou_predictions"][:, 0].clip(0, 1).numpy(), abs=1e-4)
        expected = model([point_record], multimask_output=True)[0]
        found = sam.segment(image, points=points, point_labels=labels.numpy())
        best = expected["iou_predictions"].argmax(1)
        assert (found.masks != expected["masks"][torch.arange(2), best].numpy()).mean() < 1e-3
        assert 0 < found.masks.mean() < 1
    assert found.model == "sam_vit_b_tiny"


def test_original_checkpoints_say_which_they_are_by_their_width(
    original: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []
    for kind in ("vit_b", "vit_l", "vit_h"):
        monkeypatch.setitem(original.sam_model_registry, kind, lambda kind=kind: built.append(kind) or StrictSam())
    for width in (768, 1024, 1280):
        torch.save({"image_encoder.pos_embed": torch.zeros(1, 2, 2, width)}, tmp_path / "sam.pth")
        OriginalNetwork.load(tmp_path / "sam.pth")
    assert built == ["vit_b", "vit_l", "vit_h"]
    torch.save({"image_encoder.pos_embed": torch.zeros(1, 2, 2, 768), "more": torch.ones(1)}, tmp_path / "sam.pth")
    with pytest.raises(CheckpointError, match="do not fit vit_b"):
        OriginalNetwork.load(tmp_path / "sam.pth")
    for content in ({"image_encoder.pos_embed": torch.zeros(1, 2, 2, 64)}, {"model": {}}, torch.zeros(3)):
        torch.save(content, tmp_path / "sam.pth")
        with pytest.raises(CheckpointError, match="no checkpoint of segment-anything"):
            OriginalNetwork.load(tmp_path / "sam.pth")
    (tmp_path / "sam.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="could not be read"):
        OriginalNetwork.load(tmp_path / "sam.pth")


class StrictSam:
    image_encoder = SimpleNamespace(img_size=1024)

    def load_state_dict(self, weights: dict[str, Any]) -> None:
        if len(weights) != 1:
            raise RuntimeError("unexpected key")


def test_without_the_package_the_install_line_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sam.pth").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "segment_anything", None)
    with pytest.raises(MissingExtraError, match=r'pip install "internvl-vision-agent\[sam\]"'):
        SamSegmenter.from_pretrained(tmp_path / "sam.pth", "cpu")
