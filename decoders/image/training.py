"""Trains the default's small image generator: how objects look, and what words ask for.

Two lessons. The *painter* learns how every object looks in every colour. The *flow* learns, with a small encoder of
words, which objects a prompt puts where. How a language model learns to draw with them: see `mapper_training`.
"""

import json
import math
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vision_agent.errors import CheckpointError, ConfigError
from vision_agent.inference.colors import COLOURS
from vision_agent.model.devices import choose_device
from vision_agent.model.tensor_files import save_file
from vision_agent.plugins.registry import load_decoder
from vision_agent.train.loop import OnStep, Stage, TrainingLoop, claim_folder, mixed_precision

from .samples import Sample
from .scenes import GeneratorScenes, vocabulary

GENERATOR_RECIPE = Path(__file__).parent / "recipe.toml"


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


def train_generator(
    config: GeneratorConfig, data: Path, out: Path, device: str = "auto", on_step: OnStep | None = None
) -> Path:
    """Train a generator. The same call resumes a run that was stopped.

    Args:
        data: folder of the training archives.
        out: folder of the run: `recipe.json`, `state.pt`, `log.jsonl`, and at the end `generator/`.
        on_step: called after every step (tests stop a run with it).

    Returns:
        the folder of the generator: `generator.json` and `generator.safetensors`.
    """
    claim_folder(out, config.model_dump(mode="json"))
    run = _Run(config, data, choose_device(device))
    # One average follows both lessons: the flow is learned beside the painter's last weights.
    loop = TrainingLoop(out, run.taught, save_minutes=config.save_minutes, on_step=on_step, stages_start_averaged=False)
    for lesson in (run.painter_lesson, run.flow_lesson):
        loop.run(lesson())
    run.taught.load_state_dict(loop.average)
    return save_generator(run.taught, run.settings, out / "generator")


class _Run:
    """One run: its lessons and their losses."""

    def __init__(self, config: GeneratorConfig, data: Path, device: torch.device) -> None:
        torch.manual_seed(config.seed)
        self.config, self.device = config, device
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

    def painter_lesson(self) -> Stage:
        sprites, settings = self.scenes.sprites, self.config.painter

        def batches(first: int) -> Iterator[tuple[Any, Any]]:
            for rng, _ in self._draws(0, first, settings.steps):
                yield (
                    rng.integers(0, sprites.shape[0], settings.batch),
                    rng.integers(0, sprites.shape[1], settings.batch),
                )

        def loss(batch: tuple[Any, Any]) -> Tensor:
            shown = torch.from_numpy(sprites[batch]).permute(0, 3, 1, 2).float() / 255
            shown = torch.cat([shown[:, :3] * shown[:, 3:], shown[:, 3:]], dim=1).to(self.device)
            painted: Tensor = self.taught.generator.paint_loss(
                *(torch.from_numpy(part).to(self.device) for part in batch), shown
            )
            return painted

        return self._lesson("painter", settings, batches, loss)

    def flow_lesson(self) -> Stage:
        settings = self.config.flow

        def batches(first: int) -> Iterator[list[Sample]]:
            for rng, step in self._draws(1, first, settings.steps):
                edit = math.floor((step + 1) * settings.edit_share) > math.floor(step * settings.edit_share)
                size = max(1, settings.batch // 2) if edit else settings.batch
                yield [self.scenes.sample(rng, edit=edit) for _ in range(size)]

        return self._lesson("flow", settings, batches, self.taught.flow_loss)

    def _draws(self, lesson: int, first: int, steps: int) -> Iterator[tuple[np.random.Generator, int]]:
        """Yield the steps that are left, each with what it draws its batch by."""
        for step in range(first, steps):
            yield np.random.default_rng((self.config.seed, lesson, step)), step

    def _lesson(
        self,
        name: str,
        settings: PainterSection,
        batches: Callable[[int], Iterator[Any]],
        loss: Callable[[Any], Tensor],
    ) -> Stage:
        def losses(batch: Any) -> dict[str, Tensor]:
            with mixed_precision(self.device):
                return {"loss": loss(batch)}

        paints = name == "painter"
        members = [part for key, part in self.taught.named_parameters() if ("painter." in key) == paints]
        return Stage(
            name=name,
            steps=settings.steps,
            optimiser=torch.optim.AdamW(_groups(members), lr=settings.rate, betas=(0.9, 0.98)),
            parameters=members,
            clip=1.0,
            schedule=lambda step: rate_share(step, settings.steps),
            seed=lambda step: step,
            batches=batches,
            losses=losses,
            ema=self.config.ema,
        )


def save_generator(taught: nn.Module, settings: dict[str, Any], folder: Path) -> Path:
    """Write a trained network with its word encoder, fp16."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = {name: part.detach().to("cpu", torch.float16).contiguous() for name, part in taught.state_dict().items()}
    save_file(stored, folder / "generator.safetensors")
    (folder / "generator.json").write_text(json.dumps(settings, indent=1) + "\n", "utf-8")
    return folder


def load_generator(folder: Path) -> Any:
    """Load what `save_generator` wrote: a module with `generator` and `encode(prompts)`, frozen.

    Raises CheckpointError.
    """
    try:
        taught = _new_network(json.loads((folder / "generator.json").read_text("utf-8")))
        stored = load_file(folder / "generator.safetensors")
        taught.load_state_dict({name: part.float() for name, part in stored.items()})
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{str(folder)!r} holds no generator: {error}") from error
    return taught.eval().requires_grad_(False)


def rate_share(step: int, steps: int) -> float:
    """Return the share of the highest rate: a cosine over all steps, times a linear warm-up."""
    return min(1.0, (step + 1) / min(60, steps)) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def _new_network(settings: dict[str, Any]) -> Any:
    decoder: Any = load_decoder("generator")
    return decoder.taught(settings)


def _groups(members: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
    """Weight decay for matrices alone."""
    return [
        {"params": [part for part in members if part.ndim >= 2], "weight_decay": 0.01},
        {"params": [part for part in members if part.ndim < 2], "weight_decay": 0.0},
    ]
