"""A server under load: many clients at once, some of whom leave, some of whom send nonsense.

    python benchmarks/serving.py [--requests 1000] [--at-once 32] [--threads 1] [--model FOLDER]

`vision-agent serve` runs in a process of its own. Each request is sent alone first: its answer then is what the same
request has to give under load, words and counts to the letter, scores and boxes to a ten-thousandth. One in ten clients
closes its connection before the answer, one in twenty sends what is no request. Prints a Markdown table, and ends with
1 where an answer was another, where a request failed that should not, or where the server still holds work or more
than a tenth more memory when all is over.
"""

import argparse
import asyncio
import base64
import json
import math
import os
import platform
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

PHOTOS = Path(__file__).parents[1] / "examples" / "photos"
NAMES = ("000000139872.jpg", "000000142472.jpg", "000000140203.jpg", "000000274272.jpg")
QUESTIONS = ("what colour is the dog?", "is there a bus?", "find the car", "how many people are there?")
LEAVES, BROKEN = 0.10, 0.05
Request = tuple[str, dict[str, Any]]


def requests() -> list[Request]:
    """All kinds of requests there are: chats with and without images and streams, and verbs."""
    made: list[Request] = []
    for name in NAMES:
        url = f"data:image/jpeg;base64,{base64.b64encode((PHOTOS / name).read_bytes()).decode()}"
        for question in QUESTIONS:
            image = {"type": "image_url", "image_url": {"url": url}}
            messages = [{"role": "user", "content": [image, {"type": "text", "text": question}]}]
            for stream in (False, True):
                made.append(("/v1/chat/completions", {"model": "default", "messages": messages, "stream": stream}))
        made += [("/v1/vision/detect", {"image": url, "phrase": phrase}) for phrase in ("car", "person", "dog")]
    for words in ("hello", "who are you?", "thank you"):
        messages = [{"role": "user", "content": words}]
        for stream in (False, True):
            made.append(("/v1/chat/completions", {"model": "default", "messages": messages, "stream": stream}))
    return made


def said(response: httpx.Response) -> Any:
    """What an answer says, without what differs from one to the next: ids and times."""
    if response.headers["content-type"].startswith("text/event-stream"):
        events = [json.loads(event.removeprefix("data: ")) for event in response.text.split("\n\n")[:-2]]
        deltas = [event["choices"][0]["delta"] for event in events]
        return "".join(delta.get("content") or "" for delta in deltas), [delta.get("vision") for delta in deltas][-2]
    content = response.json()
    return content["choices"] if "choices" in content else content


def same(one: Any, other: Any) -> bool:
    """Whether two answers say the same. How many are written side by side changes the last digits of numbers."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-4)
    return bool(one == other)


def show_faults(log: Iterable[str]) -> None:
    """Print the lines of a server's log that are about no request."""
    for line in log:
        if not line.startswith("{"):
            print(line, end="", file=sys.stderr)


@contextmanager
def server(threads: int, model: str | None) -> Iterator[tuple[str, psutil.Process]]:
    """A server in a process of its own: its address and the process."""
    words = [sys.executable, "-m", "vision_agent", "serve", *([model] if model else []), "--port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        address = process.stderr.readline().split()[-1]
        log = threading.Thread(target=show_faults, args=(process.stderr,))
        log.start()
        try:
            yield address, psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(60)
            log.join()


def cpu_seconds(process: psutil.Process) -> float:
    """CPU time that a process took so far: on a machine that others use, too, more to be relied on than the clock."""
    taken = process.cpu_times()
    return float(taken.user + taken.system)


async def load(http: httpx.AsyncClient, count: int, at_once: int, expected: list[Any]) -> Counter[str]:
    """Send `count` requests, `at_once` at a time; how they ended."""
    dice, every = random.Random(0), requests()
    plan = [(dice.randrange(len(every)), dice.random(), dice.random()) for _ in range(count)]
    ended: Counter[str] = Counter()
    slots = asyncio.Semaphore(at_once)

    async def one(which: int, fate: float, share: float) -> None:
        path, body = every[which]
        async with slots:
            if fate < BROKEN:
                text = json.dumps(body)
                answer = await http.post(path, content=text[: int(len(text) * share)])
                ended["broken, refused" if answer.status_code in (400, 415) else f"broken: {answer.status_code}"] += 1
                return
            try:
                async with asyncio.timeout(0.05 + share * 0.5 if fate < BROKEN + LEAVES else None):
                    answer = await http.post(path, json=body)
            except TimeoutError:
                ended["left"] += 1
                return
            if answer.status_code != 200:
                ended[f"failed: {answer.status_code}"] += 1
            else:
                ended["right" if same(said(answer), expected[which]) else "wrong"] += 1

    await asyncio.gather(*(one(*each) for each in plan))
    return ended


async def measure(url: str, process: psutil.Process, count: int, at_once: int) -> bool:
    """Run it and print the table; whether all was right."""
    limits = httpx.Limits(max_connections=at_once + 4)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as http:
        every = requests()
        first = [said(await http.post(path, json=body)) for path, body in every]  # images are encoded here
        began, worked = time.perf_counter(), cpu_seconds(process)
        expected = [said(await http.post(path, json=body)) for path, body in every]
        alone = len(every) / (time.perf_counter() - began)
        alone_cpu = (cpu_seconds(process) - worked) / len(every)
        await load(http, min(count, 4 * at_once), at_once, expected)  # what is made once is made
        before = process.memory_info().rss
        began, worked = time.perf_counter(), cpu_seconds(process)
        ended = await load(http, count, at_once, expected)
        answered = ended["right"] + ended["wrong"]
        rate = answered / (time.perf_counter() - began)
        load_cpu = (cpu_seconds(process) - worked) / answered  # what clients who left have cost, too
        held = await idle(http)
    grown = process.memory_info().rss / before - 1
    print(
        f"{count} requests, {at_once} at once, on {platform.processor() or platform.machine()}, {os.cpu_count()} CPUs\n"
    )
    print("| | |\n| --- | ---: |")
    for name, value in sorted(ended.items()):
        print(f"| {name} | {value} |")
    print(f"| answers a second, one at a time | {alone:.2f} |\n| answers a second under load | {rate:.2f} |")
    print(f"| times as many | {rate / alone:.2f} |")
    print(f"| CPU time of the server for an answer, one at a time | {1000 * alone_cpu:.0f} ms |")
    print(f"| CPU time of the server for an answer under load | {1000 * load_cpu:.0f} ms |")
    print(f"| work left when all is over | {held:g} |\n| memory, grown by | {grown:.1%} |")
    fine = {"right", "left", "broken, refused"}
    return same(first, expected) and set(ended) <= fine and held == 0 and grown < 0.1


async def idle(http: httpx.AsyncClient) -> float:
    """Requests that run or wait some seconds after the last client has gone."""
    held = 1.0
    for _ in range(100):
        lines = (await http.get("/metrics")).text.splitlines()
        names = ("vision_agent_requests_running ", "vision_agent_requests_waiting ")
        held = sum(float(line.split()[-1]) for line in lines if line.startswith(names))
        if held == 0:
            break
        await asyncio.sleep(0.1)
    return held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model")
    arguments = parser.parse_args()
    with server(arguments.threads, arguments.model) as (url, process):
        right = asyncio.run(measure(url, process, arguments.requests, arguments.at_once))
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
