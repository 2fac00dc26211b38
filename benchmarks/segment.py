"""Eight objects segmented in one image against one call each, and masks of a 12-megapixel image.

    python benchmarks/segment.py [--threads 2] [--sam FOLDER_OR_FILE] [--out FILE.json]

Without `--sam` a SAM 2 of its smallest published size (Hiera-tiny) with random weights does the work: time and memory
do not depend on the weights. "One call each" is a call that knows nothing of the others, as the code of LISA and Sa2VA
makes them: it encodes the image for its own object. Prints a Markdown table that names the machine.
"""

import argparse
import json
import platform
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import Sam2Config, Sam2Model

from vision_agent import DecodeRequest, DenseFeatures
from vision_agent.decoders.sam import SamDecoder
from vision_agent.geometry.frames import TileGrid
from vision_agent.geometry.rle import RunLengths
from vision_agent.images.loading import load_image

PHOTO = Path(__file__).parents[1] / "examples" / "photos" / "000000423617.jpg"
OBJECTS = 8
HIDDEN = 896  # of the language model of Sa2VA-1B
LARGE = (4000, 3000)  # width, height: 12 megapixels


def seconds(call: Callable[[], object], repeats: int) -> float:
    """Measure the least wall time of a call after one warm-up: what else runs on the machine only adds to it."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def blob_logits(side: int = 256) -> np.ndarray:
    """Return small logits of some round objects with wavy rims, like those that SAM gives."""
    y, x = np.mgrid[:side, :side] / side
    wavy = 0.02 * np.sin(40 * x) * np.cos(30 * y)
    centres = ((0.3, 0.4, 0.2), (0.7, 0.6, 0.15), (0.5, 0.8, 0.1))
    nearest = np.max([radius - np.hypot(x - cx, y - cy) for cx, cy, radius in centres], axis=0)
    return ((nearest + wavy) * 40).astype(np.float32)


def run_length_figures() -> dict[str, float]:
    """Measure time and peak memory of a 12-megapixel mask from small logits, and of the plain way to the same mask."""
    logits = blob_logits()
    size = LARGE[::-1]

    def plain() -> RunLengths:
        large = torch.nn.functional.interpolate(torch.from_numpy(logits)[None, None], size, mode="bilinear")[0, 0]
        return RunLengths.from_mask((large > 0).numpy())

    def ours() -> RunLengths:
        return RunLengths.from_logits(logits, size)

    tracemalloc.start()
    ours()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    differing = int((ours().to_mask() != plain().to_mask()).sum())
    return {
        "12_megapixel_mask_ms": seconds(ours, 5) * 1e3,
        "12_megapixel_mask_by_floats_of_full_size_ms": seconds(plain, 5) * 1e3,
        "12_megapixel_mask_peak_mib": peak / 2**20,
        "floats_of_full_size_mib": 4 * LARGE[0] * LARGE[1] / 2**20,
        "12_megapixel_run_lengths_kib": len(ours().text) / 1024,
        "pixels_that_differ": differing,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sam", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        if options.sam is None:
            Sam2Model(Sam2Config()).save_pretrained(folder)
        decoder = SamDecoder(HIDDEN, str(options.sam or folder)).eval().requires_grad_(False)
    image = load_image(PHOTO)
    states_KNC = torch.randn(OBJECTS, 1, HIDDEN)
    names = tuple(f"object {number}" for number in range(OBJECTS))
    grid = TileGrid.for_image(*image.size)

    def segment(shown: Image.Image, which: slice) -> None:
        prepared = decoder.prepare_image(DenseFeatures(()), shown)
        decoder.decode(states_KNC[which], prepared, DecodeRequest(names[which], grid, "benchmark"))

    prepared = decoder.prepare_image(DenseFeatures(()), image)
    request = DecodeRequest(names, grid, "benchmark")
    with torch.inference_mode():
        together = seconds(lambda: segment(image, slice(None)), 2)
        each = seconds(lambda: segment(image, slice(0, 1)), 2) * OBJECTS
        decoding = seconds(lambda: decoder.decode(states_KNC, prepared, request), 3)
    figures: dict[str, str | float] = {
        "machine": f"{platform.machine()}, {options.threads} threads, torch {torch.__version__}",
        "photo": f"{PHOTO.name}, {image.width}x{image.height}",
        "sam": options.sam.name if options.sam else "SAM 2 Hiera-tiny, random weights",
        f"{OBJECTS}_objects_in_one_call_ms": together * 1e3,
        f"{OBJECTS}_objects_one_call_each_ms": each * 1e3,
        "one_call_each_over_one_call": each / together,
        f"{OBJECTS}_objects_of_an_image_seen_before_ms": decoding * 1e3,
        **run_length_figures(),
    }
    print("| figure | value |\n|---|---|")
    for name, value in figures.items():
        print(f"| {name.replace('_', ' ')} | {value if isinstance(value, str) else f'{value:.1f}'} |")
    if options.out is not None:
        options.out.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
