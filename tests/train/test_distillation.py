"""The distillation stage: soft labels fill in, phrases are read once, and what the language model knew stays."""

import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import test_train
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from test_train import EVERY_STEP, log, recipe, weights

from vision_agent import ConfigError, VisionAgent
from vision_agent.data.copy_paste import plain_background
from vision_agent.data.distillation_samples import BoxMix, Companions, box_sample, collate
from vision_agent.data.recipe import DataSection
from vision_agent.data.scene import ANYTHING, Scene, flipped, mosaic, window
from vision_agent.data.soft_labels import SoftLabels
from vision_agent.data.sources import CocoPhotos, Cutouts
from vision_agent.decoders.mask.decoder import MaskDecoder
from vision_agent.decoders.mask.training import SEGMENT, MaskTraining, train_masks
from vision_agent.evaluate.open_names import open_name_figures
from vision_agent.model.checkpoint import load_backbone
from vision_agent.model.devices import bfloat16_pays
from vision_agent.routing.adapter import (
    Route,
    add_token,
    load_adapter,
    read_tensors,
    read_words,
    save_adapter,
    write_words,
)
from vision_agent.routing.known_words import KnownWords
from vision_agent.routing.layout import QueryBank
from vision_agent.routing.states import read_forced
from vision_agent.train.box_distillation import PhraseBank
from vision_agent.train.config import TrainConfig, read_config
from vision_agent.train.trainer import train

archives, finished = test_train.archives, test_train.finished

RECIPE = Path(test_train.DEFAULT_RECIPE).with_name("distil.toml")
NAMES = ["ball", "box", "car"]
SHARES = DataSection(phrases=6, others=0.3)


@pytest.fixture(scope="module")
def data(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archives, two more sets of photos, and soft labels for all: a car in the corner of each."""
    folder = tmp_path_factory.mktemp("distil") / "archives"
    shutil.copytree(archives, folder)
    files = {f"p{number}.png": test_train.encoded(Image.new("RGB", (80, 60), "grey")) for number in range(20)}
    test_train.zipped(folder / "photos_384.zip", files)
    test_train.zipped(folder / "clothing_320.zip", files)
    clothes = [{"id": number, "file_name": f"p{number}.png"} for number in range(20)]
    content = {"images": clothes, "annotations": [], "categories": []}
    (folder / "clothing_320_instances.json").write_text(json.dumps(content))
    (folder / "pseudo").mkdir()
    (folder / "pseudo" / "names.json").write_text(json.dumps(NAMES))
    numbered = [f"{number}.png" for number in range(1, 61)]
    listed = {"coco_train_448": numbered, "animals_256": numbered, "backgrounds_320": [f"b{n}.png" for n in range(40)]}
    for archive, named in (listed | {"photos_384": list(files), "clothing_320": list(files)}).items():
        write_soft(folder, archive, {file: [[2, 0.6, 2, 2, 12, 12]] for file in named})
    return folder


def write_soft(folder: Path, archive: str, boxes: dict[str, list[list[float]]]) -> None:
    (folder / "pseudo").mkdir(exist_ok=True)
    (folder / "pseudo" / "names.json").write_text(json.dumps(NAMES))
    with gzip.open(folder / "pseudo" / f"{archive}.jsonl.gz", "wt", encoding="utf-8") as file:
        for name, soft in boxes.items():
            file.write(json.dumps({"file": name, "size": [100, 80], "boxes": soft}) + "\n")


def distilling(init: Path, **changed: object) -> TrainConfig:
    """A recipe of two distillation steps, from a checkpoint."""
    stage = {"name": "boxes", "kind": "distil", "steps": 2, "batch": 2, "tiles": (64, 96), "warm_up": 1}
    rates = {"tower_rate": 1e-3, "decoder_rate": 1e-3, "ema": 0.5}
    base = recipe(init=init, save_minutes=EVERY_STEP).model_dump()
    return TrainConfig.model_validate(base | {"data": SHARES.model_dump(), "stages": [stage | rates | changed]})


@pytest.fixture(scope="module")
def distilled(data: Path, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("distilled")
    assert train(distilling(finished / "model"), data, out, "cpu") == out / "model"
    return out


# Soft labels -------------------------------------------------------------------------------------------------------


def marked(*boxes: tuple[str, tuple[float, ...]], known: frozenset[str] = frozenset()) -> Scene:
    xyxy = np.array([box for _, box in boxes], dtype=np.float32).reshape(-1, 4)
    names = tuple(name for name, _ in boxes)
    return Scene(Image.new("RGB", (100, 80)), xyxy, names, (None,) * len(names), known_names=known)


def test_soft_boxes_become_objects_as_sure_as_the_detectors_were(tmp_path: Path) -> None:
    far, near = [50, 40, 80, 70], [12, 12, 40, 41]
    soft = [[1, 0.9, *near], [2, 0.6, *far], [0, 0.45, 51, 40, 80, 70], [0, 0.3, 0, 60, 20, 80], [1, 0.1, 60, 0, 70, 9]]
    write_soft(tmp_path, "photos", {"a.png": soft})
    scene = SoftLabels(tmp_path, "photos").completed(marked(("ball", (10, 10, 40, 40))), "a.png")
    # People's box stays; the box on it says nothing; the second name of one object is neither there nor absent.
    assert scene.names == ("ball", "car")
    assert scene.boxes.tolist() == [[10, 10, 40, 40], far]
    assert scene.sure == pytest.approx((1.0, 0.85))
    assert [(name, box.tolist()) for box, name in scene.crowds] == [
        ("ball", [51, 40, 80, 70]),
        (ANYTHING, [0, 60, 20, 80]),
    ]


def test_what_people_marked_wherever_it_occurs_is_at_most_doubtful(tmp_path: Path) -> None:
    write_soft(tmp_path, "photos", {"a.png": [[0, 0.8, 50, 40, 80, 70]]})
    scene = SoftLabels(tmp_path, "photos").completed(marked(known=frozenset(NAMES)), "a.png")
    assert scene.names == ()
    assert [name for _, name in scene.crowds] == [ANYTHING]


def test_names_are_absent_where_no_detector_hints_at_them(tmp_path: Path) -> None:
    write_soft(tmp_path, "photos", {"a.png": [[0, 0.12, 0, 0, 9, 9], [1, 0.07, 0, 0, 9, 9]]})
    assert SoftLabels(tmp_path, "photos").completed(marked(), "a.png").known_names == {"box", "car"}


def test_unbelievable_names_leave_objects_without_one(tmp_path: Path) -> None:
    write_soft(tmp_path, "photos", {"a.png": [[0, 0.45, 0, 0, 30, 30], [1, 0.55, 50, 40, 80, 70]]})
    scene = SoftLabels(tmp_path, "photos", named_from=0.5).completed(marked(), "a.png")
    assert scene.names == ("box", ANYTHING) or scene.names == (ANYTHING, "box")
    sample = box_sample(scene, 64, np.random.default_rng(0), 6, Companions([]))
    assert sorted(sample.targets.named_G.tolist()) == [False, True]  # type: ignore[union-attr]
    assert ANYTHING not in sample.phrases


def test_missing_soft_labels_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"photos\.jsonl\.gz"):
        SoftLabels(tmp_path, "photos")


def test_sureness_stays_with_its_box_when_the_image_changes() -> None:
    scene = replace(marked(("ball", (10, 10, 40, 40)), ("car", (60, 40, 90, 70))), sure=(0.6, 0.8))
    assert flipped(scene).sure == (0.6, 0.8)
    assert window(scene, (50, 30, 100, 80), (50, 50)).sure == (0.8,)
    four = mosaic([scene, marked(("box", (0, 0, 99, 79)))] * 2, 200, np.random.default_rng(0))
    assert len(four.sure) == len(four.boxes)
    assert {1.0 if name == "box" else 0.6 if name == "ball" else 0.8 for name in four.names} == set(four.sure)
    assert plain_background(scene.image).sureness == ()


# Samples -----------------------------------------------------------------------------------------------------------


def test_absent_names_are_mostly_those_that_come_with_what_is_there() -> None:
    together = [frozenset({"fork", "knife"})] * 9 + [frozenset({"fork", "cup"}), frozenset({"kite", "boat"})]
    scene = marked(("fork", (0, 0, 9, 9)), known=frozenset({"fork", "knife", "cup", "kite", "boat"}))
    rng = np.random.default_rng(0)
    drawn = [Companions(together).absent(scene, rng, 1)[0].phrase for _ in range(200)]
    assert drawn.count("knife") > 150
    assert 5 < drawn.count("cup") < 40
    assert "fork" not in drawn
    assert Companions(together).absent(marked(known=scene.known_names), rng, 3) == []


def test_samples_follow_from_seed_and_number_and_take_sides_in_turn(data: Path) -> None:
    first, again = (BoxMix(data, SHARES, (64, 96), 2, (0, 1)) for _ in range(2))
    for number in (5, 2):
        one, two = first[number], again[number]
        assert torch.equal(one.pixels, two.pixels)
        assert one.phrases == two.phrases
    assert [len(first[number].pixels) for number in range(6)] == [64, 64, 96, 96, 64, 64]


def test_every_phrase_of_a_sample_has_its_boxes(data: Path) -> None:
    samples = [BoxMix(data, SHARES, (64,), 2, (0, 1))[number] for number in range(12)]
    for sample in samples:
        truth = sample.targets
        assert truth.belongs_KG.shape == (len(sample.phrases), len(truth.boxes_G4))
        assert truth.sure_G is not None and truth.named_G is not None
        assert len(truth.sure_G) == len(truth.named_G) == len(truth.boxes_G4)
        assert len(set(sample.phrases)) == len(sample.phrases)
    batch = collate(samples[:2])
    assert batch.pixels_NSS3.shape == (2, 64, 64, 3)


# The stage ---------------------------------------------------------------------------------------------------------


def test_states_are_read_once_and_are_those_of_a_forced_route(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load_backbone(finished / "model", dtype="float32")
    route = load_adapter(finished / "model" / "adapters" / "det", backbone)
    image = Image.new("RGB", (96, 96), "grey")
    ImageDraw.Draw(image).ellipse((10, 10, 60, 60), fill="red")
    tokens_TC = backbone.encode_image(image).tokens_TC
    bank = PhraseBank(backbone, route, tokens_TC[None])
    states = bank.states(["ball", "red box", "ball"], 7)
    expected = read_forced(backbone, route, tokens_TC, [len(tokens_TC)], ["ball", "red box", "ball"])
    torch.testing.assert_close(states, expected.clone(), rtol=0, atol=1e-4)
    monkeypatch.setattr(PhraseBank, "_read", lambda *_: pytest.fail("read again"))
    assert torch.equal(bank.states(["red box"], 3), states[1:2])


def test_the_stage_trains_tower_and_decoder_and_leaves_the_language_model(finished: Path, distilled: Path) -> None:
    before, after = weights(finished), weights(distilled)
    changed = {name for name, tensor in before.items() if not torch.equal(tensor.half(), after[name].half())}
    assert not [name for name in changed if "language_model" in name or "lm_head" in name or "queries" in name]
    assert not [name for name in changed if "phrase_head" in name or "phrase_bias" in name]
    for part in ("vision_tower.stages.5", "vision_tower.merge", "projector", "decoder.box_head", "decoder.describe"):
        assert [name for name in changed if part in name], part
    losses = {"objects", "boxes", "names", "moved", "fit", "held"}
    assert [set(line) - {"stage", "step"} for line in log(distilled)[1:]] == [losses, losses]


def test_a_distilled_checkpoint_is_refined_and_detects(distilled: Path) -> None:
    agent = VisionAgent.from_pretrained(distilled / "model")
    assert agent.routes["det"].decoder.settings["refined"] is True  # type: ignore[union-attr]
    assert len(agent.detect("ball", Image.new("RGB", (50, 40), "grey"), threshold=0.0)) > 0


def test_other_routes_come_along_with_the_new_boxes(data: Path, finished: Path, tmp_path: Path) -> None:
    given = tmp_path / "given"
    shutil.copytree(finished / "model", given)
    backbone = load_backbone(given, dtype="float32")
    torch.manual_seed(3)
    finder = {"hidden_size": 32, "feature_widths": list(backbone.feature_widths)}  # as it was: not refined
    route = Route(SEGMENT, add_token(backbone, "[SEG]"), QueryBank(4, 32), MaskDecoder(finder))
    save_adapter(given / "adapters" / "seg", route, backbone)
    known = KnownWords(names=("ball",), modifiers=("red",))
    write_words(given / "adapters" / "det", known)
    settings_file = given / "generation_config.json"
    said = json.loads(settings_file.read_text()) | {"answers": {"reading": False}}
    settings_file.write_text(json.dumps(said))
    out = train(distilling(given, steps=1), data, tmp_path / "run", "cpu")
    assert read_words(out / "adapters" / "det") == known
    assert json.loads((out / "generation_config.json").read_text())["answers"] == {"reading": False}
    det, seg = (read_tensors(out / "adapters" / name) for name in ("det", "seg"))
    on_disk = load_file(out / "adapters" / "seg" / "adapter.safetensors")
    assert on_disk.keys() < seg.keys()  # what is the same as in [DET] is in its file alone
    old = load_file(given / "adapters" / "seg" / "adapter.safetensors")
    for name, tensor in det.items():
        part = name.removeprefix("decoder.")
        if name.startswith("decoder."):
            own = part.startswith(("phrase_head", "phrase_bias"))
            assert torch.equal(seg[f"decoder.finder.{part}"], old[f"decoder.finder.{part}"] if own else tensor)
    assert all(torch.equal(seg[name], old[name]) for name in old if not name.startswith("decoder.finder."))
    agent = VisionAgent.from_pretrained(out)
    assert sorted(agent.routes) == ["det", "seg"]
    assert agent.routes["seg"].decoder.settings["finder"]["refined"] is True  # type: ignore[union-attr]
    # Trained further, its own way of reading states stays too.
    settings = MaskTraining(mask_steps=1, mask_batch=1, masks=1, workers=0)
    further = load_file(train_masks(out, data, tmp_path / "masks", settings, only="masks") / "adapter.safetensors")
    own = [name for name in further if "finder.phrase_head" in name]
    assert own
    assert all(torch.equal(further[name], old[name]) for name in own)


def test_a_killed_stage_goes_on_with_the_tower_it_holds_to(data: Path, finished: Path, tmp_path: Path) -> None:
    config = distilling(finished / "model")
    test_train.killed(config, data, tmp_path, 1)
    kept = torch.load(tmp_path / "state.pt", weights_only=True)
    assert kept["seconds"] > 0
    given = load_file(finished / "model" / "model.safetensors")
    stem = "model.vision_tower.stem.weight"
    assert torch.equal(kept["more"]["tower.stem.weight"].half(), given[stem].half())
    train(config, data, tmp_path, "cpu")
    assert [line["step"] for line in log(tmp_path)[1:]] == [0, 1]


def test_a_stage_with_minutes_ends_when_they_are_over(data: Path, finished: Path, tmp_path: Path) -> None:
    train(distilling(finished / "model", steps=1000, minutes=1e-9), data, tmp_path, "cpu")
    assert [line["step"] for line in log(tmp_path)[1:]] == [0]


def test_ends_of_stages_have_their_shares_in_the_finished_model(data: Path, finished: Path, tmp_path: Path) -> None:
    def stages(*shares: float) -> TrainConfig:
        base = distilling(finished / "model").model_dump()
        named = [base["stages"][0] | {"name": f"stage{number}", "share": share} for number, share in enumerate(shares)]
        return TrainConfig.model_validate(base | {"stages": named})

    ends = [weights_of(train(stages(*[0.0] * count), data, tmp_path / str(count), "cpu")) for count in (1, 2)]
    meant = stages(0.5, 1.5)
    # Killed in the second stage, for the mean of the first has to be kept.
    test_train.killed(meant, data, tmp_path / "mean", 3)
    mean = weights_of(train(meant, data, tmp_path / "mean", "cpu"))
    moved = [name for name, tensor in ends[0].items() if not torch.equal(tensor, ends[1][name])]
    assert [name for name in moved if "decoder" in name] and [name for name in moved if "vision_tower" in name]
    for name in moved:
        expected = 0.25 * ends[0][name].double() + 0.75 * ends[1][name].double()
        torch.testing.assert_close(mean[name].double(), expected, rtol=2e-3, atol=2e-4)


def test_the_weights_it_starts_from_have_their_share(data: Path, finished: Path, tmp_path: Path) -> None:
    config = distilling(finished / "model", steps=2)
    before, after = weights_of(finished / "model"), weights_of(train(config, data, tmp_path / "all", "cpu"))
    mixed = weights_of(train(config.model_copy(update={"init_share": 0.25}), data, tmp_path / "part", "cpu"))
    moved = [name for name, tensor in before.items() if after[name].shape == tensor.shape]
    moved = [name for name in moved if not torch.equal(before[name], after[name])]
    assert [name for name in moved if "decoder" in name] and [name for name in moved if "vision_tower" in name]
    for name in moved:
        expected = 0.25 * before[name].double() + 0.75 * after[name].double()
        torch.testing.assert_close(mixed[name].double(), expected, rtol=2e-3, atol=2e-4)
    with pytest.raises(ValueError, match="`init_share` needs an `init`"):
        TrainConfig.model_validate(config.model_dump() | {"init": None, "init_share": 0.25})


def weights_of(model: Path) -> dict[str, torch.Tensor]:
    return load_file(model / "model.safetensors") | load_file(model / "adapters" / "det" / "adapter.safetensors")


def test_a_stage_may_draw_images_of_its_own(data: Path, finished: Path, tmp_path: Path) -> None:
    other = DataSection(photos=0, mosaics=0, composed=1, composed_on_photos=0, animals=0)
    common = distilling(finished / "model", steps=1)
    own = distilling(finished / "model", steps=1, data=other.model_dump())
    recipes = {"common": common, "own": own, "other": common.model_copy(update={"data": other})}
    made = {name: train(config, data, tmp_path / name, "cpu") for name, config in recipes.items()}
    weights = {name: (out / "adapters" / "det" / "adapter.safetensors").read_bytes() for name, out in made.items()}
    assert weights["own"] == weights["other"] != weights["common"]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"rate": 1e-3}, "no `rate`"),
        ({"kind": "images", "tiles": ()}, "a `rate`"),
        ({"kind": "text", "rate": 1e-3}, "no `tiles`"),
        ({"kind": "images", "rate": 1e-3, "tiles": (), "minutes": 3.0}, "no `minutes`"),
        ({"kind": "images", "rate": 1e-3, "tiles": (), "share": 0.5}, "no `share`"),
        ({"share": -0.5}, "share"),
        ({"tiles": (50,)}, "tiles.0"),
    ],
)
def test_settings_that_do_not_fit_the_kind_are_named(finished: Path, changed: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        distilling(finished / "model", **changed)


def test_the_recipe_starts_from_the_embedded_model() -> None:
    config = read_config(RECIPE)
    assert {stage.kind for stage in config.stages} == {"distil"}
    assert config.init is not None


def test_bf16_pays_is_the_same_all_along() -> None:
    device = torch.device("cpu")
    assert bfloat16_pays(device) is bfloat16_pays(device)
    assert bfloat16_pays(torch.device("meta")) is False


def test_names_that_are_left_out_are_in_no_image_and_never_denied(data: Path, finished: Path, tmp_path: Path) -> None:
    box, car = frozenset({"box"}), frozenset({"car"})
    assert CocoPhotos(data, "coco_train_448", box).images("train") == [], "every photo has one"
    photos = CocoPhotos(data, "coco_train_448", car)
    record = photos.images("train")[0]
    scene = photos.scene(record)
    assert "car" not in scene.known_names and {"ball", "box"} <= scene.known_names
    soft = SoftLabels(data, "coco_train_448", left_out=car)
    assert soft.shows_left_out(record["file_name"]) and soft.files() == []
    completed = soft.completed(scene, record["file_name"])
    assert completed.names == scene.names and "car" not in completed.known_names
    assert [name for _, name in completed.crowds][len(scene.crowds) :] == [ANYTHING], "neither there nor absent"
    names = {item.name for item in Cutouts(data, left_out=frozenset({"star"})).items("train")}
    assert names and "star" not in names
    wrong = distilling(finished / "model").model_copy(update={"leave_out": ("zeppelin",)})
    with pytest.raises(ConfigError, match=r"`leave_out` must be names of the photos, but got \['zeppelin'\]"):
        train(wrong, data, tmp_path / "run")


def test_new_names_are_measured_on_what_training_left_out(data: Path, finished: Path) -> None:
    agent = VisionAgent.from_pretrained(finished / "model")
    new, known = open_name_figures(agent, data, ["box"], limit=3)
    assert (new.count, known.count) == (3, 0), "one name on each photo, and none without it"
    assert 0 <= new.value <= 1


def test_the_short_recipe_has_all_kinds_of_stages() -> None:
    short = read_config(RECIPE.with_name("short.toml"))
    assert {stage.kind for stage in short.stages} == {"text", "images", "language", "distil"}
    assert len(short.leave_out) == 10 and short.init is None
