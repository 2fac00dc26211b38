"""Trains the default's small image generator: how things look, and what words ask for.

Two lessons. The *painter* learns how every thing looks in every colour. The *flow* learns, with a small encoder of
words, which things a prompt puts where. How a language model learns to draw with them: see `train.drawing`.
"""

import json
import math
import os
import time
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from vision_agent.errors import CheckpointError, ConfigError
from vision_agent.inference.colors import COLOURS
from vision_agent.model.devices import choose_device
from vision_agent.plugins.registry import load_decoder
from vision_agent.train.loop import fast_bfloat16, schedule

from .scenes import GeneratorScenes, vocabulary

GENERATOR_RECIPE = Path(__file__).parent / "recipe.toml"
_LESSONS = ("painter", "flow")


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PainterSection(_Section):
    """The painter's lesson."""

    steps: int = Field(ge=1)
    batch: int = Field(ge=1)
    rate: float = Field(gt=0)


class FlowSection(PainterSection):
    """The flow's lesson; every so many steps, by `edit_share`, is about edits, with half a batch."""

    edit_share: float = Field(default=0.25, ge=0, le=1)


class GeneratorConfig(_Section):
    """The recipe of a generator; `names` gives the cut-outs that each name is learned from."""

    seed: int = 0
    size: int = Field(default=128, ge=16)
    width: int = Field(default=256, ge=64, multiple_of=64)
    depth: int = Field(default=5, ge=1)
    channels: int = Field(default=64, ge=4, multiple_of=2)
    ema: float = Field(default=0.997, ge=0, lt=1)
    save_minutes: float = Field(default=3.0, gt=0)
    painter: PainterSection
    flow: FlowSection
    names: dict[str, tuple[str, ...]] = Field(min_length=2)


def read_generator_config(path: str | Path | None = None) -> GeneratorConfig:
    """Read a recipe; None for the default's own. Raises ConfigError for what is no recipe; names the setting."""
    path = GENERATOR_RECIPE if path is None else path
    try:
        return GeneratorConfig.model_validate(tomllib.loads(Path(path).read_text("utf-8")))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"the recipe {str(path)!r} cannot be read: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(f"the recipe {str(path)!r}: `{where}`: {first['msg']}, got {first['input']!r}") from error


# Painter and flow


def train_generator(
    config: GeneratorConfig, data: Path, out: Path, device: str = "auto", on_step: Callable[[], None] | None = None
) -> Path:
    """Train a generator, or go on with a run that was killed.

    Args:
        data: folder of the training archives.
        out: folder of the run: `state.pt`, `log.jsonl`, and at the end `generator/`.
        on_step: called after every step (tests stop a run with it).

    Returns:
        the folder of the generator: `generator.json` and `generator.safetensors`.
    """
    out.mkdir(parents=True, exist_ok=True)
    run = _Run(config, data, out, choose_device(device))
    for lesson in _LESSONS:
        run.teach(lesson, on_step or (lambda: None))
    run.taught.load_state_dict(run.average)
    return save_generator(run.taught, run.settings, out / "generator")


class _Run:
    """The state of one training run."""

    def __init__(self, config: GeneratorConfig, data: Path, out: Path, device: torch.device) -> None:
        torch.manual_seed(config.seed)
        self.config, self.out, self.device = config, out, device
        self.scenes = GeneratorScenes(data, config.names)
        self.settings: dict[str, Any] = {
            "words": vocabulary(self.scenes.names),
            "looks": len(self.scenes.sprites),
            "colours": len(COLOURS) + 1,
            "size": config.size,
            "width": config.width,
            "depth": config.depth,
            "channels": config.channels,
        }
        self.taught = _new_network(self.settings).to(device)
        self.average = {name: tensor.clone() for name, tensor in self.taught.state_dict().items()}
        self.done = dict.fromkeys(_LESSONS, 0)
        self.resumed: dict[str, Any] | None = None
        if (out / "state.pt").exists():
            self.resumed = torch.load(out / "state.pt", map_location=device, weights_only=True)
            self.taught.load_state_dict(self.resumed["parts"])
            self.average, self.done = self.resumed["average"], self.resumed["done"]

    def teach(self, lesson: str, on_step: Callable[[], None]) -> None:
        settings = self.config.painter if lesson == "painter" else self.config.flow
        start = self.done[lesson]
        if start == settings.steps:
            return
        painting = lesson == "painter"
        members = [p for name, p in self.taught.named_parameters() if ("painter." in name) == painting]
        optimiser = torch.optim.AdamW(_groups(members), lr=settings.rate, betas=(0.9, 0.98))
        if self.resumed is not None and self.resumed["lesson"] == lesson:
            optimiser.load_state_dict(self.resumed["optimiser"])
        saved = time.monotonic()
        for step in tqdm(range(start, settings.steps), desc=lesson, initial=start, total=settings.steps, mininterval=5):
            for group in optimiser.param_groups:
                group["lr"] = settings.rate * schedule(step, settings.steps)
            rng = np.random.default_rng((self.config.seed, _LESSONS.index(lesson), step))
            torch.manual_seed(step)
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=fast_bfloat16(self.device)):
                loss = self._painted(rng) if painting else self._flowed(rng, step)
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(members, 1.0)
            optimiser.step()
            self._follow(step)
            self.done[lesson] = step + 1
            self._log({"lesson": lesson, "step": step, "loss": round(float(loss.detach()), 4)})
            if step + 1 == settings.steps or time.monotonic() - saved > self.config.save_minutes * 60:
                self._save(lesson, optimiser)
                saved = time.monotonic()
            on_step()

    def _painted(self, rng: np.random.Generator) -> Tensor:
        sprites, batch = self.scenes.sprites, self.config.painter.batch
        looks, paints = rng.integers(0, sprites.shape[0], batch), rng.integers(0, sprites.shape[1], batch)
        shown = torch.from_numpy(sprites[looks, paints]).permute(0, 3, 1, 2).float() / 255
        shown = torch.cat([shown[:, :3] * shown[:, 3:], shown[:, 3:]], dim=1).to(self.device)
        numbers = [torch.from_numpy(part).to(self.device) for part in (looks, paints)]
        loss: Tensor = self.taught.generator.paint_loss(*numbers, shown)
        return loss

    def _flowed(self, rng: np.random.Generator, step: int) -> Tensor:
        share, batch = self.config.flow.edit_share, self.config.flow.batch
        edit = math.floor((step + 1) * share) > math.floor(step * share)
        size = max(1, batch // 2) if edit else batch
        loss: Tensor = self.taught.flow_loss([self.scenes.sample(rng, edit=edit) for _ in range(size)])
        return loss

    @torch.no_grad()
    def _follow(self, step: int) -> None:
        live = self.taught.state_dict()
        decay = min(self.config.ema, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.average.values()), [live[name] for name in self.average], 1 - decay)

    def _save(self, lesson: str, optimiser: torch.optim.Optimizer) -> None:
        state = {
            "lesson": lesson,
            "parts": self.taught.state_dict(),
            "average": self.average,
            "optimiser": optimiser.state_dict(),
            "done": self.done,
        }
        torch.save(state, self.out / "state.pt.partial")
        os.replace(self.out / "state.pt.partial", self.out / "state.pt")

    def _log(self, line: dict[str, Any]) -> None:
        with (self.out / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def save_generator(taught: nn.Module, settings: dict[str, Any], folder: Path) -> Path:
    """Write a trained network with its word encoder, fp16."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = {name: part.detach().to("cpu", torch.float16).contiguous() for name, part in taught.state_dict().items()}
    save_file(stored, folder / "generator.safetensors")
    (folder / "generator.json").write_text(json.dumps(settings, indent=1) + "\n", "utf-8")
    return folder


def load_generator(folder: Path) -> Any:
    """What `save_generator` wrote: a module with `generator` and `encode(prompts)`, at rest. Raises CheckpointError."""
    try:
        taught = _new_network(json.loads((folder / "generator.json").read_text("utf-8")))
        stored = load_file(folder / "generator.safetensors")
        taught.load_state_dict({name: part.float() for name, part in stored.items()})
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{str(folder)!r} holds no generator: {error}") from error
    return taught.eval().requires_grad_(False)


# What trainings share


# Inside


def _new_network(settings: dict[str, Any]) -> Any:
    decoder: Any = load_decoder("generator")
    return decoder.taught(settings)


def _groups(members: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
    """Weight decay for matrices alone."""
    return [
        {"params": [part for part in members if part.ndim >= 2], "weight_decay": 0.01},
        {"params": [part for part in members if part.ndim < 2], "weight_decay": 0.0},
    ]
