"""Speed of turning photos into model input, as a ratio to InternVL's own pipeline within one run.

    python benchmarks/preprocess.py [--threads 2] [--repeats 9] [--photo PATH] [--out FILE.json]

The official pipeline is written out here as its authors' quick start has it: the image is resized to the canvas in
one call, each tile is cropped, resized to its own size again, turned into a tensor and normalised by itself, and all
are stacked (what torchvision's ToTensor and Normalize do is spelt out, so that torchvision is not needed). Both
pipelines get the same decoded image and the same number of PyTorch threads, and are timed in turns.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image
from torch import Tensor

from vision_agent.geometry.frames import TileGrid
from vision_agent.images.loading import load_image
from vision_agent.model.preprocess import cut_tiles, normalised

PHOTO = Path(__file__).parents[1] / "examples" / "photos" / "000000423617.jpg"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# 4K video, a 12-megapixel camera (12 tiles, the most there are by default), the same upright, full HD, and a small one.
SIZES = ((3840, 2160), (4000, 3000), (3000, 4000), (1920, 1080), (640, 480))


def official(image: Image.Image, grid: TileGrid) -> Tensor:
    """Return the image's tiles, float32 (N, 3, S, S), made the official way."""
    side = grid.tile_size
    canvas = image.resize((grid.columns * side, grid.rows * side))
    tiles = []
    for number in range(grid.piece_count):
        left, top = number % grid.columns * side, number // grid.columns * side
        tiles.append(canvas.crop((left, top, left + side, top + side)))
    if grid.has_thumbnail:
        tiles.append(image.resize((side, side)))
    return torch.stack([_transformed(tile, side) for tile in tiles])


def _transformed(tile: Image.Image, side: int) -> Tensor:
    """torchvision's Resize, ToTensor and Normalize."""
    if tile.size != (side, side):  # torchvision leaves an image of the wanted size alone
        tile = tile.resize((side, side), Image.Resampling.BICUBIC)
    levels = torch.from_numpy(np.array(tile, np.uint8, copy=True)).permute(2, 0, 1).contiguous()
    values = levels.to(torch.get_default_dtype()).div(255)
    mean, std = (torch.as_tensor(numbers, dtype=values.dtype).view(-1, 1, 1) for numbers in (MEAN, STD))
    return values.clone().sub_(mean).div_(std)


def ours(image: Image.Image, grid: TileGrid, threads: int) -> Tensor:
    return normalised(cut_tiles(image, grid, threads=threads), MEAN, STD)


def median_seconds(calls: list[Callable[[], object]], repeats: int) -> list[float]:
    """Measure the median wall time of each call in turns after a warm-up, so that a busy machine slows all alike."""
    times: list[list[float]] = [[] for _ in calls]
    for repeat in range(repeats + 1):
        for call, kept in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            if repeat:
                kept.append(time.perf_counter() - start)
    return [statistics.median(kept) for kept in times]


def measure(image: Image.Image, threads: int, repeats: int) -> dict[str, float | str]:
    """Measure the figures of one image."""
    grid = TileGrid.for_image(*image.size)
    side = grid.tile_size
    tiles = cut_tiles(image, grid)
    theirs, single, several, resizing, scaling = median_seconds(
        [
            lambda: official(image, grid),
            lambda: ours(image, grid, 1),
            lambda: ours(image, grid, threads),
            lambda: (image.resize((grid.columns * side, grid.rows * side)), image.resize((side, side))),
            lambda: normalised(tiles, MEAN, STD),
        ],
        repeats,
    )
    # Pillow 13 takes the height first in some upright images; the versions InternVL was trained with never did.
    difference = float((official(image, grid) - ours(image, grid, threads)).abs().mean())
    return {
        "image": f"{image.width}x{image.height}",
        "tiles": f"{grid.columns} x {grid.rows}{' + 1' if grid.has_thumbnail else ''}",
        "official ms": theirs * 1e3,
        "... its resizing alone": resizing * 1e3,
        "ours, 1 thread, ms": single * 1e3,
        "... its normalising alone": scaling * 1e3,
        f"ours, {threads} threads, ms": several * 1e3,
        "official / ours, 1 thread": theirs / single,
        f"official / ours, {threads} threads": theirs / several,
        "mean difference": f"{difference:.0e}" if difference else "0",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="for PyTorch, and for ours")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--photo", type=Path, default=PHOTO, help="enlarged to the sizes measured")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    photo = load_image(options.photo)
    machine = f"{platform.machine()}, {options.threads} threads, torch {torch.__version__}, Pillow {PIL.__version__}"
    rows = [measure(photo.resize(size), options.threads, options.repeats) for size in SIZES]
    print(f"machine: {machine}; photo: {options.photo.name}\n")
    print(f"| {' | '.join(rows[0])} |\n|{'---|' * len(rows[0])}")
    for row in rows:
        print(f"| {' | '.join(x if isinstance(x, str) else f'{x:.1f}' for x in row.values())} |")
    if options.out is not None:
        figures = {"machine": machine, "photo": options.photo.name, "images": rows}
        options.out.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
