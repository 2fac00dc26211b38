"""Training of masks: shapes stay on their things when images change; a run adds a route, and goes on when killed."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_train
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file

from vision_agent import CheckpointError, RouteSpec, VisionAgent
from vision_agent.data.copy_paste import CopyPaste, plain_background
from vision_agent.data.mask_samples import MaskMix, tightened
from vision_agent.data.scene import Scene, flipped, window
from vision_agent.data.sources import CocoPhotos, Cutouts, outline_mask
from vision_agent.decoders.mask.training import MaskTraining, train_masks
from vision_agent.evaluate.masks import mask_figures
from vision_agent.geometry.rle import RunLengths
from vision_agent.model.checkpoint import save_backbone
from vision_agent.routing.adapter import new_route, save_adapter
from vision_agent.train.config import ModelSection
from vision_agent.train.new_model import new_backbone, train_tokenizer

archives = test_train.archives

EVERY_STEP = 1e-9  # minutes between two saves
SHORT: dict[str, Any] = {"state_steps": 2, "state_batch": 2, "mask_steps": 2, "masks": 2, "mask_batch": 2, "phrases": 4}


@pytest.fixture(scope="module")
def data(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(archives, tmp_path_factory.mktemp("masks") / "archives")


def write_data(archives: Path, folder: Path) -> Path:
    """Write the archives, and a set of clothes: regions in two parts, as run lengths."""
    shutil.copytree(archives, folder)
    images, annotations, files = [], [], {}
    for number in range(1, 31):
        image = Image.new("RGB", (60, 90), (180, 180, 200))
        pen = ImageDraw.Draw(image)
        mask = np.zeros((90, 60), dtype=np.bool_)
        for x in (8, 36):
            pen.rectangle((x, 60, x + 13, 79), fill=(90, 40, 20))
            mask[60:80, x : x + 14] = True
        runs = RunLengths.from_mask(mask)
        files[f"{number}.png"] = test_train.encoded(image)
        images.append({"id": number, "file_name": f"{number}.png", "width": 60, "height": 90})
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": 1,
                "bbox": [8, 60, 42, 20],
                "iscrowd": 0,
                "segmentation": {"size": [90, 60], "counts": runs.text},
            }
        )
    cutouts, labels = {}, {}
    for number in range(40):  # so many that some are kept out of training
        thing = Image.new("RGBA", (48, 48))
        ImageDraw.Draw(thing).regular_polygon((24, 24, 20), 3 + number % 4, fill=(20, 150, 40, 255))
        cutouts[f"{number}.png"] = test_train.encoded(thing)
        labels[f"{number}.png"] = {"name": ("star", "drop", "cross", "leaf")[number % 4], "kind": "stamp"}
    test_train.zipped(folder / "cutouts_192.zip", cutouts)
    (folder / "cutouts_192_labels.json").write_text(json.dumps(labels))
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "shoes"}]}
    (folder / "clothing_320_instances.json").write_text(json.dumps(content))
    test_train.zipped(folder / "clothing_320.zip", files)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model")


def write_model(folder: Path) -> Path:
    """Write an untrained tiny model with the real tower and a `[DET]` route."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["a red ball and a blue box", "find each thing.", "shoes"] * 5, 320)
    shape = ModelSection(tile=96, hidden=32, layers=2, heads=2, intermediate=64, vocabulary=320)
    backbone = new_backbone(tokenizer, shape)
    # Random weights of the usual scale make all phrases alike.
    with torch.no_grad():
        for parameter in backbone.model.model.language_model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(5)
    save_backbone(backbone, folder)
    route = new_route(backbone, RouteSpec(token="[DET]", decoder="box", num_queries=4))
    with torch.no_grad():  # a token as unlike the others as a trained one
        backbone.model.get_input_embeddings().weight[route.token_id].normal_()
    save_adapter(folder / "adapters" / "det", route, backbone)
    return folder


def disc_scene() -> Scene:
    """A disc on grey, with its mask."""
    image = Image.new("RGB", (100, 80), (128, 128, 128))
    ImageDraw.Draw(image).ellipse((20, 30, 50, 70), fill=(220, 30, 30))
    mask = np.asarray(image)[..., 0] > 200
    return tightened(Scene(image, np.zeros((1, 4), dtype=np.float32), ("ball",), (None,), masks=(mask,)))


def test_masks_follow_their_things() -> None:
    scene = disc_scene()
    assert scene.boxes[0].tolist() == [20, 30, 51, 71]
    for changed in (
        flipped(scene),
        window(scene, (10, 20, 80, 80), (140, 120)),
        window(scene, (-20, -10, 130, 100), (75, 55)),
    ):
        (mask,) = changed.masks
        assert mask is not None and mask.shape == changed.image.size[::-1]
        red = np.asarray(changed.image)[..., 0] > 175
        assert (mask & red).sum() / (mask | red).sum() > 0.93


def test_a_thing_that_is_cropped_away_takes_its_mask_along() -> None:
    scene = window(disc_scene(), (60, 0, 100, 80), (40, 80))
    assert len(scene.boxes) == len(scene.masks) == 0


def test_a_pasted_thing_has_the_pixels_that_show(archives: Path) -> None:
    maker = CopyPaste(Cutouts(archives), "train")
    ground = plain_background(Image.new("RGB", (200, 160), (240, 240, 240)))
    rng = np.random.default_rng(0)
    seen = 0
    for _ in range(5):
        scene = maker.make(ground, rng, masks=True)
        assert len(scene.masks) == len(scene.boxes)
        masks = [mask for mask in scene.masks if mask is not None]
        assert sum(int(mask.sum()) for mask in masks) == np.any(masks, axis=0).sum()  # each pixel is one thing's
        for mask, (x0, y0, x1, y1) in zip(masks, scene.boxes.astype(int), strict=True):
            assert mask.sum() == mask[y0:y1, x0:x1].sum() > 0
            seen += 1
    assert seen > 5
    assert maker.make(ground, np.random.default_rng(0)).masks == ()


def test_a_pasted_thing_hides_what_is_behind_it(archives: Path) -> None:
    everywhere = np.ones((160, 200), dtype=np.bool_)
    ground = Scene(
        image=Image.new("RGB", (200, 160), (240, 240, 240)),
        boxes=np.array([[0, 0, 200, 160]], dtype=np.float32),
        names=("wall",),
        colours=(None,),
        masks=(everywhere,),
    )
    scene = CopyPaste(Cutouts(archives), "train").make(ground, np.random.default_rng(1), masks=True)
    wall, *things = scene.masks
    assert scene.names[0] == "wall" and wall is not None and len(things) > 0
    assert not any((wall & thing).any() for thing in things if thing is not None)
    assert 0 < wall.sum() < everywhere.sum()


def test_outlines_of_all_kinds() -> None:
    square = [10, 10, 20, 10, 20, 30, 10, 30]
    mask = outline_mask([square, [30, 0, 40, 0, 40, 5, 30, 5]], (50, 40))
    assert mask is not None and mask.shape == (40, 50) and mask.sum() == 10 * 20 + 10 * 5
    runs = RunLengths.from_mask(mask)
    for counts in (runs.text, runs.counts.tolist()):
        again = outline_mask({"size": [40, 50], "counts": counts}, (50, 40))
        assert again is not None and np.array_equal(again, mask)
    assert outline_mask([], (50, 40)) is None and outline_mask(None, (50, 40)) is None


def test_photos_have_masks_only_when_asked(data: Path) -> None:
    photos = CocoPhotos(data, "coco_train_448")
    record = photos.outlined("train")[0]
    assert photos.scene(record).masks == ()
    ball, box = photos.scene(record, masks=True).masks
    assert ball is None and box is not None and 350 < box.sum() < 1700


def test_samples_follow_from_their_number(data: Path) -> None:
    mix = MaskMix(data, 96, (0,))
    names = set()
    for number in range(12):
        sample, again = mix[number], mix[number]
        assert torch.equal(sample.pixels, again.pixels) and torch.equal(sample.masks, again.masks)
        assert sample.pixels.shape == (96, 96, 3) and sample.masks.shape == (len(sample.names), 96, 96)
        assert len(sample.names) == len(sample.boxes) > 0 and bool(sample.masks.flatten(1).any(1).all())
        names |= set(sample.names)
    assert "shoes" in names and "box" in names and names & {"star", "drop", "cross", "leaf"}


def test_a_run_adds_a_route_and_leaves_the_model_alone(data: Path, model: Path, tmp_path: Path) -> None:
    settings = MaskTraining(**SHORT, workers=0)
    folder = train_masks(model, data, tmp_path / "run", settings, device="cpu")
    stored, detect = load_file(folder / "adapter.safetensors"), load_file(model / "adapters/det/adapter.safetensors")
    for name, tensor in detect.items():
        if name.startswith("decoder.") and "phrase" not in name:
            assert torch.equal(stored[name.replace("decoder.", "decoder.finder.")], tensor)
    agent = VisionAgent.from_pretrained(model, adapters=[folder], device="cpu")
    assert sorted(agent.routes) == ["det", "seg"]
    image = Image.new("RGB", (120, 90), (200, 200, 190))
    assert agent.segment(image=image, boxes=[[5, 5, 60, 60]]).decoder == "mask"
    figures = {figure.name: figure for figure in mask_figures(agent, data, "val", limit=3)}
    given = figures["mask mIoU given the true box, COCO photos"]
    assert given.count > 0 and 0 <= given.value <= 1
    # Boxes of drawn squares fit them all but perfectly.
    assert figures["... baseline: the filled box, COCO photos"].value > 0.9
    assert list(mask_figures(VisionAgent.from_pretrained(model, device="cpu"), data, "val")) == []


def test_a_killed_run_ends_as_if_it_had_not_been(data: Path, model: Path, tmp_path: Path) -> None:
    settings = MaskTraining(**SHORT, workers=0, save_minutes=EVERY_STEP)
    whole = load_file(train_masks(model, data, tmp_path / "whole", settings, device="cpu") / "adapter.safetensors")
    left = [3]

    def kill(*told: object) -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_masks(model, data, tmp_path / "killed", settings, device="cpu", on_step=kill)
    resumed = load_file(train_masks(model, data, tmp_path / "killed", settings, device="cpu") / "adapter.safetensors")
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_states_alone_keep_the_shapes_learned_before(data: Path, model: Path, tmp_path: Path) -> None:
    """The quick stage after the language model has changed: the mask network comes from an earlier adapter."""
    settings = MaskTraining(**SHORT, workers=0)
    before = train_masks(model, data, tmp_path / "before", settings, only="masks", device="cpu")
    after = train_masks(model, data, tmp_path / "after", settings, only="states", start=before, device="cpu")
    old, new = (load_file(folder / "adapter.safetensors") for folder in (before, after))
    assert all(torch.equal(old[name], new[name]) for name in old if name.startswith("decoder.head."))
    assert not torch.equal(old["queries.weight"], new["queries.weight"])
    with pytest.raises(CheckpointError, match="does not fit"):
        train_masks(model, data, tmp_path / "wrong", settings, start=model / "adapters" / "det", device="cpu")


def test_states_learn_to_say_what_the_boxes_say(data: Path, model: Path, tmp_path: Path) -> None:
    settings = MaskTraining(**(SHORT | {"state_steps": 60, "state_rate": 3e-3}), workers=0)
    train_masks(model, data, tmp_path / "run", settings, only="states", device="cpu")
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    first, last = (np.mean([line["turned"] for line in part]) for part in (lines[:2], lines[-10:]))
    assert len(lines) == 60 and last < 0.7 * first
