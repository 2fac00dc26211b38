"""Memory of one process after many mixed requests: whether anything grows with the number of those that are past.

    python benchmarks/memory.py --requests 1000 --callers 8

Detections, masks, counts, questions, plans and drawings about images of changing sizes, from several threads on one
agent. Prints the process's resident memory, and the most there was, after each of four equal parts. A first part before
them fills what is kept on purpose: kernels for sizes, and images and prompts, which `clear_cache()` forgets.
"""

import argparse
import gc
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from PIL import Image

from vision_agent import GenerationOptions, VisionAgent

PHOTOS = sorted((Path(__file__).parents[1] / "examples" / "photos").glob("*.jpg"))
NAMES = ("dog", "person", "car", "bus", "bottle", "chair", "skateboard", "red car", "a man in blue", "frisbee")
SHORT = GenerationOptions(max_new_tokens=12)


def resident() -> int:
    """Return the bytes of memory that the process holds now (Linux)."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def request(agent: VisionAgent, number: int) -> None:
    """Make one request; which, and about what, follows from its number."""
    draw = random.Random(number)
    image = Image.open(draw.choice(PHOTOS)).convert("RGB").resize((draw.randrange(160, 640), draw.randrange(160, 640)))
    names = draw.sample(NAMES, draw.randrange(1, 4))
    calls: list[Callable[[], object]] = [
        lambda: agent.detect(names, image),
        lambda: agent.segment(names[0], image),
        lambda: agent.count(names[0], image),
        lambda: agent.point(names[0], image),
        lambda: agent.ask(f"what colour is the {names[0]}?", image, options=SHORT),
        lambda: agent.ask("what is this? " * draw.randrange(1, 20), image, options=SHORT),
        lambda: list(agent.ask("what does it show?", image, options=SHORT, stream=True)),
        lambda: agent.run(f"find the {names[0]} and crop it", image),
        lambda: agent.generate(f"a {names[0]}", seed=number, steps=2),
    ]
    draw.choice(calls)()


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Watch the memory of many mixed requests.")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--callers", type=int, default=8, help="threads that ask")
    given = parser.parse_args()
    agent = VisionAgent()
    part_size = max(8, given.requests // 4)
    numbers = iter(range(5 * part_size))
    start, most = time.perf_counter(), 0

    def asked(count: int) -> int:
        nonlocal most
        done = 0
        with ThreadPoolExecutor(given.callers) as pool:
            while part := list(islice(numbers, min(given.callers * 4, count - done))):
                list(pool.map(lambda number: request(agent, number), part))
                done += len(part)
                most = max(most, resident())
        gc.collect()
        agent.clear_cache()  # and what was collected goes back to the system
        return resident()

    held: list[int] = []
    for number in range(1, 6):
        held.append(asked(part_size))
        print(f"{number * part_size:6} requests: {held[-1] / 2**20:7.1f} MiB, most {most / 2**20:7.1f} MiB", flush=True)
    print(
        f"grown by {held[-1] / held[0] - 1:+.2%} in {4 * part_size} requests, by {held[-1] / held[-2] - 1:+.2%} in the "
        f"last quarter; {given.callers} callers, {time.perf_counter() - start:.0f} s"
    )


if __name__ == "__main__":
    main()
