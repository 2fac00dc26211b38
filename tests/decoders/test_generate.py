"""Making and changing images: results, routes, the small generator, and what is refused."""

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_backbone
from PIL import Image
from pydantic import ValidationError

from vision_agent import GeneratedImage, GeneratedImages, VisionAgent
from vision_agent.decoders.image.generator import EditorDecoder, GeneratorDecoder
from vision_agent.decoders.image.model import Generator
from vision_agent.decoders.image.slots import NUMBERS, ROWS, compose
from vision_agent.errors import ArgumentTypeError, InputError, RouteError
from vision_agent.model.checkpoint import load_backbone, save_backbone
from vision_agent.plugins.route import RouteSpec
from vision_agent.results.answers import RoutedText
from vision_agent.results.segmentation import Mask
from vision_agent.routing.adapter import new_route, save_adapter

WORDS = ["a", "red", "car", "dog", "make", "it"]
GEN = RouteSpec(token="[GEN]", decoder="generator", num_queries=6)
EDIT = RouteSpec(token="[EDIT]", decoder="editor", num_queries=6)


def small_generator() -> Generator:
    """A random generator whose images depend on their condition."""
    torch.manual_seed(5)
    generator = Generator(WORDS, looks=3, colours=4, size=32, width=64, depth=1, channels=8)
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if parameter.ndim >= 2 and "painter" not in name:
                parameter.mul_(3)
        generator.denoiser.leave.bias.zero_()
        generator.denoiser.leave.bias[0] = 3.0  # things are there
    return generator


def drawing_checkpoint(folder: Path) -> Path:
    """A tiny checkpoint with both routes."""
    backbone = tiny_backbone()
    save_backbone(backbone, folder, torch.float32)
    backbone = load_backbone(folder)
    network = small_generator()
    for spec in (GEN, EDIT):
        route = new_route(backbone, spec, torch.Generator().manual_seed(1), network=network)
        with torch.no_grad():
            route.queries.weight.mul_(20)
        save_adapter(folder / "adapters" / spec.name, route, backbone, torch.float32)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawing_checkpoint(tmp_path_factory.mktemp("artist") / "tiny")


@pytest.fixture(scope="module")
def artist(folder: Path) -> VisionAgent:
    return VisionAgent.from_pretrained(folder)


@pytest.fixture
def image() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def difference(one: GeneratedImage, other: GeneratedImage) -> float:
    return float(np.abs(one.to_array().astype(int) - other.to_array()).mean())


class TestResults:
    def image(self, **more: Any) -> GeneratedImage:
        fields = {"prompt": "a dog", "seed": 1, "steps": 2, "guidance": 2.0, "model": "m", "decoder": "d"}
        return GeneratedImage.of(Image.new("RGB", (20, 10), "red"), **(fields | more))

    def test_json_is_the_same_image_again(self) -> None:
        made = self.image(unknown_words=("zorp",))
        again = GeneratedImage.model_validate_json(made.model_dump_json())
        assert again == made
        assert again.image.size == (20, 10)
        assert again.image.getpixel((3, 3)) == (255, 0, 0)

    def test_a_routed_image_survives_json(self) -> None:
        made = GeneratedImages(images=(self.image(),))
        routed = RoutedText(token="[GEN]", phrase="a dog", start=0, end=5, result=made)
        assert RoutedText.model_validate_json(routed.model_dump_json()).result == made

    def test_it_is_frozen_and_consistent(self) -> None:
        with pytest.raises(ValidationError):
            self.image().prompt = "a cat"
        with pytest.raises(ValidationError, match="must be an image of `size`"):
            GeneratedImage.model_validate(self.image().model_dump() | {"size": (5, 5)})

    def test_it_saves_and_shows(self, tmp_path: Path) -> None:
        made = self.image()
        made.save(tmp_path / "made.jpg")
        assert Image.open(tmp_path / "made.jpg").size == (20, 10)
        assert Image.open(io.BytesIO(made._repr_png_())).size == (20, 10)

    def test_several_are_a_sequence(self) -> None:
        both = GeneratedImages(images=(self.image(seed=1), self.image(seed=2)))
        assert [each.seed for each in both] == [1, 2]
        assert both[1:].images == (both[1],)
        assert both.sheet(columns=2).size == (40, 10)
        with pytest.raises(InputError, match="one image, but there are 2"):
            _ = both.image
        with pytest.raises(InputError, match="columns"):
            both.sheet(columns=0)


class TestGenerate:
    def test_a_seed_gives_the_same_image_and_another_seed_another(self, artist: VisionAgent) -> None:
        first, again = (artist.generate("a red car", seed=7, steps=4) for _ in range(2))
        assert first == again
        assert (first.size, first.seed, first.steps, first.decoder) == ((32, 32), 7, 4, "generator")
        assert difference(first, artist.generate("a red car", seed=8, steps=4)) > 1

    def test_words_matter(self, artist: VisionAgent) -> None:
        assert difference(*(artist.generate(text, seed=1, steps=4) for text in ("a red car", "the dog"))) > 0.1

    def test_without_a_seed_each_image_has_its_own(self, artist: VisionAgent) -> None:
        made = artist.generate("a dog", steps=2)
        assert made.seed != artist.generate("a dog", steps=2).seed
        assert artist.generate("a dog", seed=made.seed, steps=2) == made

    def test_a_list_equals_single_calls(self, artist: VisionAgent) -> None:
        prompts = ["a red car", "a dog", "it"]
        together = artist.generate(prompts, seed=3, steps=3)
        assert [each.prompt for each in together] == prompts
        for number, (prompt, made) in enumerate(zip(prompts, together, strict=True)):
            assert made.seed == 3 + number
            assert difference(made, artist.generate(prompt, seed=3 + number, steps=3)) < 0.05

    def test_size_guidance_and_negative_prompt(self, artist: VisionAgent) -> None:
        plain = artist.generate("a red car", seed=1, steps=3)
        wide = artist.generate("a red car", seed=1, steps=3, size=(64, 48))
        assert wide.size == wide.image.size == (64, 48)
        assert difference(plain, artist.generate("a red car", seed=1, steps=3, guidance=6)) > 0.1
        away = artist.generate("a red car", seed=1, steps=3, negative_prompt="the dog")
        assert away.negative_prompt == "the dog"
        assert difference(plain, away) > 0.1

    def test_unknown_words_are_told(self, artist: VisionAgent) -> None:
        assert artist.generate("a purple car, a Zorp", seed=1, steps=1).unknown_words == ("purple", "zorp")

    def test_progress_is_told_each_step(self, artist: VisionAgent) -> None:
        told: list[tuple[int, int, tuple[int, int]]] = []
        made = artist.generate(
            "a dog", seed=2, steps=3, progress=lambda step, steps, seen: told.append((step, steps, seen.size))
        )
        assert told == [(1, 3, (32, 32)), (2, 3, (32, 32)), (3, 3, (32, 32))]
        assert made == artist.generate("a dog", seed=2, steps=3)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"steps": 0}, "`steps` must be a whole number from 1 to 1000, but got 0"),
            ({"size": 1_000_000}, "`size \\(width\\)` must be a whole number from 16 to 512"),
            ({"size": (1000, 1000)}, "from 16 to 512"),
            ({"size": (64, 64, 3)}, "a side, or \\(width, height\\)"),
            ({"seed": -1}, "`seed` must be"),
            ({"guidance": 0.0}, "`guidance` must be from 1 to 50"),
            ({"negative_prompt": " "}, "`negative_prompt` must be some words"),
        ],
    )
    def test_numbers_out_of_range(self, artist: VisionAgent, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            artist.generate("a dog", **settings)

    @pytest.mark.parametrize("settings", [{"steps": 2.5}, {"seed": True}, {"guidance": "much"}, {"progress": 3}])
    def test_values_of_other_types(self, artist: VisionAgent, settings: dict[str, Any]) -> None:
        with pytest.raises(ArgumentTypeError, match=next(iter(settings))):
            artist.generate("a dog", **settings)

    def test_prompts_that_say_nothing(self, artist: VisionAgent) -> None:
        with pytest.raises(InputError, match="`prompt` must be some words"):
            artist.generate("  ")
        with pytest.raises(InputError, match="from 1 to 64 prompts"):
            artist.generate([])
        with pytest.raises(ArgumentTypeError, match="`prompt` must be a string"):
            artist.generate(Image.new("RGB", (8, 8)))  # type: ignore[call-overload]

    def test_without_a_route_the_remedy_is_told(self, checkpoint: Path, image: Image.Image) -> None:
        agent = VisionAgent.from_pretrained(checkpoint)
        with pytest.raises(RouteError, match=r"no \[GEN\] route to make images with: load an adapter"):
            agent.generate("a dog")
        with pytest.raises(RouteError, match=r"no \[EDIT\] route"):
            agent.edit("make it red", image)


class TestEdit:
    def test_only_what_the_mask_allows_changes(self, artist: VisionAgent, image: Image.Image) -> None:
        mask = np.zeros((40, 60), dtype=bool)
        mask[5:30, 10:50] = True
        made = artist.edit("make it red", image, mask=mask, seed=1, steps=3)
        assert made.edited
        assert made.size == (60, 40)
        changed = (made.to_array() != np.asarray(image)).any(axis=2)
        assert changed[mask].mean() > 0.05
        assert not changed[~mask].any()

    def test_masks_of_all_kinds_agree(self, artist: VisionAgent, image: Image.Image) -> None:
        mask = np.zeros((40, 60), dtype=bool)
        mask[:, 20:] = True
        kinds = [mask, mask.astype(np.uint8) * 255, mask.astype(float), Image.fromarray(mask), Mask.from_array(mask)]
        made = [artist.edit("make it red", image, mask=kind, seed=1, steps=2) for kind in kinds]
        assert all(each == made[0] for each in made)

    def test_the_image_matters_where_it_stays(self, artist: VisionAgent, image: Image.Image) -> None:
        other = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        one, two = (artist.edit("make it red", each, seed=1, steps=2) for each in (image, other))
        assert difference(one, two) > 1

    def test_bad_masks(self, artist: VisionAgent, image: Image.Image) -> None:
        with pytest.raises(InputError, match=r"`mask` must be of shape \(40, 60\).*\(60, 40\)"):
            artist.edit("make it red", image, mask=np.ones((60, 40), dtype=bool))
        with pytest.raises(InputError, match="lets nothing change"):
            artist.edit("make it red", image, mask=np.zeros((40, 60), dtype=bool))
        with pytest.raises(ArgumentTypeError, match="`mask` must be a Mask"):
            artist.edit("make it red", image, mask="left half")  # type: ignore[arg-type]

    def test_swapped_arguments(self, artist: VisionAgent, image: Image.Image) -> None:
        with pytest.raises(ArgumentTypeError, match="swapped"):
            artist.edit(image, "make it red")  # type: ignore[arg-type]

    def test_without_the_route_that_shares_its_network_nothing_is_drawn(
        self, folder: Path, tmp_path: Path, image: Image.Image
    ) -> None:
        copy = tmp_path / "alone"
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("gen"))
        agent = VisionAgent.from_pretrained(copy)
        with pytest.raises(RouteError, match=r"shares the network of \[GEN\], which is not loaded"):
            agent.edit("make it red", image)


class TestDecoders:
    def test_the_editor_keeps_no_network_of_its_own(self, artist: VisionAgent) -> None:
        editor = artist.routes["edit"].decoder
        assert isinstance(editor, EditorDecoder)
        assert editor.network is artist.routes["gen"].decoder.network
        assert not [name for name in editor.state_dict() if not name.startswith("mapper.")]

    def test_a_network_that_does_not_fit_is_refused(self) -> None:
        editor = EditorDecoder(6, 64, tokens=16, width=128)
        with pytest.raises(RouteError, match="no network for conditions of shape"):
            editor.share_network(GeneratorDecoder(6, 64, small_generator().settings))

    def test_a_free_answer_draws(self, artist: VisionAgent) -> None:
        answer = artist.run("draw a dog", routes=["gen"], first_route="gen", max_routes=1, max_new_tokens=24)
        (routed,) = answer.routes[:1]
        assert isinstance(routed.result, GeneratedImages)
        assert routed.result.image.size == (32, 32)


class TestSlots:
    def test_a_thing_lies_where_its_row_says(self) -> None:
        rows = torch.zeros(ROWS, NUMBERS)
        rows[0, :27] = 1  # white
        rows[1:, 0] = -1
        rows[2, :5] = torch.tensor([1.0, 4 * 0.25, -4 * 0.25, 6 * (0.25 - 0.5), 0.0])  # a quarter right, a quarter up
        sprites = torch.zeros(4, 4, 96, 96)
        sprites[1, 0] = sprites[1, 3] = 1  # a red square
        drawn = compose(rows, sprites, (64, 64))
        red = (drawn[0] > 0.9) & (drawn[1] < 0.1)
        rows_of_red, columns_of_red = red.nonzero(as_tuple=True)
        assert (int(columns_of_red.min()), int(columns_of_red.max())) == (40, 55)
        assert (int(rows_of_red.min()), int(rows_of_red.max())) == (8, 23)
        assert torch.all(drawn[:, ~red].mean(dim=1) > 0.9)

    def test_a_part_that_goes_takes_the_background(self) -> None:
        rows = torch.zeros(ROWS, NUMBERS)
        rows[0, :27] = -1  # black
        rows[1:, 0] = -1
        rows[-1, :5] = torch.tensor([1.0, -4 * 0.25, 0.0, 4 * 0.3, 4 * 0.4])
        drawn = compose(rows, torch.zeros(4, 4, 96, 96), (100, 100), torch.ones(3, 100, 100))
        assert float(drawn[:, 35:65, 15:35].max()) == 0
        assert float(drawn[:, :, 50:].min()) == 1
