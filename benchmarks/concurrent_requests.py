"""Tokens a second of requests that come from several threads over time, beside one at a time and static batches.

    python benchmarks/concurrent_requests.py [--threads 1] [--rounds 3] [--out FILE.json]

The model is the random InternVL of `ask.py`, some 60 million parameters; end tokens are forbidden, so every request
gets as many tokens as it asks for. The three ways take the same requests, at the same times after the start, in turns:

* one at a time: the next request begins when the one before it has ended;
* static batches: all that wait are answered as one batch, which ends with its longest answer;
* together: every request is an `agent.ask` of its own thread, as a server has it.

Then a short request comes while a long prompt is being read: the time until its first token, beside that prompt's own.
All answers are compared with those that each request gets alone. Prints a Markdown table that names the machine.
"""

import argparse
import json
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from ask import QUESTIONS, _WithoutEnds, random_checkpoint

from vision_agent import GenerationOptions, VisionAgent
from vision_agent.generation.step_batch import CHUNK

REQUESTS = 16
EVERY = 0.15  # seconds between two requests
ANSWERS = (24, 96, 40, 64, 32, 80, 56, 48)  # tokens
PROMPTS = (1, 6, 2, 12)  # times that the question is said
LONG = 500  # times that the question of the long prompt is said


@dataclass(frozen=True)
class Request:
    question: str
    tokens: int
    after: float

    @property
    def options(self) -> GenerationOptions:
        return GenerationOptions(max_new_tokens=self.tokens, max_repeats=None)


def requests() -> list[Request]:
    return [
        Request(
            " ".join([QUESTIONS[number % len(QUESTIONS)]] * PROMPTS[number % len(PROMPTS)]),
            ANSWERS[number % len(ANSWERS)],
            EVERY * number,
        )
        for number in range(REQUESTS)
    ]


def one_at_a_time(agent: VisionAgent, some: list[Request]) -> list[str]:
    start, texts = time.perf_counter(), []
    for request in some:
        time.sleep(max(0.0, start + request.after - time.perf_counter()))
        texts.append(agent.ask(request.question, options=request.options).text)
    return texts


def static_batches(agent: VisionAgent, some: list[Request]) -> list[str]:
    start, texts = time.perf_counter(), []
    while len(texts) < len(some):
        time.sleep(max(0.0, start + some[len(texts)].after - time.perf_counter()))
        waiting = [each for each in some[len(texts) :] if start + each.after <= time.perf_counter()]
        longest = max(waiting, key=lambda each: each.tokens)
        answers = agent.ask([each.question for each in waiting], [None] * len(waiting), options=longest.options)
        texts += [answer.text for answer in answers]  # each is cut to its own length by whoever asked
    return texts


def together(agent: VisionAgent, some: list[Request]) -> list[str]:
    texts = [""] * len(some)

    def ask(number: int) -> None:
        time.sleep(some[number].after)
        texts[number] = agent.ask(some[number].question, options=some[number].options).text

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(some))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return texts


def first_token(agent: VisionAgent, question: str) -> float:
    """Seconds until the first text of a stream."""
    start = time.perf_counter()
    stream = agent.ask(question, options=GenerationOptions(max_new_tokens=8, max_repeats=None), stream=True)
    next(stream)
    stream.close()
    return time.perf_counter() - start


def behind_a_long_prompt(agent: VisionAgent, long: str) -> tuple[float, float]:
    """Seconds until the first text of a short request that comes while a long prompt is read, and of the long one."""
    agent.clear_cache()
    taken: list[float] = []
    thread = threading.Thread(target=lambda: taken.append(first_token(agent, long)))
    thread.start()
    time.sleep(0.05)
    short = first_token(agent, QUESTIONS[0])
    thread.join()
    return short, taken[0]


def measure(folder: Path, rounds: int) -> dict[str, float]:
    agent = VisionAgent.from_pretrained(folder)
    agent.backbone.model.lm_head = _WithoutEnds(agent.backbone.model.lm_head, agent.backbone.end_ids)
    some = requests()
    written = sum(each.tokens for each in some)
    ways: dict[str, Callable[[VisionAgent, list[Request]], list[str]]] = {
        "one at a time": one_at_a_time,
        "static batches": static_batches,
        "together": together,
    }
    expected = [agent.ask(each.question, options=each.options).text for each in some]
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            agent.clear_cache()
            start = time.perf_counter()
            texts = way(agent, some)
            seconds[name].append(time.perf_counter() - start)
            same = [text.startswith(own) for text, own in zip(texts, expected, strict=True)]
            assert all(same), f"{name}: every answer is the one that its request gets alone, {same}"
    figures = {f"{name}, tokens/s": written / statistics.median(taken) for name, taken in seconds.items()}
    best = figures["together, tokens/s"]
    figures["together / one at a time"] = best / figures["one at a time, tokens/s"]
    figures["together / static batches"] = best / figures["static batches, tokens/s"]
    long = " ".join([QUESTIONS[0]] * LONG)
    behind = [behind_a_long_prompt(agent, long) for _ in range(rounds)]
    alone = []
    for _ in range(rounds):
        agent.clear_cache()
        alone.append(first_token(agent, QUESTIONS[0]))
    tokens = len(agent.backbone.prompt_ids(long, []))
    figures["long prompt, tokens"] = tokens
    figures["chunk, tokens"] = CHUNK
    figures["first text of the long request s"] = statistics.median(taken for _, taken in behind)
    figures["first text of a short request behind it s"] = statistics.median(short for short, _ in behind)
    figures["first text of a short request alone s"] = statistics.median(alone)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(random_checkpoint(Path(folder) / "bench"), options.rounds)
    print("| figure | value |\n|---|---|")
    print(f"| machine | {platform.machine()}, {options.threads} threads, torch {torch.__version__} |")
    for name, value in figures.items():
        print(f"| {name} | {value:.2f} |")
    if options.out is not None:
        options.out.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
