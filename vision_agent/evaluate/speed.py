"""How fast a model is on the machine at hand: loading, first tokens, tokens, images, boxes, memory.

Every answer has the same number of tokens, for end tokens are forbidden: what is written means nothing, how long it
takes does. transformers' own `generate` writes as many with the same weights, prompt and images, turn by turn with
ours, so that both meet the machine in the same state; figures are medians.
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from transformers import GenerationConfig

from vision_agent.agent import VisionAgent
from vision_agent.errors import InputError, bad_argument
from vision_agent.generation.options import GenerationOptions
from vision_agent.inference.conversation import Conversation
from vision_agent.inference.engine import InferenceEngine
from vision_agent.model.devices import device_name, most_memory

_QUESTION = "Describe what is in the image."
_PHRASES = ("dog", "person", "car", "chair", "bottle", "tree", "cup", "book", "ball", "bag")


class SpeedOptions(BaseModel):
    """What is measured.

    Attributes:
        requests: how many are answered together, for the figures of many requests.
        tokens: how many each answer has.
        image_size: (width, height) of the images, in pixels.
        repeats: how many times each figure is measured; the median counts.
    """

    model_config = ConfigDict(frozen=True)

    requests: int = Field(default=8, ge=2, le=256)
    tokens: int = Field(default=32, ge=2, le=4096)
    image_size: tuple[int, int] = (896, 672)
    repeats: int = Field(default=3, ge=1, le=100)


class SpeedFigure(BaseModel):
    """One measured number, with its unit."""

    model_config = ConfigDict(frozen=True)

    name: str
    value: float
    unit: str


class SpeedReport(BaseModel):
    """All figures of one run, and what they were measured on."""

    model_config = ConfigDict(frozen=True)

    model: str
    machine: str
    device: str
    dtype: str
    threads: int
    versions: str
    options: SpeedOptions
    image_tokens: int
    figures: tuple[SpeedFigure, ...]

    def to_markdown(self) -> str:
        """Return a line on what was measured, and the figures as a Markdown table."""
        width, height = self.options.image_size
        lines = [
            f"{self.model} on {self.machine} ({self.device}, {self.dtype}, {self.threads} threads; {self.versions}); "
            f"images of {width} x {height} pixels, {self.image_tokens} tokens each; answers of {self.options.tokens} "
            f"tokens; medians of {self.options.repeats}",
            "",
            "| figure | value | unit |",
            "|---|---|---|",
        ]
        return "\n".join([*lines, *(f"| {each.name} | {_short(each.value)} | {each.unit} |" for each in self.figures)])


def measure_speed(load: Callable[[], VisionAgent], options: SpeedOptions | None = None) -> SpeedReport:
    """Load a model and measure it.

    Args:
        load: loads it; its time is a figure too.

    Raises:
        InputError: requests that do not fit the model's context.
    """
    options = options or SpeedOptions()
    start = time.perf_counter()
    agent = load()
    figures = [SpeedFigure(name="load", value=time.perf_counter() - start, unit="s")]
    run = _Run(agent, options)
    figures += [*run.images(), *run.answers(), *run.boxes(), *_memory(agent.backbone.device)]
    return SpeedReport(
        model=agent.model,
        machine=device_name(agent.backbone.device),
        device=str(agent.backbone.device),
        dtype=str(agent.backbone.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        versions=f"torch {torch.__version__}, transformers {transformers.__version__}",
        options=options,
        image_tokens=run.image_tokens,
        figures=tuple(figures),
    )


class _Run:
    """One loaded model and the images that it is asked about."""

    def __init__(self, agent: VisionAgent, options: SpeedOptions) -> None:
        self.agent, self.options = agent, options
        self.backbone = agent.backbone
        self.engine = InferenceEngine(agent.backbone, agent.routes)
        self.pictures = [_picture(number, options.image_size) for number in range(options.requests)]
        self.conversations = [Conversation.build(_QUESTION, [picture]) for picture in self.pictures]
        self.image_tokens = len(self.engine.encode_image(self.pictures[0]).encoded.tokens_TC)
        room = self.engine.answer_room(self.conversations[0])
        if room < options.tokens:
            raise InputError(
                bad_argument("tokens", f"at most {room}, which the model's context leaves", options.tokens)
            )

    def images(self) -> list[SpeedFigure]:
        """Images a second through tower and projector, one by one and together."""
        one, many = self._seconds(
            lambda: [self.engine.encode_image(picture) for picture in self.pictures],
            lambda: self.engine.encode_images(self.pictures),
        )
        count = len(self.pictures)
        return [_rate("images, one by one", count / one, "images"), _rate("images, together", count / many, "images")]

    def answers(self) -> list[SpeedFigure]:
        """First tokens, and tokens a second after them; ours beside transformers'."""
        figures: list[SpeedFigure] = []
        for label, count in (("one request", 1), (f"{self.options.requests} requests", self.options.requests)):
            (first, rest), (their_first, their_rest) = self._answer_times(
                (partial(self._generate, count), partial(self._by_transformers, count))
            )
            written = count * (self.options.tokens - 1)
            ratio = (their_first + their_rest) / (first + rest)
            figures += [
                SpeedFigure(name=f"first token, {label}", value=first, unit="s"),
                SpeedFigure(name=f"first token, {label}, transformers", value=their_first, unit="s"),
                _rate(f"tokens, {label}", written / rest, "tokens"),
                _rate(f"tokens, {label}, transformers", written / their_rest, "tokens"),
                SpeedFigure(name=f"whole answer, {label}: transformers / ours", value=ratio, unit="ratio"),
            ]
        ((again, _),) = self._answer_times((partial(self._generate, 1),), fresh=False)
        return [*figures, SpeedFigure(name="first token, image seen before", value=again, unit="s")]

    def boxes(self) -> list[SpeedFigure]:
        """Boxes by the route [DET], where the model has it."""
        if "det" not in self.agent.routes:
            return []
        picture, found = self.pictures[0], 0

        def detect(*phrases: str) -> None:
            nonlocal found
            found = len(self.agent.detect(list(phrases), picture, threshold=0.0))

        one, ten = self._seconds(lambda: detect(_PHRASES[0]), lambda: detect(*_PHRASES))
        (seen,) = self._seconds(lambda: detect(*_PHRASES), fresh=False)
        return [
            SpeedFigure(name="detect, one phrase, new image", value=one, unit="s"),
            SpeedFigure(name="detect, ten phrases, new image", value=ten, unit="s"),
            SpeedFigure(name="detect, ten phrases, image seen before", value=seen, unit="s"),
            _rate("boxes without a threshold, image seen before", found / seen, "boxes"),
        ]

    def _generate(self, count: int) -> None:
        options = GenerationOptions(max_new_tokens=self.options.tokens, max_repeats=None)
        output, _ = self.engine.generate(self.conversations[:count], options, self.backbone.end_ids)
        assert all(len(ids) == self.options.tokens for ids in output.answers), "end tokens are forbidden"

    def _by_transformers(self, count: int) -> None:
        encoded = [self.backbone.encode(_QUESTION, picture) for picture in self.pictures[:count]]
        ids = torch.stack([each.input_ids for each in encoded]).to(self.backbone.device)
        pixels = torch.cat([each.pixel_values for each in encoded if each.pixel_values is not None])
        settings = GenerationConfig(
            max_new_tokens=self.options.tokens,
            do_sample=False,
            suppress_tokens=sorted(self.backbone.end_ids),
            pad_token_id=0,
        )
        with torch.inference_mode():
            self.backbone.model.generate(
                input_ids=ids,
                pixel_values=pixels.to(self.backbone.device, self.backbone.dtype),
                attention_mask=torch.ones_like(ids),
                generation_config=settings,
            )

    def _answer_times(self, ways: Sequence[Callable[[], object]], fresh: bool = True) -> list[tuple[float, float]]:
        """Time ways of answering: medians of the seconds to the first token, and of those from it to the last."""
        firsts: list[float] = []

        def told(*_: object) -> None:
            if not firsts:
                _wait(self.backbone.device)
                firsts.append(time.perf_counter())

        def split(start: float, end: float) -> tuple[float, float]:
            return firsts[0] - start, end - firsts.pop()

        hook = self.backbone.model.get_output_embeddings().register_forward_hook(told)
        try:
            return self._medians(*ways, fresh=fresh, parts=split)
        finally:
            hook.remove()

    def _seconds(self, *ways: Callable[[], object], fresh: bool = True) -> list[float]:
        return [whole for (whole,) in self._medians(*ways, fresh=fresh, parts=lambda start, end: (end - start,))]

    def _medians(
        self, *ways: Callable[[], object], fresh: bool, parts: Callable[[float, float], tuple[float, ...]]
    ) -> list[Any]:
        """Time ways of doing something, turn by turn, after one untimed turn; `fresh` begins with empty caches."""
        seconds: list[list[tuple[float, ...]]] = [[] for _ in ways]
        for turn in range(self.options.repeats + 1):
            for way, times in zip(ways, seconds, strict=True):
                if fresh:
                    self.engine.clear()
                    self.agent.clear_cache()
                _wait(self.backbone.device)
                start = time.perf_counter()
                way()
                _wait(self.backbone.device)
                taken = parts(start, time.perf_counter())
                if turn:
                    times.append(taken)
        return [tuple(map(statistics.median, zip(*times, strict=True))) for times in seconds]


def _picture(number: int, size: tuple[int, int]) -> Image.Image:
    """An image of blots, another for each number; the time does not depend on what it shows."""
    blots = np.random.default_rng(number).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(blots).resize(size, Image.Resampling.BICUBIC)


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _memory(device: torch.device) -> list[SpeedFigure]:
    figures = []
    if sys.platform != "win32":
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        figures.append(SpeedFigure(name="most memory of the process", value=most / 2**20, unit="MiB"))
    most_of_device = most_memory(device)
    if most_of_device is not None:
        figures.append(SpeedFigure(name="most memory of the device", value=most_of_device / 2**20, unit="MiB"))
    return figures


def _rate(name: str, value: float, what: str) -> SpeedFigure:
    return SpeedFigure(name=name, value=value, unit=f"{what}/s")


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
