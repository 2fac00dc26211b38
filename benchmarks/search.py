"""Time and memory of an index of many images: written, read again, and searched, by numpy and by faiss.

    python benchmarks/search.py [--images 100000] [--width 512] [--out FILE.json]

The vectors are drawn at random: what is measured is everything but looking at images. Times are those of the processor,
with one thread, so that other programs do not count. Prints a Markdown table that names the machine. faiss (extra
"faiss") stands beside numpy where it is installed; both compare with every row.
"""

import argparse
import importlib.util
import json
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from vision_agent import Index, VisionAgent
from vision_agent.search.index_file import EmbedderIdentity, IndexArrays, IndexContent, IndexedImage, write_index
from vision_agent.search.nearest import Engine

T = TypeVar("T")
SEARCHES = 20
LENGTHS = range(1, 2 + SEARCHES)  # of the texts: each has a vector of its own


class RandomVectors:
    """Gives each text a vector of its own."""

    name, fingerprint, embeds_texts, logit_scale, logit_bias = "random", "random-1", True, None, None

    def __init__(self, width: int) -> None:
        self.width = width

    def embed_images(self, images: Sequence[Image.Image]) -> npt.NDArray[np.float32]:
        return unit_rows(len(images), self.width, 0)

    def embed_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return np.concatenate([unit_rows(1, self.width, len(text)) for text in texts])


def unit_rows(count: int, width: int, seed: int) -> npt.NDArray[np.float32]:
    """Draw rows of length one."""
    rows = np.random.default_rng(seed).standard_normal((count, width), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def timed(call: Callable[[], T], clock: Callable[[], float] = time.perf_counter) -> tuple[float, T]:
    """Return the seconds that a call took, and what it gave."""
    start = clock()
    found = call()
    return clock() - start, found


def memory() -> float:
    """Most memory of this process so far, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def measure(images: int, width: int) -> dict[str, float]:
    """Return the figures by name: seconds, milliseconds and MiB."""
    figures: dict[str, float] = {}
    embedder = RandomVectors(width)
    agent = VisionAgent(embedder=embedder)
    rng = np.random.default_rng(1)
    arrays = IndexArrays(
        vectors=unit_rows(images, width, 2),
        hashes=rng.integers(0, 256, (images, 32), dtype=np.uint8),
        small=rng.integers(0, 256, (images, 768), dtype=np.uint8),
    )
    listed = tuple(
        IndexedImage(file=f"{row // 1000}/{row}.jpg", size=1, mtime_ns=1, sha256=f"{row:064x}", image_size=(640, 480))
        for row in range(images)
    )
    made_by = EmbedderIdentity(name=embedder.name, fingerprint=embedder.fingerprint, width=width)
    before = memory()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "photos.index"
        content = IndexContent(folder=folder, embedder=made_by, images=listed)
        figures["write, s of one core"], _ = timed(lambda: write_index(file, content, arrays), time.process_time)
        figures["file, MiB"] = file.stat().st_size / 2**20
        figures["read, s of one core"], index = timed(lambda: Index.load(file, agent), time.process_time)
        figures["memory of reading and searching, MiB more"] = 0.0
        for engine in engines():
            first, *times = [
                timed(partial(index.search, "a" * n, engine=engine), time.process_time)[0] for n in LENGTHS
            ]
            figures[f"first search by {engine}, ms"] = 1000 * first
            figures[f"a search by {engine}, ms (median of {SEARCHES})"] = 1000 * statistics.median(times)
            if engine == "numpy":
                figures["memory of reading and searching, MiB more"] = memory() - before
        exact = [hit.file for hit in index.search("aaa")]
        assert all([hit.file for hit in index.search("aaa", engine=by)] == exact for by in engines())
    return figures


def engines() -> list[Engine]:
    """Return the engines that are installed."""
    return ["numpy", "faiss"] if importlib.util.find_spec("faiss") else ["numpy"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Measure an index of many images.")
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    figures = measure(options.images, options.width)
    print(f"{options.images:,} vectors of {options.width} numbers; {platform.platform()}, {platform.processor()}\n")
    print("| figure | value |\n| --- | --- |")
    for name, value in figures.items():
        print(f"| {name} | {value:.1f} |")
    if options.out is not None:
        options.out.write_text(json.dumps(figures, indent=1), "utf-8")


if __name__ == "__main__":
    main()
