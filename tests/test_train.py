"""Training: a tiny real run on pictures made here; resuming after a kill is exact; augmentations keep boxes right."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from vision_agent import ConfigError, VisionAgent
from vision_agent.train.colour import COLOURS, PAINTABLE, colour_of, repainted
from vision_agent.train.compose import SceneMaker, plain_background
from vision_agent.train.config import DEFAULT_RECIPE, TrainConfig, read_config
from vision_agent.train.samples import absent_phrases, colour_phrases, make_sample, present_phrases
from vision_agent.train.scene import Scene, flipped, mosaic, window
from vision_agent.train.sources import Cutouts, split_of
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
    """A folder of archives in the real format, with drawn pictures."""
    folder = tmp_path_factory.mktemp("archives")
    rng = np.random.default_rng(0)
    categories = [{"id": 1, "name": "ball"}, {"id": 2, "name": "box"}, {"id": 3, "name": "car"}]
    for name in ("coco_train_448", "animals_256"):
        images, annotations, captions, files = [], [], [], {}
        for number in range(1, 61):
            picture = Image.new("RGB", (120, 90), (200, 200, 190))
            pen = ImageDraw.Draw(picture)
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
            files[f"{number}.png"] = encoded(picture)
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


def recipe(**joint: object) -> TrainConfig:
    stage = {"batch": 2, "rate": 1e-3, "decoder_rate": 1e-3, "warm_up": 1}
    return TrainConfig.model_validate(
        {
            "workers": 0,
            "save_minutes": 1e-9,  # after every step
            "model": {"tile": 64, "vocabulary": 320, "hidden": 32, "layers": 2, "heads": 2, "intermediate": 64},
            "data": {"phrases": 6},
            "language": {"steps": 2, **stage},
            "joint": {"steps": 3, "tower_rate": 1e-4, **stage, **joint},
        }
    )


def state(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors") | load_file(folder / "adapters" / "det" / "adapter.safetensors")


def test_a_killed_run_goes_on_exactly(archives: Path, tmp_path: Path) -> None:
    straight = train(recipe(), archives, tmp_path / "straight", "cpu")
    calls = []

    def die() -> None:
        calls.append(1)
        if len(calls) == 4:  # two text steps, then in the middle of the pictures
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe(), archives, tmp_path / "killed", "cpu", on_step=die)
    resumed = train(recipe(), archives, tmp_path / "killed", "cpu")
    first, second = state(straight), state(resumed)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    assert (tmp_path / "straight" / "curve.png").stat().st_size > 1000


def test_a_trained_checkpoint_detects_and_answers(archives: Path, tmp_path: Path) -> None:
    folder = train(recipe(), archives, tmp_path / "run", "cpu")
    agent = VisionAgent.from_pretrained(folder)
    picture = Image.new("RGB", (50, 40), "grey")
    assert len(agent.detect("ball", picture, threshold=0.0)) > 0
    assert agent.ask("is there a ball?", picture, max_new_tokens=3).completion_tokens <= 3


def test_a_folder_with_another_recipe_is_refused(archives: Path, tmp_path: Path) -> None:
    train(recipe(), archives, tmp_path / "run", "cpu")
    with pytest.raises(ConfigError, match="another recipe"):
        train(recipe(steps=9), archives, tmp_path / "run", "cpu")


def test_missing_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not there"):
        train(recipe(), tmp_path / "nothing", tmp_path / "run", "cpu")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[joint", "TOML"),
        ("[language]\nsteps = 0\nbatch = 1\nrate = 1\n[joint]\nsteps = 1\nbatch = 1\nrate = 1", "language.steps"),
        ("speed = 3\n[language]\nsteps = 1\nbatch = 1\nrate = 1\n[joint]\nsteps = 1\nbatch = 1\nrate = 1", "speed"),
    ],
)
def test_bad_recipes_name_the_setting(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_config(tmp_path / "recipe.toml")


def test_the_default_recipe_is_valid() -> None:
    assert read_config(DEFAULT_RECIPE).joint.steps >= 100


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
    maker = SceneMaker(Cutouts(archives), "train", size=(1, 2))
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
    maker = SceneMaker(Cutouts(archives), "train")
    ground = plain_background(Image.new("RGB", (300, 300), (255, 255, 255)))
    scenes = [maker.twins(ground, ("red", "blue"), np.random.default_rng(seed)) for seed in range(10)]
    pairs = [scene for scene in scenes if len(scene.boxes) == 2]
    assert len(pairs) >= 3
    for scene in pairs:
        assert set(scene.colours) == {"red", "blue"}
        named = {phrase.phrase: phrase.owned for phrase in colour_phrases(scene)}
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


def test_splits_are_stable_and_of_the_stated_sizes() -> None:
    names = [split_of(number) for number in range(20_000)]
    assert 0.82 < names.count("train") / len(names) < 0.86
    assert 0.07 < names.count("val") / len(names) < 0.09
    assert [split_of(number) for number in (139, 285, 632, 724)] == [split_of(str(n)) for n in (139, 285, 632, 724)]
