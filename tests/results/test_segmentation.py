"""Segments: values, sequences, small exact JSON, exports that other programs load, and drawings checked on pixels."""

import json
import sys
from typing import Any

import numpy as np
import pytest
from faster_coco_eval import COCO
from faster_coco_eval.core import mask as coco
from hypothesis import given
from PIL import Image
from pydantic import ValidationError
from random_masks import masks

from vision_agent.errors import ArgumentTypeError, InputError, MissingExtraError
from vision_agent.geometry.rle import Bools, RunLengths
from vision_agent.results.box import Box
from vision_agent.results.segmentation import Mask, Segment, Segmentation

SIZE = (60, 40)
COLOR = (12, 200, 34)


def ellipse(x: float, y: float, rx: float, ry: float, size: tuple[int, int] = SIZE) -> Bools:
    rows, columns = np.mgrid[: size[1], : size[0]] + 0.5
    found: Bools = ((columns - x) / rx) ** 2 + ((rows - y) / ry) ** 2 < 1
    return found


def some() -> Segmentation:
    shapes = np.stack(
        [ellipse(20, 20, 12, 10) & ~ellipse(20, 20, 5, 4), ellipse(40, 15, 15, 12), np.zeros((40, 60), bool)]
    )
    return Segmentation.from_masks(
        shapes,
        [0.9, 0.5, 0.25],
        ["red car", "dog", "red car"],
        xyxy=[[7.5, 9, 33, 31], [25, 3, 55, 27], [1.5, 2, 7, 9.25]],
        mask_scores=[0.8, 0.7, 0.0],
        image_size=SIZE,
        model="toy",
        phrases=("dog", "red car"),
        decoder="sam",
    )


# --- Mask -----------------------------------------------------------------------------------------------------------


@given(masks())
def test_a_mask_is_a_coco_segmentation(mask: Bools) -> None:
    made = Mask.from_array(mask)
    assert (made.to_array() == mask).all() and made.area == mask.sum()
    dumped = json.loads(made.model_dump_json())
    assert (coco.decode(dumped) == mask).all()
    assert Mask.model_validate(dumped) == made == Mask(size=made.size, counts=made.runs.counts.tolist())
    assert Mask.model_validate(coco.encode(np.asfortranarray(mask.astype(np.uint8)))) == made
    assert hash(made) == hash(Mask.model_validate(dumped))
    assert Mask.from_polygons(made.polygons(), (mask.shape[1], mask.shape[0])) == made
    assert made.iou(made) == bool(mask.any())
    assert (made.box is None) == (not mask.any())


def test_a_mask_measures_in_image_coordinates() -> None:
    mask = Mask.from_array(ellipse(20, 20, 12, 10) & ~ellipse(20, 20, 5, 4))
    assert mask.box == Box(x0=8, y0=10, x1=32, y1=30) and mask.size == (40, 60)
    ((outer, hole),) = mask.polygons()
    assert outer.min(0).tolist() == [8, 10] and outer.max(0).tolist() == [32, 30]
    assert hole.min(0).tolist() == [15, 16] and hole.max(0).tolist() == [25, 24]
    half = mask.resized((30, 20))
    assert half.size == (20, 30) and half.box == Box(x0=4, y0=5, x1=16, y1=15)
    assert repr(mask) == f"Mask({mask.area} px of 60x40)"
    assert Mask.from_array(np.zeros((4, 4), bool)).polygons() == []


def test_equal_masks_are_equal_however_they_were_written() -> None:
    assert Mask(size=(2, 5), counts=[3, 0, 2, 5]) == Mask(size=(2, 5), counts=[5, 5])


@pytest.mark.parametrize(
    "given_mask",
    [
        {"size": (2, 5), "counts": [5, 6]},
        {"size": (5, 3), "counts": [5, 5]},
        {"size": (2, 5), "counts": "~"},
        {"size": (2, 5), "counts": [-5, 15]},
        {"size": (2, 5), "counts": None},
        {"size": (0, 5), "counts": [0]},
        {"size": (2, 5), "counts": [5, 5], "more": 1},
    ],
)
def test_a_damaged_mask_is_refused(given_mask: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Mask.model_validate(given_mask)


# --- Segmentation ---------------------------------------------------------------------------------------------------


def test_it_is_a_sequence_indexed_like_detections() -> None:
    found = some()
    assert len(found) == 3 and [each.label for each in found] == found.labels
    assert found[0].label == "red car" and found[-1].score == 0.25 and found[np.int64(1)].label == "dog"
    assert found[1:].labels == ["dog", "red car"] and found[[2, 0]].scores.tolist() == pytest.approx([0.25, 0.9])
    assert found[np.array([True, False, True])].labels == ["red car", "red car"] and len(found[[]]) == 0
    assert isinstance(found[:1], Segmentation) and found[:1].phrases == found.phrases
    with pytest.raises(IndexError):
        found[3]
    with pytest.raises(InputError, match="`index` must be a mask of 3 bools"):
        found[np.array([True])]
    for key in ("a", 1.5, [[0]], ["a"]):
        with pytest.raises(ArgumentTypeError, match="`index`"):
            found[key]


def test_views_and_choices() -> None:
    found = some()
    assert found.masks.shape == (3, 40, 60) and found.masks.dtype == np.bool_
    assert (found.masks[1] == ellipse(40, 15, 15, 12)).all()
    assert found.xyxy.tolist() == [[7.5, 9, 33, 31], [25, 3, 55, 27], [1.5, 2, 7, 9.25]]
    assert found.class_names == ("dog", "red car")
    assert found.detections.xyxy.tolist() == found.xyxy.tolist() and found.detections.decoder == "sam"
    assert found.filter(0.5).labels == ["red car", "dog"] and found.filter(label="dog").labels == ["dog"]
    assert found.filter(0.6, ["dog"]).labels == [] and len(found.filter(label=["dog", "red car"])) == 3
    assert (found.union().to_array() == found.masks.any(0)).all()
    empty = Segmentation.empty(SIZE, "toy", ["dog"], decoder="sam")
    assert empty.masks.shape == (0, 40, 60) and empty.xyxy.shape == (0, 4) and empty.union().area == 0
    with pytest.raises(ValidationError, match="frozen"):
        found.model = "other"


def test_boxes_default_to_those_around_the_masks() -> None:
    found = Segmentation.from_masks(
        [Mask.from_array(ellipse(20, 20, 12, 10)), Mask.from_array(np.zeros((40, 60), bool))],
        [1, 0],
        ["a", "b"],
        image_size=SIZE,
        model="toy",
    )
    assert found.xyxy.tolist() == [[8, 10, 32, 30], [0, 0, 0, 0]] and found[0].mask_score is None


def test_json_is_exact_and_small() -> None:
    found = some()
    text = found.model_dump_json()
    assert Segmentation.model_validate_json(text) == found and json.loads(text)["kind"] == "segmentation"
    assert len(text) < 1500
    large = ellipse(2000, 1500, 1000, 800, (4000, 3000))
    one = Segmentation.from_masks([Mask.from_array(large)], [1], ["a"], image_size=(4000, 3000), model="toy")
    assert len(one.model_dump_json()) < 20_000 and (one.masks[0] == large).all()


def test_masks_must_fit_the_image_and_lists_each_other() -> None:
    mask = Mask.from_array(np.ones((60, 40), bool))  # turned
    segment = Segment(label="a", score=1, box=Box(x0=0, y0=0, x1=1, y1=1), mask=mask)
    with pytest.raises(ValidationError, match=r"`segments\[0\].mask` must be of the image's"):
        Segmentation(segments=(segment,), image_size=SIZE, model="toy")
    make: Any = Segmentation.from_masks
    with pytest.raises(InputError, match=r"`masks\[0\]` must be of the image's"):
        make([mask], [1], ["a"], image_size=SIZE, model="toy")
    good = Mask.from_array(np.ones((40, 60), bool))
    for arguments, name in (
        (([good], [1, 1], ["a"]), "scores"),
        (([good], [2], ["a"]), "scores"),
        (([good], [1], []), "labels"),
        (([np.ones((40, 60))], [1], ["a"]), "mask"),
    ):
        with pytest.raises(InputError, match=f"`{name}"):
            make(*arguments, image_size=SIZE, model="toy")
    with pytest.raises(InputError, match="`masks` must be 2 masks"):
        make([good], [1, 1], ["a", "b"], xyxy=[[0, 0, 1, 1]] * 2, image_size=SIZE, model="toy")
    with pytest.raises(InputError, match="`mask_scores` must be 1 numbers"):
        make([good], [1], ["a"], mask_scores=[1, 1], image_size=SIZE, model="toy")


def test_what_it_looks_like() -> None:
    found = some()
    assert repr(found) == str(found) == "Segmentation(3 on 60x40: red car 0.90, dog 0.50, red car 0.25)"
    assert "<td>dog</td><td>0.50</td>" in found._repr_html_()


# --- exports --------------------------------------------------------------------------------------------------------


def test_coco_reads_the_masks_back() -> None:
    found = some()
    dataset = found.to_coco(7, {"dog": 3, "red car": 1}, file_name="a.jpg")
    dataset = json.loads(json.dumps(dataset))
    reader = COCO(dataset)
    annotations = reader.loadAnns(reader.getAnnIds(imgIds=[7]))
    assert [each["category_id"] for each in annotations] == [1, 3, 1]
    for annotation, segment in zip(annotations, found, strict=True):
        assert (reader.annToMask(annotation) == segment.mask.to_array()).all()
        assert annotation["area"] == segment.mask.area and annotation["bbox"] == list(segment.box.xywh)
    with pytest.raises(InputError, match="category_ids"):
        found.to_coco(category_ids={"dog": 1})


def test_supervision_gets_the_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    supervision = pytest.importorskip("supervision")
    exported = some().to_supervision()
    assert isinstance(exported, supervision.Detections) and (exported.mask == some().masks).all()
    assert exported.class_id.tolist() == [1, 0, 1] and (exported.area == some().masks.sum((1, 2))).all()
    assert exported[1].mask.shape == (1, 40, 60)
    assert len(Segmentation.empty(SIZE, "toy").to_supervision()) == 0
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingExtraError, match="supervision"):
        some().to_supervision()


def test_a_cutout_is_the_segment_on_nothing() -> None:
    found = some()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    cut = np.array(found.cutout(Image.fromarray(pixels), 0))
    mask = found.masks[0][10:30, 8:32]
    assert cut.shape == (20, 24, 4) and (cut[..., 3] == mask * 255).all()
    assert (cut[..., :3] == pixels[10:30, 8:32]).all()
    empty = np.array(found.cutout(pixels, -1))
    assert empty.shape == (8, 6, 4) and not empty[..., 3].any()
    with pytest.raises(IndexError):
        found.cutout(pixels, 3)
    with pytest.raises(InputError, match="`image` must be the image of these segments, 60 x 40"):
        found.cutout(pixels[:30], 0)


@pytest.mark.parametrize("box", [(-9.0, -9, -3, -2), (70, 50, 90, 60), (59.9, 39.9, 60, 40), (3, 3, 3, 3)])
def test_a_cutout_of_nothing_anywhere_is_a_image(box: tuple[float, float, float, float]) -> None:
    nothing = Mask.from_runs(RunLengths.from_counts([2400], (40, 60)))
    found = Segmentation.from_masks([nothing], [1], ["a"], xyxy=[box], image_size=SIZE, model="toy")
    cut = found.cutout(np.zeros((40, 60, 3), np.uint8))
    assert min(cut.size) >= 1 and not np.array(cut)[..., 3].any()


# --- drawings -------------------------------------------------------------------------------------------------------


def test_masks_are_tinted_rimmed_and_nothing_else_changes() -> None:
    size = (300, 200)
    ring = ellipse(150, 100, 80, 60, size) & ~ellipse(150, 100, 30, 20, size)
    found = Segmentation.from_masks(ring[None], [0.9], ["a"], image_size=size, model="toy")
    grey = np.full((200, 300, 3), 100, np.uint8)
    source = Image.fromarray(grey)
    drawn = np.array(
        found.draw(source, labels=False, scores=False, colors={"a": COLOR}, opacity=0.5, line_width=2)
    ).astype(int)
    assert (np.array(source) == 100).all()
    changed = (drawn != 100).any(-1)
    x0, y0, x1, y1 = map(int, found.xyxy[0])
    frame = np.ones((200, 300), bool)
    frame[y0 + 4 : y1 - 4, x0 + 4 : x1 - 4] = False
    assert (changed == ring)[~frame].all()
    core = ellipse(150, 100, 74, 54, size) & ~ellipse(150, 100, 36, 26, size)
    assert (np.abs(drawn[core] - (np.array(COLOR) + 100) / 2) <= 1).all()
    rim = (ring & ~ellipse(150, 100, 79, 59, size)) | (ellipse(150, 100, 31, 21, size) & ring)
    assert (drawn[rim & ~frame] == COLOR).all()


def test_a_mask_over_the_whole_image_has_its_rim_at_the_edge() -> None:
    found = Segmentation.from_masks(
        np.ones((1, 50, 80), bool), [1], ["a"], xyxy=[[30, 20, 50, 30]], image_size=(80, 50), model="toy"
    )
    white = {"a": (255, 255, 255)}
    drawn = np.array(found.draw(Image.new("RGB", (80, 50)), colors=white, opacity=0, labels=False, scores=False))
    edge = np.ones((50, 80), bool)
    edge[2:-2, 2:-2] = False
    assert drawn[0].all() and drawn[-1].all() and drawn[:, 0].all() and drawn[:, -1].all()
    edge[15:35, 25:55] = True  # the box
    assert not drawn[~edge].any()


def test_the_better_one_is_on_top_and_colours_follow_labels() -> None:
    size = (200, 120)
    shapes = np.stack([ellipse(80, 60, 50, 40, size), ellipse(120, 60, 50, 40, size)])
    colors = {"low": (255, 0, 0), "high": (0, 0, 255)}
    for scores, labels in (([0.3, 0.8], ["low", "high"]), ([0.8, 0.3], ["high", "low"])):
        found = Segmentation.from_masks(shapes, scores, labels, image_size=size, model="toy")
        drawn = np.array(found.draw(Image.new("RGB", size), colors=colors, opacity=1))
        assert drawn[60, 100].tolist() == [0, 0, 255]
    plain = np.array(found.draw(Image.new("RGB", size), opacity=1))
    assert plain[60, 60].tolist() != plain[60, 140].tolist()


def test_drawing_refuses_what_makes_no_sense() -> None:
    image = Image.new("RGB", SIZE)
    for arguments, name in (
        ({"opacity": 1.5}, "opacity"),
        ({"line_width": 0}, "line_width"),
        ({"font_size": 0}, "font_size"),
    ):
        with pytest.raises(InputError, match=f"`{name}` must be"):
            some().draw(image, **arguments)
    with pytest.raises(InputError, match="`image` must be the image of these segments"):
        some().draw(Image.new("RGB", (40, 60)))
    with pytest.raises(ArgumentTypeError, match="`image`"):
        some().draw(7)
    assert np.array(Segmentation.empty(SIZE, "toy").draw(image)).max() == 0
