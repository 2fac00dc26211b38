"""Images a second of a whole folder, beside a loop of single calls, as a ratio within one run.

    python benchmarks/folder.py [--photos 40] [--rounds 3] [--verb detect --verb count ...]

Both begin with files on disk and end with results: the loop with `agent.detect("dog", path)` for each, the folder with
`vision_agent.batch.process_images` and its records, as `vision-agent detect "dog" photos/ --out found.jsonl` does it.
The photos of `examples/photos` are cut a little differently each time they are taken again, so that no cache knows
them. The two take turns, and the ratio is that of their medians. Prints a Markdown table that names the machine.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle, islice, product
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from vision_agent import VisionAgent
from vision_agent.batch import ImageJob, find_images, image_jobs, process_images

PHOTOS = Path(__file__).parents[1] / "examples" / "photos"
REQUESTS = {
    "detect": "dog",
    "segment": "dog",
    "count": "dog",
    "point": "dog",
    "ask": "is there a dog?",
    "caption": "short",
}


def make_folder(folder: Path, count: int) -> None:
    """Write `count` different photos."""
    for number, (cut, photo) in enumerate(islice(product(range(20), sorted(PHOTOS.glob("*.jpg"))), count)):
        with Image.open(photo) as image:
            image.crop((cut, cut, *image.size)).save(folder / f"{number:03}.jpg", quality=92)


def single_calls(agent: VisionAgent, verb: str, files: Sequence[str]) -> None:
    """Ask about one file after the other, as a program without lists does."""
    call: Callable[..., Any] = getattr(agent, verb)
    for file in files:
        call(file, length="short") if verb == "caption" else call(REQUESTS[verb], file)


def seconds(work: Callable[[], object]) -> float:
    """Measure how long work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--verb", action="append", choices=list(REQUESTS))
    arguments = parser.parse_args()
    agents = cycle([VisionAgent() for _ in range(os.cpu_count() or 1)])
    agent = next(agents)
    # Loading is no part of the figure, for neither of the two.
    image_jobs.load_agent = lambda *_: next(agents)
    print(
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, {arguments.photos} photos\n"
    )
    print("| verb | loop, images/s | folder, images/s | ratio |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "photos"
        folder.mkdir()
        make_folder(folder, arguments.photos)
        files = find_images([folder])
        for verb in arguments.verb or list(REQUESTS):
            job = ImageJob(verb, REQUESTS[verb])
            loop, together = [], []
            for number in range(arguments.rounds + 1):  # the first is the warm-up
                agent.clear_cache()
                one = seconds(partial(single_calls, agent, verb, files))
                out = Path(scratch) / f"{verb}-{number}.jsonl"
                many = seconds(partial(process_images, files, job, out))
                if number:
                    loop.append(one)
                    together.append(many)
            slow, fast = statistics.median(loop), statistics.median(together)
            print(f"| {verb} | {len(files) / slow:.1f} | {len(files) / fast:.1f} | {slow / fast:.2f} |", flush=True)


if __name__ == "__main__":
    main()
