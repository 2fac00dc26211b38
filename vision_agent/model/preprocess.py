"""From an upright image to the tiles a model sees, byte for byte as InternVL's own pipeline makes them.

Two steps, so that a caller can keep, or send to a GPU, what is small: `cut_tiles` resizes and cuts (uint8, a quarter
of the memory), `normalised` scales the values on whatever device the tiles are.

Nearly all the time goes into resizing, most of it into the pass along the rows, which reads every pixel of the
image. Rows do not depend on each other in that pass, nor columns in the next one. So the second pass makes one
column of tiles after another, which keeps it in the processor's cache, and a large image is shared between threads
(Pillow lets them run side by side); neither changes a value.

Shape suffixes: N tiles, S tile side.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from vision_agent.errors import ArgumentTypeError, InputError, bad_argument
from vision_agent.geometry.frames import TileGrid

# A thread's share of an image: less is resized faster than threads start.
_PIXELS_PER_THREAD = 500_000

# `map`, or that of a thread pool.
_Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]


def cut_tiles(image: Image.Image, grid: TileGrid, *, threads: int | None = None) -> Tensor:
    """Cut an upright RGB image into uint8 (N, S, S, 3) on the CPU, row by row, the thumbnail last.

    Resizing is InternVL's: bicubic to the canvas, aspect ratio not kept.

    Args:
        image: as `load_image` gives it.
        grid: made for an image of this size.
        threads: at most so many work on the image, with the same result; None for as many as PyTorch uses
            (`torch.get_num_threads()`).

    Raises:
        ArgumentTypeError: not an RGB `PIL.Image.Image`.
        InputError: a grid made for another size, or `threads` under 1.
    """
    if not isinstance(image, Image.Image) or image.mode != "RGB":
        raise ArgumentTypeError(bad_argument("image", "an RGB PIL image, such as `load_image` gives", image))
    if image.size != (grid.image_width, grid.image_height):
        expected = f"made for an image of {image.width} x {image.height} pixels"
        raise InputError(bad_argument("grid", expected, grid))
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise InputError(bad_argument("threads", "a whole number of at least 1, or None", threads))
    workers = threads or torch.get_num_threads()
    workers = max(1, min(workers, image.width * image.height // _PIXELS_PER_THREAD, image.height))
    if workers == 1:
        return torch.from_numpy(_cut(image, grid, 1, map))
    with ThreadPoolExecutor(workers, "vision-agent-resize") as pool:
        return torch.from_numpy(_cut(image, grid, workers, pool.map))


def normalised(
    tiles_NSS3: Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype = torch.float32
) -> Tensor:
    """uint8 tiles (N, S, S, 3) -> (N, 3, S, S) of `dtype`, on the device they are on.

    Value for value what torchvision's ToTensor and Normalize give: over 255, minus the mean, over the standard
    deviation, each in float32, and only then rounded to `dtype`.

    Args:
        mean, std: per channel, for values from 0 to 1.

    Raises:
        InputError: tiles of another shape or dtype.
    """
    if tiles_NSS3.dtype != torch.uint8 or tiles_NSS3.ndim != 4 or tiles_NSS3.shape[3] != 3:
        got = f"{tiles_NSS3.dtype} {tuple(tiles_NSS3.shape)}"
        raise InputError(f"`tiles_NSS3` must be torch.uint8 (N, S, S, 3), but got {got}")

    def on_device(values: float | Sequence[float]) -> Tensor:
        # Tensors throughout: by a plain number a GPU divides through the reciprocal, which rounds differently.
        return torch.tensor(values, dtype=torch.float32, device=tiles_NSS3.device).reshape(-1, 1, 1)

    values = tiles_NSS3.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    return values.div_(on_device(255.0)).sub_(on_device(mean)).div_(on_device(std)).to(dtype)


def _cut(image: Image.Image, grid: TileGrid, bands: int, run: _Map) -> npt.NDArray[np.uint8]:
    """The tiles; `bands`: in how many bands of rows the first pass is done, `run`: by whom."""
    side, width, height = grid.tile_size, image.width, image.height
    # Every layout of tiles, as (columns, rows), shows the whole image: the canvas, and then the thumbnail.
    layouts = [(grid.columns, grid.rows)] + [(1, 1)] * grid.has_thumbnail
    edges = [height * band // bands for band in range(bands + 1)]

    def along_rows(band: int) -> list[Image.Image]:
        rows = image if bands == 1 else image.crop((0, edges[band], width, edges[band + 1]))
        return [_resized(rows, columns * side, rows.height) for columns, _ in layouts]

    wide = list(run(along_rows, range(bands)))
    tiles_NSS3 = np.empty((grid.tile_count, side, side, 3), np.uint8)

    def along_columns(place: tuple[int, int]) -> None:
        layout, column = place
        columns, rows = layouts[layout]
        box = (column * side, 0, (column + 1) * side)
        strip = _stacked([parts[layout].crop((*box, parts[layout].height)) for parts in wide])
        first = layout * grid.piece_count + column
        pieces = np.asarray(_resized(strip, side, rows * side)).reshape(rows, side, side, 3)
        tiles_NSS3[first : first + columns * rows : columns] = pieces

    places = [(layout, column) for layout, (columns, _) in enumerate(layouts) for column in range(columns)]
    for _ in run(along_columns, places):  # errors of threads come out here
        pass
    return tiles_NSS3


def _resized(image: Image.Image, width: int, height: int) -> Image.Image:
    """Bicubic, along one axis: a change of both is done in two steps, the width first.

    In one step Pillow 13 may take the height first, and then rounds differently from all versions before it.
    """
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _stacked(bands: list[Image.Image]) -> Image.Image:
    """Bands of rows as one image."""
    if len(bands) == 1:
        return bands[0]
    whole = Image.new("RGB", (bands[0].width, sum(band.height for band in bands)))
    top = 0
    for band in bands:
        whole.paste(band, (0, top))
        top += band.height
    return whole
