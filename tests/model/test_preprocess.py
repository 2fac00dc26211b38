"""Tiles and pixel values, against the official pipeline written out plainly."""

import threading
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from vision_agent.errors import ArgumentTypeError, InputError
from vision_agent.geometry.frames import TileGrid
from vision_agent.model import preprocess
from vision_agent.model.preprocess import cut_tiles, normalised

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BICUBIC = Image.Resampling.BICUBIC


def noise(width: int, height: int) -> Image.Image:
    """Hard edges everywhere, so that any other order of rounding shows."""
    rng = np.random.default_rng(width * 10_007 + height)
    return Image.fromarray(rng.choice(np.array([0, 90, 255], np.uint8), (height, width, 3)))


def official_pixels(image: Image.Image, columns: int, rows: int, side: int, thumbnail: bool) -> list[np.ndarray]:
    """Tiles (S, S, 3) uint8 by Pillow alone, tile by tile, in the order of passes of Pillow 12 and before."""

    def resized(width: int, height: int) -> Image.Image:
        return image.resize((width, image.height), BICUBIC).resize((width, height), BICUBIC)

    canvas = resized(columns * side, rows * side)
    corners = [(column * side, row * side) for row in range(rows) for column in range(columns)]
    tiles = [canvas.crop((left, top, left + side, top + side)) for left, top in corners]
    if thumbnail and len(tiles) > 1:
        tiles.append(resized(side, side))
    return [np.array(tile) for tile in tiles]


def official_values(tile: np.ndarray) -> Tensor:
    """torchvision's ToTensor and Normalize of one tile."""
    values = torch.from_numpy(tile).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
    mean, std = torch.as_tensor(MEAN).view(-1, 1, 1), torch.as_tensor(STD).view(-1, 1, 1)
    return values.clone().sub_(mean).div_(std)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 330),
    st.integers(1, 330),
    st.integers(1, 5),
    st.integers(1, 5),
    st.sampled_from([14, 56, 61]),
    st.booleans(),
    st.integers(1, 4),
)
def test_tiles_and_values_equal_the_official_pipeline(
    width: int, height: int, columns: int, rows: int, side: int, thumbnail: bool, threads: int
) -> None:
    image = noise(width, height)
    grid = TileGrid(width, height, columns, rows, side, 4, thumbnail)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preprocess, "_PIXELS_PER_THREAD", 1)  # else images this small are never shared out
        tiles = cut_tiles(image, grid, threads=threads)
    expected = official_pixels(image, columns, rows, side, thumbnail)
    assert tiles.dtype == torch.uint8
    assert tiles.shape == (grid.tile_count, side, side, 3) == (len(expected), side, side, 3)
    np.testing.assert_array_equal(tiles.numpy(), np.stack(expected))
    values = normalised(tiles, MEAN, STD)
    assert values.is_contiguous()
    assert torch.equal(values, torch.stack([official_values(tile) for tile in expected]))


@pytest.mark.parametrize("size", [(317, 801), (400, 500), (480, 640), (1080, 1920), (1920, 1080)])
def test_sizes_that_pillow_13_resizes_in_another_order(size: tuple[int, int]) -> None:
    image = noise(*size)
    grid = TileGrid.for_image(*size, tile_size=112)
    expected = official_pixels(image, grid.columns, grid.rows, 112, True)
    np.testing.assert_array_equal(cut_tiles(image, grid).numpy(), np.stack(expected))


def test_a_4k_photo_with_twelve_tiles_shared_by_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    image = noise(1024, 768).resize((4096, 3072))
    before = image.tobytes()
    grid = TileGrid.for_image(*image.size)
    seen: set[str] = set()
    resized = preprocess._resized

    def watched(*arguments: Any) -> Image.Image:
        seen.add(threading.current_thread().name)
        return resized(*arguments)

    monkeypatch.setattr(preprocess, "_resized", watched)
    tiles = cut_tiles(image, grid, threads=2)
    assert seen and all(name.startswith("vision-agent-resize") for name in seen)
    assert tiles.shape == (13, 448, 448, 3)
    np.testing.assert_array_equal(tiles.numpy(), np.stack(official_pixels(image, 4, 3, 448, True)))
    assert image.tobytes() == before
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("vision-agent-resize")]


def test_small_images_start_no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocess, "ThreadPoolExecutor", lambda *_: pytest.fail("threads for a small image"))
    assert cut_tiles(noise(640, 480), TileGrid.for_image(640, 480, tile_size=56), threads=16).shape[0] == 13


def test_an_error_in_a_thread_comes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Image.Image:
        raise MemoryError("no room for the strip")

    monkeypatch.setattr(preprocess, "_PIXELS_PER_THREAD", 1)
    monkeypatch.setattr(preprocess, "_stacked", broken)
    with pytest.raises(MemoryError, match="no room for the strip"):
        cut_tiles(noise(64, 64), TileGrid(64, 64, 2, 2, 14), threads=2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_rounded_from_float32(dtype: torch.dtype) -> None:
    every_level = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(1, 16, 16, 3)
    values = normalised(every_level, MEAN, STD, dtype)
    assert values.dtype == dtype
    assert torch.equal(values, official_values(every_level[0].numpy().copy()).to(dtype)[None])


def test_values_leave_the_tiles_as_they_are() -> None:
    tiles = torch.full((2, 4, 4, 3), 128, dtype=torch.uint8)
    normalised(tiles, MEAN, STD)
    assert (tiles == 128).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_values() -> None:
    tiles = cut_tiles(noise(100, 80), TileGrid(100, 80, 2, 1, 56))
    assert torch.equal(normalised(tiles.cuda(), MEAN, STD).cpu(), normalised(tiles, MEAN, STD))


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (Image.new("L", (20, 20)), ArgumentTypeError, "`image` must be an RGB PIL image"),
        (np.zeros((20, 20, 3), np.uint8), ArgumentTypeError, "`image` must be an RGB PIL image"),
        (Image.new("RGB", (20, 21)), InputError, "`grid` must be made for an image of 20 x 21 pixels"),
    ],
)
def test_images_that_do_not_fit(image: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        cut_tiles(image, TileGrid(20, 20, 1, 1, 14))


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2"])
def test_bad_thread_counts(threads: Any) -> None:
    with pytest.raises(InputError, match="`threads` must be a whole number of at least 1, or None"):
        cut_tiles(Image.new("RGB", (20, 20)), TileGrid(20, 20, 1, 1, 14), threads=threads)


@pytest.mark.parametrize("tiles", [torch.zeros(2, 4, 4, 3), torch.zeros(2, 3, 4, 4, dtype=torch.uint8)])
def test_values_need_uint8_tiles_with_channels_last(tiles: Tensor) -> None:
    with pytest.raises(InputError, match=r"must be torch.uint8 \(N, S, S, 3\), but got torch\."):
        normalised(tiles, MEAN, STD)
