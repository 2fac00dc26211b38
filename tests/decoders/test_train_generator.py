"""The generator's training: scenes that hold what their prompts say, lessons that resume, adapters that load."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_backbone
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from vision_agent import VisionAgent
from vision_agent.cli.main import command_line
from vision_agent.data.recolor import colour_of
from vision_agent.decoders.image.mapper_training import EDIT, GENERATE, DrawingTraining, train_drawing
from vision_agent.decoders.image.scenes import GeneratorScenes, painted, vocabulary
from vision_agent.decoders.image.training import GeneratorConfig, load_generator, read_generator_config, train_generator
from vision_agent.errors import CheckpointError, ConfigError, InputError
from vision_agent.inference.colors import COLOURS
from vision_agent.inference.nouns import plural
from vision_agent.model.checkpoint import load_backbone, save_backbone


def stored(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "WEBP", lossless=True)
    return file.getvalue()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def write_data(folder: Path) -> Path:
    """Write archives of two shapes and a background, drawn here."""
    labels = {}
    with zipfile.ZipFile(folder / "cutouts_192.zip", "w") as archive:
        for name, shape in (("ball", "ellipse"), ("box", "rectangle")):
            image = Image.new("RGBA", (80, 80))
            getattr(ImageDraw.Draw(image), shape)((10, 10, 70, 70), fill=(200, 60, 40, 255))
            archive.writestr(f"{name}.webp", stored(image))
            labels[f"{name}.webp"] = {"name": name, "kind": "render"}
    (folder / "cutouts_192_labels.json").write_text(json.dumps(labels))
    with zipfile.ZipFile(folder / "backgrounds_320.zip", "w") as archive:
        archive.writestr("wall.webp", stored(Image.new("RGB", (64, 64), (120, 130, 140))))
    return folder


def config(**lesson: int) -> GeneratorConfig:
    steps = {"painter": 2, "flow": 4} | lesson
    return GeneratorConfig.model_validate(
        {
            "size": 32,
            "width": 64,
            "depth": 1,
            "channels": 4,
            "painter": {"steps": steps["painter"], "batch": 2, "rate": 1e-3},
            "flow": {"steps": steps["flow"], "batch": 4, "rate": 1e-3, "edit_share": 0.5},
            "names": {"ball": ["ball.webp"], "box": ["box.webp"]},
        }
    )


class TestScenes:
    def test_prompts_say_what_is_drawn(self, data: Path) -> None:
        scenes = GeneratorScenes(data, config().names)
        rng = np.random.default_rng(0)
        words = set(vocabulary(scenes.names))
        for _ in range(60):
            sample = scenes.sample(rng, edit=False)
            said = sample.prompt.split()
            assert set(said) <= words
            for obj in sample.objects:
                assert obj.name in said or plural(obj.name) in said
                assert obj.colour is None or obj.colour in said
            if said[0] in ("two", "three", "four"):
                assert len(sample.objects) == {"two": 2, "three": 3, "four": 4}[said[0]]
            if "left" in said and len(sample.objects) == 1:
                assert sample.objects[0].x < 0.4

    def test_the_same_number_is_the_same_sample(self, data: Path) -> None:
        scenes = GeneratorScenes(data, config().names)
        one, two = (scenes.sample(np.random.default_rng(3), edit=True) for _ in range(2))
        assert one.prompt == two.prompt
        assert one.source is not None and two.source is not None
        assert np.array_equal(one.source, two.source)

    @pytest.mark.parametrize("colour", COLOURS)
    def test_paint_is_what_the_rules_of_colour_call_it(self, colour: str) -> None:
        shaded = np.zeros((40, 40, 4), dtype=np.uint8)
        shaded[..., :3] = np.linspace(60, 200, 40)[:, None, None]
        shaded[..., 3] = 255
        pixels = np.asarray(painted(Image.fromarray(shaded), colour))
        assert colour_of(pixels[..., :3].reshape(-1, 3)) == colour


class TestLessons:
    def test_a_killed_run_goes_on_to_the_same_end(self, data: Path, tmp_path: Path) -> None:
        whole = train_generator(config(), data, tmp_path / "whole", "cpu")
        calls = 0

        def stop(*told: object) -> None:
            nonlocal calls
            calls += 1
            if calls == 5:
                raise KeyboardInterrupt

        eager = config().model_copy(update={"save_minutes": 1e-9})
        with pytest.raises(KeyboardInterrupt):
            train_generator(eager, data, tmp_path / "killed", "cpu", stop)
        again = train_generator(eager, data, tmp_path / "killed", "cpu")
        one, two = load_generator(whole).state_dict(), load_generator(again).state_dict()
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)

    def test_adapters_load_and_draw(self, data: Path, tmp_path: Path) -> None:
        generator = train_generator(config(), data, tmp_path / "run", "cpu")
        save_backbone(tiny_backbone(), tmp_path / "tiny", torch.float32)
        backbone = load_backbone(tmp_path / "tiny")
        before = {name: part.clone() for name, part in backbone.model.state_dict().items()}
        told: list[str] = []
        specs = [spec.model_copy(update={"num_queries": 4}) for spec in (GENERATE, EDIT)]
        folders = train_drawing(
            backbone,
            generator,
            data,
            tmp_path / "adapters",
            config(),
            DrawingTraining(prompts=40, steps=3, noise_steps=1, batch=2),
            routes=specs,
            on_step=lambda route, step, loss: told.append(f"{route} {step}"),
        )
        assert told == ["gen 1", "gen 2", "gen 3", "edit 1", "edit 2", "edit 3"]
        after = backbone.model.state_dict()
        rows = len(before["model.language_model.embed_tokens.weight"])
        assert torch.equal(
            before["model.language_model.embed_tokens.weight"],
            after["model.language_model.embed_tokens.weight"][:rows],
        )
        agent = VisionAgent.from_pretrained(tmp_path / "tiny", adapters=folders)
        made = agent.generate("a red ball", seed=1, steps=2)
        assert made.size == (32, 32)
        assert made.unknown_words == ()
        assert agent.edit("make it blue", made.image, seed=1, steps=2).size == (32, 32)


class TestRefusals:
    def test_a_recipe_names_what_is_wrong(self, tmp_path: Path) -> None:
        path = tmp_path / "recipe.toml"
        path.write_text("size = 3\n")
        with pytest.raises(ConfigError, match="`size`"):
            read_generator_config(path)
        with pytest.raises(ConfigError, match="cannot be read"):
            read_generator_config(tmp_path / "none.toml")

    def test_no_generator(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="holds no generator"):
            load_generator(tmp_path)

    def test_the_default_recipe_is_sound(self) -> None:
        assert 40 <= len(read_generator_config().names) <= 100


class TestCommands:
    def test_a_generator_and_its_adapters_come_of_two_commands(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        recipe = tmp_path / "recipe.toml"
        recipe.write_text(
            "size = 32\nwidth = 64\ndepth = 1\nchannels = 4\n"
            "[painter]\nsteps = 1\nbatch = 2\nrate = 1e-3\n[flow]\nsteps = 1\nbatch = 2\nrate = 1e-3\n"
            '[names]\nball = ["ball.webp"]\nbox = ["box.webp"]\n'
        )
        save_backbone(tiny_backbone(), tmp_path / "tiny", torch.float32)
        short = DrawingTraining(noise_steps=1, batch=2)
        monkeypatch.setattr("vision_agent.decoders.image.mapper_training.DrawingTraining", lambda: short)
        common = ["--data", str(data), "--device", "cpu"]
        made = CliRunner().invoke(
            command_line(), ["train-generator", str(recipe), *common, "--out", str(tmp_path / "run")]
        )
        assert made.exit_code == 0, made.output
        generator = made.stdout.strip().splitlines()[-1]
        assert generator == str(tmp_path / "run" / "generator")
        arguments = ["train-drawing", str(tmp_path / "tiny"), generator, *common, "--recipe", str(recipe)]
        arguments += ["--prompts", "2", "--steps", "2"]
        drawn = CliRunner().invoke(command_line(), [*arguments, "--out", str(tmp_path / "adapters")])
        assert drawn.exit_code == 0, drawn.output
        folders = [Path(line) for line in drawn.stdout.strip().splitlines()[-2:]]
        assert [folder.name for folder in folders] == ["gen", "edit"]
        agent = VisionAgent.from_pretrained(tmp_path / "tiny", adapters=folders)
        assert agent.generate("two balls", seed=0, steps=1).size == (32, 32)
        wrong = CliRunner().invoke(command_line(), [*arguments, "--out", str(tmp_path / "none"), "--only", "seg"])
        assert isinstance(wrong.exception, InputError) and not (tmp_path / "none").exists()
        wrong = CliRunner().invoke(command_line(), [*arguments, "--out", str(tmp_path / "none"), "--steps", "0"])
        assert isinstance(wrong.exception, InputError) and "0" in str(wrong.exception)
