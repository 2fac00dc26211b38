"""Training: a tiny real run on images made here; resuming after a kill is exact; augmentations keep boxes right."""

import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file

from vision_agent import ConfigError, VisionAgent
from vision_agent.cli.training import calibrate
from vision_agent.data.copy_paste import CopyPaste, plain_background
from vision_agent.data.dataset import TrainingMix
from vision_agent.data.near_duplicates import near_duplicates
from vision_agent.data.recipe import DataSection
from vision_agent.data.recolor import PAINTABLE, colour_of, repainted
from vision_agent.data.samples import absent_phrases, colour_phrases, make_sample, present_phrases
from vision_agent.data.scene import Scene, flipped, mosaic, window
from vision_agent.data.sources import Cutouts, split_of, split_of_image
from vision_agent.images.perceptual_hash import difference_hash
from vision_agent.inference.colors import COLOURS
from vision_agent.train.config import DEFAULT_RECIPE, StageSection, TrainConfig, read_config
from vision_agent.train.trainer import train

SHAPES = {"ball": "ellipse", "box": "rectangle"}
PAINTS = {"red": (210, 20, 20), "blue": (30, 60, 210), "green": (20, 150, 40)}


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def zipped(path: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_archives(tmp_path_factory.mktemp("archives"))


def write_archives(folder: Path) -> Path:
    """Fill a folder with archives in the real format, with drawn images."""
    rng = np.random.default_rng(0)
    categories = [{"id": 1, "name": "ball"}, {"id": 2, "name": "box"}, {"id": 3, "name": "car"}]
    for name in ("coco_train_448", "animals_256"):
        images, annotations, captions, files = [], [], [], {}
        for number in range(1, 61):
            image = Image.new("RGB", (120, 90), (200, 200, 190))
            pen = ImageDraw.Draw(image)
            for kind, x in ((1, 10), (2, 70)):
                y, side = int(rng.integers(5, 40)), int(rng.integers(20, 40))
                shape = "ellipse" if kind == 1 else "rectangle"
                getattr(pen, shape)((x, y, x + side, y + side), fill=PAINTS["red" if kind == 1 else "blue"])
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": kind,
                        "bbox": [x, y, side, side],
                        "area": side * side,
                        "iscrowd": 0,
                        "segmentation": [[x, y, x + side, y, x + side, y + side, x, y + side]] if kind == 2 else [],
                    }
                )
            files[f"{number}.png"] = encoded(image)
            images.append({"id": number, "file_name": f"{number}.png", "width": 120, "height": 90})
            captions.append({"image_id": number, "caption": "A red ball and a blue box."})
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / f"{name}_instances.json").write_text(json.dumps(content))
        (folder / f"{name}_captions.json").write_text(json.dumps({"annotations": captions}))
        zipped(folder / f"{name}.zip", files)
    cutouts, labels = {}, {}
    for number in range(12):
        name = ("star", "drop", "cross", "leaf")[number % 4]
        thing = Image.new("RGBA", (48, 48))
        ImageDraw.Draw(thing).regular_polygon((24, 24, 20), 3 + number % 4, fill=(*PAINTS["green"], 255))
        cutouts[f"{name}{number}.png"] = encoded(thing)
        labels[f"{name}{number}.png"] = {"name": name, "kind": "stamp"}
    zipped(folder / "cutouts_192.zip", cutouts)
    (folder / "cutouts_192_labels.json").write_text(json.dumps(labels))
    grounds = {f"b{n}.png": encoded(Image.new("RGB", (100, 80), (n * 4, 120, 90))) for n in range(40)}
    zipped(folder / "backgrounds_320.zip", grounds)
    vectors = rng.normal(size=(4, 16)).astype(np.float16)
    tables = {}
    for table in ("coco", "lvis", "openimages", "objects365"):
        array = io.BytesIO()
        np.save(array, vectors)
        tables[f"{table}.npy"] = array.getvalue()
        tables[f"{table}_names.json"] = json.dumps(["ball", "box", "car", f"{table} thing"]).encode()
    zipped(folder / "text_vectors.zip", tables)
    return folder


# Minutes between two saves: after every step, or only where a stage ends.
EVERY_STEP, ONLY_AT_THE_END = 1e-9, 1e9


def recipe(init: Path | None = None, save_minutes: float = ONLY_AT_THE_END, **last: object) -> TrainConfig:
    """Two steps of text, one of small images, two of the model's own size; `last` changes the last stage."""
    stage = {"batch": 2, "rate": 1e-3, "decoder_rate": 1e-3, "warm_up": 1}
    images = {"kind": "images", "tower_rate": 1e-4, **stage}
    return TrainConfig.model_validate(
        {
            "workers": 0,
            "save_minutes": save_minutes,
            "init": init,
            "model": {"tile": 96, "vocabulary": 320, "hidden": 32, "layers": 2, "heads": 2, "intermediate": 64},
            "data": {"phrases": 6},
            "stages": [
                {"name": "language", "kind": "text", "steps": 2, **stage},
                {"name": "small", "tile": 64, "steps": 1, **images},
                {"name": "full", "steps": 2, **images, **last},
            ],
        }
    )


def weights(out: Path) -> dict[str, torch.Tensor]:
    """All weights of a finished run, in full precision."""
    parts: dict[str, torch.Tensor] = torch.load(out / "state.pt", weights_only=True)["parts"]
    return parts


def log(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture(scope="session")
def finished(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nobody disturbed."""
    out = tmp_path_factory.mktemp("finished")
    assert train(recipe(), archives, out, "cpu") == out / "model"
    return out


@pytest.fixture(scope="session")
def continued(archives: Path, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that started from the checkpoint of `finished`."""
    out = tmp_path_factory.mktemp("continued")
    train(recipe(init=finished / "model"), archives, out, "cpu")
    return out


def test_the_stages_run_in_order(finished: Path) -> None:
    lines = log(finished)
    expected = [("language", 0), ("language", 1), ("small", 0), ("full", 0), ("full", 1)]
    assert [(line["stage"], line["step"]) for line in lines] == expected
    assert ["boxes" in line for line in lines] == [False, False, True, True, True]
    assert (finished / "curve.png").stat().st_size > 1000


def killed(config: TrainConfig, archives: Path, out: Path, step: int) -> None:
    """Run a recipe and kill it after some steps, of all stages together."""
    done = 0

    def die(*told: object) -> None:
        nonlocal done
        done += 1
        if done == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, archives, out, "cpu", on_step=die)


@pytest.mark.parametrize(
    ("step", "save_minutes", "from_checkpoint"),
    [
        pytest.param(1, EVERY_STEP, False, id="text"),
        pytest.param(4, EVERY_STEP, False, id="second image stage"),
        pytest.param(4, ONLY_AT_THE_END, False, id="end of the first image stage"),
        pytest.param(4, EVERY_STEP, True, id="second image stage, from a checkpoint"),
    ],
)
def test_a_killed_run_goes_on_exactly(
    archives: Path,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    step: int,
    save_minutes: float,
    from_checkpoint: bool,
) -> None:
    finished: Path = request.getfixturevalue("finished")
    straight: Path = request.getfixturevalue("continued") if from_checkpoint else finished
    config = recipe(init=finished / "model" if from_checkpoint else None, save_minutes=save_minutes)
    killed(config, archives, tmp_path, step)
    train(config, archives, tmp_path, "cpu")
    first, second = weights(straight), weights(tmp_path)
    assert first.keys() == second.keys()
    assert not [name for name, tensor in first.items() if not torch.equal(tensor, second[name])]


def test_a_run_from_a_checkpoint_takes_what_fits_and_logs_what_starts_anew(
    archives: Path, finished: Path, tmp_path: Path
) -> None:
    given = tmp_path / "given"
    shutil.copytree(finished / "model", given)
    adapter = load_file(given / "adapters" / "det" / "adapter.safetensors")
    adapter["decoder.level_scale"] = torch.full((5,), 9.0)  # of another shape
    adapter.pop("decoder.logit_scale")
    adapter["decoder.phrase_bias.bias"] += 1.0  # not what a new one would have
    save_file(adapter, given / "adapters" / "det" / "adapter.safetensors")
    # A stage of one step that changes nothing worth mentioning.
    still = {"name": "still", "kind": "text", "steps": 1, "batch": 1, "rate": 1e-12, "warm_up": 1, "ema": 0.0}
    config = recipe(init=given).model_copy(update={"stages": (StageSection.model_validate(still),)})
    train(config, archives, tmp_path / "run", "cpu")
    (first, *_), own = log(tmp_path / "run"), weights(tmp_path / "run")
    anew = {"route.decoder.level_scale", "route.decoder.logit_scale", "teacher.head.weight", "teacher.head.bias"}
    assert first == {"init": str(given), "new": sorted(anew)}
    assert own["route.decoder.level_scale"].tolist() == [1, 1, 1]
    taken = {f"model.{name}": tensor for name, tensor in load_file(given / "model.safetensors").items()}
    taken |= {f"route.{name}": tensor for name, tensor in adapter.items() if not name.startswith("token.")}
    for name in taken.keys() - anew:
        torch.testing.assert_close(own[name], taken[name].float(), rtol=0, atol=1e-6)
    assert set(own) == set(taken) | anew | {"model.lm_head.weight"}
    assert torch.equal(own["model.lm_head.weight"], own["model.model.language_model.embed_tokens.weight"])


def test_a_trained_checkpoint_detects_and_answers(finished: Path) -> None:
    agent = VisionAgent.from_pretrained(finished / "model")
    image = Image.new("RGB", (50, 40), "grey")
    assert len(agent.detect("ball", image, threshold=0.0)) > 0
    assert agent.ask("is there a ball?", image, max_new_tokens=3).completion_tokens <= 3


def test_a_folder_with_another_recipe_is_refused(archives: Path, finished: Path) -> None:
    with pytest.raises(ConfigError, match="another recipe"):
        train(recipe(steps=9), archives, finished, "cpu")


def test_missing_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not there"):
        train(recipe(), tmp_path / "nothing", tmp_path / "run", "cpu")


STAGE = '[[stages]]\nname = "{}"\nkind = "{}"\nsteps = 1\nbatch = 1\nrate = 1e-3\n'
TEXT, IMAGES = STAGE.format("words", "text"), STAGE.format("look", "images")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[stages", "TOML"),
        (TEXT + IMAGES.replace("steps = 1", "steps = 0"), "stages.1.steps"),
        ("speed = 3\n" + TEXT, "speed"),
        ("seed = 0\n", "stages"),
        ("stages = []\n", "stages"),
        (TEXT + TEXT, "different names.*'words', 'words'"),
        (STAGE.format("Words!", "text"), "stages.0.name"),
        (STAGE.format("words", "video"), "stages.0.kind"),
        (TEXT + "tile = 320\n", "stages.0.*'words' has no images"),
        (IMAGES + "tile = 300\n", "stages.0.tile"),
        (TEXT + IMAGES + "step = 5\n", "stages.1.step`"),
        ('init = "nowhere"\n' + TEXT, "`init`.*nowhere"),
        ('init = "recipe.toml"\n' + TEXT, "`init`.*recipe.toml"),
    ],
)
def test_bad_recipes_name_the_setting(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_config(tmp_path / "recipe.toml")


def test_a_recipe_finds_its_checkpoint_from_where_it_lies(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "model", tmp_path / "before")
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "recipe.toml").write_text('init = "../before"\n' + TEXT + IMAGES + "tile = 320\n")
    config = read_config(tmp_path / "recipes" / "recipe.toml")
    assert config.init == tmp_path / "before"
    assert [stage.tile for stage in config.stages] == [None, 320]


def test_the_default_recipe_is_valid() -> None:
    config = read_config(DEFAULT_RECIPE)
    assert [stage.kind for stage in config.stages] == ["text", "images", "images", "language"]
    assert config.init is None


def test_samples_follow_from_seed_stage_and_number_alone(archives: Path) -> None:
    first = TrainingMix(archives, DataSection(), 64, (0, 1))
    again, other = TrainingMix(archives, DataSection(), 64, (0, 1)), TrainingMix(archives, DataSection(), 64, (0, 2))
    assert first[3].pixels.shape == (64, 64, 3)
    for number in (5, 3):
        one, two = first[number], again[number]
        assert torch.equal(one.pixels, two.pixels)
        assert (one.phrases, one.exchanges) == (two.phrases, two.exchanges)
    assert not torch.equal(first[3].pixels, other[3].pixels)


def drawn_scene() -> Scene:
    """A red square at (10, 20)-(40, 50) on white, 100x80."""
    image = Image.new("RGB", (100, 80), "white")
    ImageDraw.Draw(image).rectangle((10, 20, 39, 49), fill="red")
    box = np.array([[10, 20, 40, 50]], dtype=np.float32)
    return Scene(image, box, ("box",), ("red",), known_names=frozenset({"box", "car"}))


def red_box(image: Image.Image) -> list[int]:
    red = np.asarray(image).astype(int)
    ys, xs = np.nonzero((red[..., 0] > 180) & (red[..., 1] < 90))
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def test_augmentations_move_boxes_with_their_pixels() -> None:
    scene = drawn_scene()
    rng = np.random.default_rng(0)
    for changed in (
        flipped(scene),
        window(scene, (5, 5, 65, 65), (120, 120)),
        window(scene, (-30, -20, 130, 100), (160, 120)),
        window(scene, (0, 0, 100, 80), (40, 32)),
    ):
        np.testing.assert_allclose(changed.boxes[0], red_box(changed.image), atol=1.5)
    four = mosaic([scene] * 4, 200, rng)
    for box in four.boxes:
        centre = four.image.getpixel((int(box[[0, 2]].mean()), int(box[[1, 3]].mean())))
        assert centre[0] > 180 and centre[1] < 90  # type: ignore[index]


def test_what_a_crop_cuts_away_is_ignored_not_denied() -> None:
    cropped = window(drawn_scene(), (35, 0, 100, 80), (65, 80))
    assert len(cropped.boxes) == 0
    assert [name for _, name in cropped.crowds] == ["box"]
    absent = absent_phrases(cropped, np.random.default_rng(0), 5)
    assert all(phrase.phrase.endswith("car") for phrase in absent)


def test_composed_boxes_enclose_exactly_what_was_pasted(archives: Path) -> None:
    maker = CopyPaste(Cutouts(archives), "train", size=(1, 2))
    rng = np.random.default_rng(3)
    checked = 0
    for _ in range(40):
        ground = plain_background(Image.new("RGB", (160, 160), (255, 255, 255)))
        scene = maker.make(ground, rng)
        if len(scene.boxes) != 1:
            continue
        pixels = np.asarray(scene.image).astype(int)
        ys, xs = np.nonzero(pixels.max(-1) - pixels.min(-1) > 60)
        np.testing.assert_allclose(scene.boxes[0], [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], atol=3.5)
        checked += 1
    assert checked >= 5


def test_twins_have_the_two_colours_and_do_not_touch(archives: Path) -> None:
    maker = CopyPaste(Cutouts(archives), "train")
    ground = plain_background(Image.new("RGB", (300, 300), (255, 255, 255)))
    scenes = [maker.pair(ground, ("red", "blue"), np.random.default_rng(seed)) for seed in range(10)]
    pairs = [scene for scene in scenes if len(scene.boxes) == 2]
    assert len(pairs) >= 3
    for scene in pairs:
        assert set(scene.colours) == {"red", "blue"}
        named = {phrase.phrase: phrase.owned for phrase in colour_phrases(scene, np.random.default_rng(0))}
        red = next(owned for phrase, owned in named.items() if phrase.startswith("red"))
        assert [scene.colours[index] for index in red] == ["red"]


@pytest.mark.parametrize("colour", PAINTABLE)
def test_painted_things_have_the_colour_they_were_painted(colour: str) -> None:
    shades = np.random.default_rng(1).integers(90, 200, (40, 40, 3), dtype=np.uint8)
    cutout = Image.fromarray(shades).convert("RGBA")
    painted = np.asarray(repainted(cutout, colour).convert("RGB")).reshape(-1, 3)
    assert colour_of(painted) == colour


def test_colours_that_are_not_clear_are_not_named() -> None:
    half = np.array([[220, 20, 20]] * 50 + [[20, 40, 220]] * 50, dtype=np.uint8)
    assert colour_of(half) is None
    assert colour_of(half[:10]) is None
    assert colour_of(np.full((100, 3), 250, np.uint8)) == "white"
    assert set(COLOURS) >= {"red", "black", "white", "grey", "brown"}


def test_samples_ask_for_what_is_there_and_what_is_not() -> None:
    sample = make_sample(drawn_scene(), 64, np.random.default_rng(0))
    assert sample.pixels.shape == (64, 64, 3)
    np.testing.assert_allclose(sample.boxes[0], [0.1, 0.25, 0.4, 0.625])
    asked = {phrase.phrase: phrase.owned for phrase in sample.phrases}
    assert asked["red box"] == (0,)
    assert all(not owned for phrase, owned in asked.items() if phrase.endswith("car"))
    assert [phrase.owned for phrase in present_phrases(drawn_scene())] == [(0,)]


def things(*called: tuple[str, str | None]) -> Scene:
    """A scene of things (colour, name) side by side."""
    boxes = np.array([[20 * x, 0, 20 * x + 10, 10] for x in range(len(called))], dtype=np.float32)
    names, colours = tuple(name for _, name in called), tuple(colour for colour, _ in called)
    return Scene(Image.new("RGB", (200, 20)), boxes, names, colours, known_names=frozenset(names))


def wrong_colours(scene: Scene, name: str, draws: int = 300) -> list[str]:
    """Colours in which a thing was asked for and is not there."""
    rng = np.random.default_rng(0)
    drawn = [phrase for _ in range(draws) for phrase in colour_phrases(scene, rng) if not phrase.owned]
    return [phrase.phrase.split()[0] for phrase in drawn if phrase.phrase.endswith(f" {name}")]


def test_wrong_colours_are_mostly_those_of_other_things_in_the_scene() -> None:
    scene = things(("red", "box"), ("green", "box"), ("blue", "ball"), (None, "car"))
    boxes, balls = wrong_colours(scene, "box"), wrong_colours(scene, "ball")
    assert len(boxes) == len(balls) == 300
    assert not {"red", "green"} & set(boxes)
    assert "blue" not in balls
    assert 0.6 < boxes.count("blue") / 300 < 0.9
    assert 0.6 < (balls.count("red") + balls.count("green")) / 300 < 0.9
    assert min(balls.count("red"), balls.count("green")) > 60
    assert len(set(boxes)) > 5  # and now and then any other
    assert set(wrong_colours(things(("red", "box")), "box")) == set(COLOURS) - {"red"}


def test_things_of_unknown_colour_are_neither_right_nor_wrong() -> None:
    scene = things(("red", "box"), (None, "box"), (None, "car"))
    red, wrong = colour_phrases(scene, np.random.default_rng(0))
    assert (red.phrase, red.owned) == ("red box", (0,))
    assert wrong.phrase.endswith(" box") and not wrong.owned
    for phrase in (red, wrong):
        np.testing.assert_array_equal(np.array(phrase.ignored), scene.boxes[1:2])


def test_splits_are_stable_and_of_the_stated_sizes() -> None:
    names = [split_of(number) for number in range(20_000)]
    assert 0.82 < names.count("train") / len(names) < 0.86
    assert 0.07 < names.count("val") / len(names) < 0.09
    assert [split_of(number) for number in (139, 285, 632, 724)] == [split_of(str(n)) for n in (139, 285, 632, 724)]


def test_images_that_look_alike_are_in_one_split() -> None:
    rng = np.random.default_rng(0)
    first, other = (Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)).resize((320, 240)) for _ in "ab")
    again = first.crop((2, 2, 318, 238)).resize((160, 120))
    hashes = np.stack([difference_hash(image) for image in (first, other, again, first)])
    assert near_duplicates(hashes, ["train", "test", "val", "train"]) == [2]
    assert near_duplicates(hashes, ["test", "train", "test", "test"]) == []
    assert split_of_image("animals_256", "ca116.webp", 139) == "train"
    assert split_of_image("coco_train_448", "ca116.webp", 139) == split_of(139)


def test_calibrating_writes_settings_that_the_model_then_has(
    archives: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    shutil.copytree(finished / "model", model)
    calibrate(model, archives, "cpu")
    printed = dict(line.split("\t") for line in capsys.readouterr().out.splitlines())
    captions = VisionAgent.from_pretrained(model).backbone.model.generation_config.answers["captions"]
    assert str(captions["least"]) == printed.pop("captions") and captions["more"] <= captions["least"]
    assert list(printed) == ["prominence", "quality", "temperature", "threshold", "presence", "maybe", "counted"]
    settings = VisionAgent.from_pretrained(model).routes["det"].decoder.settings
    assert {name: str(settings[name]) for name in printed} == printed
    assert settings["maybe"] <= settings["presence"]


def talking(init: Path, **changes: object) -> TrainConfig:
    """A recipe of one language stage."""
    talk = {"name": "talk", "kind": "language", "tile": 64, "steps": 3, "batch": 2, "rate": 1e-3, "warm_up": 1}
    stages = (StageSection.model_validate(talk | changes),)
    return recipe(init=init, save_minutes=EVERY_STEP).model_copy(update={"stages": stages})


def test_a_language_stage_may_have_steps_without_images_and_goes_on_exactly(
    archives: Path, finished: Path, tmp_path: Path
) -> None:
    config = talking(finished / "model", steps=5, without_images=0.4)
    train(config, archives, tmp_path / "straight", "cpu")
    killed(config, archives, tmp_path / "killed", 3)
    train(config, archives, tmp_path / "killed", "cpu")
    first, second = weights(tmp_path / "straight"), weights(tmp_path / "killed")
    assert not [name for name, tensor in first.items() if not torch.equal(tensor, second[name])]


def test_a_language_stage_changes_words_and_keeps_what_phrases_mean(archives: Path, tmp_path: Path) -> None:
    first = train(recipe(), archives, tmp_path / "first", "cpu")
    second = train(talking(first), archives, tmp_path / "second", "cpu")
    before, after = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("language_model.layers" in name for name in changed)
    assert not any("vision_tower" in name or "projector" in name for name in changed)
    losses = [json.loads(line) for line in (tmp_path / "second" / "log.jsonl").read_text().splitlines()]
    assert losses[1]["keep"] < 1e-3 and "boxes" not in losses[1]
    assert {"[DET]", "[SEG]", "[OCR]", "[GEN]", "[EDIT]"} <= set(
        VisionAgent.from_pretrained(second).backbone.tokenizer.get_vocab()
    )
