"""`tiles="multi-scale"`: two tilings that cut in different places, as Mini-Monkey's `dynamic_preprocess2` has it."""

from pathlib import Path
from typing import Any

import numpy as np
import original_format as official
import pytest
import torch
from PIL import Image

from vision_agent import GenerationOptions, InputError, RouteSpec, VisionAgent
from vision_agent.geometry.frames import TileGrid, choose_tiles
from vision_agent.inference.find_options import FindOptions
from vision_agent.inference.tile_layout import tiles_of
from vision_agent.model.preprocess import cut_tiles
from vision_agent.routing.adapter import new_route, save_adapter

SHORT = GenerationOptions(max_new_tokens=4)


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> VisionAgent:
    """A tiny original InternVL2, of up to twelve tiles of 28 pixels, with a fresh [DET] route."""
    folder = tmp_path_factory.mktemp("tiled")
    official.write_folder(folder / "model", "internlm2")
    agent = VisionAgent.from_pretrained(folder / "model", dtype="fp32")
    route = new_route(agent.backbone, RouteSpec(token="[DET]", decoder="box", num_queries=4))
    save_adapter(folder / "det", route, agent.backbone, torch.float32)
    agent.load_adapter(folder / "det")
    return agent


def page(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def closest(width: int, height: int, layouts: list[tuple[int, int]], tile: int) -> tuple[int, int]:
    """InternVL's `find_closest_aspect_ratio`, step by step."""
    best, least = (1, 1), float("inf")
    for columns, rows in layouts:
        difference = abs(width / height - columns / rows)
        if difference < least:
            best, least = (columns, rows), difference
        elif difference == least and width * height > 0.5 * tile * tile * columns * rows:
            best = (columns, rows)
    return best


def layouts(least: int, most: int) -> list[tuple[int, int]]:
    all_of = [(i, j) for i in range(1, most + 1) for j in range(1, most + 1) if least <= i * j <= most]
    return sorted(all_of, key=lambda layout: layout[0] * layout[1])


def test_the_coarse_tiling_is_mini_monkeys() -> None:
    """Against its published rule, for every fine tiling and many sizes: square, narrow, tiny and large ones."""
    rng = np.random.default_rng(0)
    sizes = [(1, 1), (448, 448), (100, 2000), (2000, 100), (896, 1344), *rng.integers(1, 4000, (200, 2)).tolist()]
    for width, height in sizes:
        fine = closest(width, height, layouts(4, 12), 448)
        assert choose_tiles(width, height, min_tiles=4, max_tiles=12) == fine
        for given in {fine, *layouts(4, 12)}:
            kept = [(i, j) for i, j in layouts(3, 7) if given[0] % i or given[1] % j]
            coarse = choose_tiles(width, height, min_tiles=3, max_tiles=7, beside=given)
            assert coarse == closest(width, height, kept, 448)
            assert given[0] % coarse[0] or given[1] % coarse[1], "it would cut where the other cuts"


@pytest.mark.parametrize("size", [(84, 112), (28, 28), (300, 40), (9, 9), (200, 200)])
def test_the_model_sees_both_tilings_and_the_thumbnail(size: tuple[int, int], tiled: VisionAgent) -> None:
    """Coarse tiles, fine tiles, thumbnail, pixel for pixel those of two plain tilings; as many places in the prompt."""
    backbone, image = tiled.backbone, page(*size)
    coarse, fine = backbone.grids_for(*size, "multi-scale")
    assert 3 <= coarse.tile_count <= 7 and 5 <= fine.tile_count <= 13 and fine.has_thumbnail
    seen = backbone.encode("What is it?", image, max_tiles="multi-scale")
    pixels = [backbone.normalise(cut_tiles(image, grid)) for grid in (coarse, fine)]
    assert seen.pixel_values is not None and torch.equal(seen.pixel_values, torch.cat(pixels))
    assert seen.num_tiles == (coarse.tile_count + fine.tile_count,)
    assert seen.prompt.count("<IMG_CONTEXT>") == sum(seen.num_tiles) * backbone.tokens_per_tile
    # Tokens in this order; dense features of the fine tiling alone, and the image's own frame.
    encoded = backbone.encode_image(image, "multi-scale")
    tokens, maps = backbone.see(seen.pixel_values)
    assert torch.allclose(encoded.tokens_TC, tokens.flatten(0, 1), atol=1e-5)
    plain = TileGrid(*size, fine.columns, fine.rows, fine.tile_size, fine.cells, fine.thumbnail)
    assert encoded.grid == plain == backbone.grid_for(*size, "multi-scale")
    cells = fine.cells
    first = maps[0][coarse.tile_count]
    assert torch.allclose(encoded.features.maps[0][0, :, :cells, :cells], first, atol=1e-5)
    assert encoded.features.maps[0].shape[2:] == (fine.rows * cells, fine.columns * cells)


def test_several_images_are_encoded_as_each_alone(tiled: VisionAgent) -> None:
    images = [page(84, 112), page(300, 40, 1), page(28, 28, 2)]
    together = tiled.backbone.encode_images(images, "multi-scale")
    for image, each in zip(images, together, strict=True):
        alone = tiled.backbone.encode_image(image, "multi-scale")
        assert torch.allclose(each.tokens_TC, alone.tokens_TC, atol=1e-5) and each.grid == alone.grid
        assert torch.allclose(each.features.maps[0], alone.features.maps[0], atol=1e-5)


def test_every_verb_that_takes_tiles(tiled: VisionAgent) -> None:
    image = page(84, 112)
    tokens = tiled.backbone.tokens_per_tile
    plain = tiled.ask("What is it?", image, options=SHORT)
    multi = tiled.ask("What is it?", image, tiles="multi-scale", options=SHORT)
    more = tiled.backbone.tile_count(84, 112, "multi-scale") - tiled.backbone.tile_count(84, 112)
    assert multi.prompt_tokens - plain.prompt_tokens == more * tokens > 0
    batch = tiled.ask(["What is it?", "Why?"], [image, page(300, 40)], tiles="multi-scale", options=SHORT)
    assert batch[0].text == multi.text
    assert next(iter(tiled.ask("What is it?", iter([image]), tiles="multi-scale", options=SHORT))).text == multi.text
    last = list(tiled.ask("What is it?", image, tiles="multi-scale", options=SHORT, stream=True))[-1]
    assert last.answer.text == multi.text  # type: ignore[union-attr]
    chat = tiled.chat()
    assert chat.ask("What is it?", image, tiles="multi-scale", options=SHORT, routes=()).prompt_tokens == (
        multi.prompt_tokens
    )
    chat.ask("And now?", options=SHORT, routes=())
    found = tiled.detect("dog", image, tiles="multi-scale", threshold=0.0, only_known=False)
    assert found.image_size == (84, 112) and not found.tiles
    other = tiled.detect("dog", image, threshold=0.0, only_known=False).scores
    assert len(found) and (len(other) != len(found) or not np.allclose(found.scores, other, atol=1e-7))
    assert tiled.count("dog", image, tiles="multi-scale", only_known=False).count >= 0
    assert tiled.point("dog", image, tiles="multi-scale", only_known=False).image_size == (84, 112)
    assert FindOptions.of(tiles="multi-scale", detail="low").max_tiles == "multi-scale"
    assert tiles_of((9000, 100), "multi-scale", tiled.backbone.grid_for, 12) == []


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"tiles": "multi"}, "`tiles` must be None or 'multi-scale', but got 'multi'"),
        ({"tiles": "multi-scale", "max_tiles": 6}, "`max_tiles` must be left out"),
        ({"tiles": True}, "`tiles` must be None or 'multi-scale'"),
        ({"max_tiles": "multi"}, "`max_tiles`"),
    ],
)
def test_wrong_tiles_are_told(settings: Any, told: str, tiled: VisionAgent) -> None:
    with pytest.raises(InputError) as raised:
        tiled.ask("What is it?", page(60, 60), **settings)
    assert told in str(raised.value)


def test_a_model_of_one_tile_has_no_two_scales(agent: VisionAgent, photo: Path, cli: Any) -> None:
    for call in (
        lambda: agent.ask("what is it?", photo, tiles="multi-scale"),
        lambda: agent.detect("dog", photo, tiles="multi-scale"),
    ):
        with pytest.raises(InputError, match="sees an image in at most 1 tiles"):
            call()
    with pytest.raises(InputError, match="or 'multi-scale'"):
        agent.detect("dog", photo, tiles="scales")  # type: ignore[arg-type]
    done = cli("detect", "dog", photo, "--tiles", "multi-scale")
    assert done.returncode == 2 and "at most 1 tiles" in done.stderr
