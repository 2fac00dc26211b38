"""Images a second of one call with many images, beside a loop of single calls.

    python benchmarks/many_images.py [--threads 2] [--rounds 5] [--out FILE.json]

Both find the same objects in the same files, turn by turn, with an empty cache. Prints a Markdown table that names the
machine, and how many cores each way kept busy.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from vision_agent import VisionAgent

PHOTOS = sorted((Path(__file__).parents[1] / "examples" / "photos").glob("*.jpg"))


def seconds(agent: VisionAgent, call: Callable[[], object]) -> tuple[float, float]:
    """Measure wall and processor time of a call that starts with an empty cache."""
    agent.clear_cache()
    wall, processor = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    agent = VisionAgent()
    photos = [str(photo) for photo in PHOTOS]
    ways: dict[str, Callable[[], list[object]]] = {
        "loop": lambda: [agent.detect("dog", photo) for photo in photos],
        "list": lambda: list(agent.detect("dog", photos)),
        "iterator": lambda: list(agent.detect("dog", iter(photos))),
    }
    expected = ways["loop"]()
    assert all(way() == expected for way in ways.values()), "a list gives what single calls give"
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            measured[name].append(seconds(agent, way))
    figures: dict[str, str | float] = {
        "machine": f"{platform.machine()}, {options.threads} threads, torch {torch.__version__}",
    }
    walls = {name: statistics.median(wall for wall, _ in times) for name, times in measured.items()}
    for name, times in measured.items():
        figures[f"{name}_images_a_second"] = len(photos) / walls[name]
        figures[f"{name}_cores_busy"] = statistics.median(processor / wall for wall, processor in times)
    figures["list_over_loop"] = walls["loop"] / walls["list"]
    figures["iterator_over_loop"] = walls["loop"] / walls["iterator"]
    print("| figure | value |\n|---|---|")
    for name, value in figures.items():
        print(f"| {name.replace('_', ' ')} | {value if isinstance(value, str) else f'{value:.2f}'} |")
    if options.out is not None:
        options.out.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
