"""Adds the `[SEG]` route to a finished model, whose own weights are frozen.

Two short stages. "states": the route's queries learn to say what `[DET]` says of the same phrase, so that its finder
finds the same boxes; this depends on the language weights, takes minutes, and has to be done again when they change.
"masks": the mask network learns shapes on the frozen tower's maps; it depends on the tower alone.

The row of the routing token is left as it is: with it the language model decides when to write the token.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vision_agent.data.dataset import NumberedFrom
from vision_agent.data.mask_samples import MaskMix, MaskSample
from vision_agent.data.sources import read_text_vectors
from vision_agent.errors import CheckpointError
from vision_agent.inference.colors import COLOURS
from vision_agent.model.backbone import Backbone
from vision_agent.model.checkpoint import load_backbone
from vision_agent.plugins.decoder import DenseFeatures, MaskTargets
from vision_agent.plugins.registry import load_decoder
from vision_agent.plugins.route import RouteSpec
from vision_agent.routing.adapter import Route, add_token, load_adapter, read_tensors, save_adapter
from vision_agent.routing.layout import QueryBank
from vision_agent.routing.states import phrase_states
from vision_agent.train.loop import (
    OnStep,
    Stage,
    TrainingLoop,
    claim_folder,
    mixed_precision,
    one_thread,
    seed_of,
    warm_up_cosine,
)

SEGMENT = RouteSpec(token="[SEG]", decoder="mask", num_queries=4, block="causal", ends=True)

_BIAS_WEIGHT = 0.1
_PHRASE_SHARE = 0.5  # of the steps that tell the mask network what it looks at: it must do without, too
_NAMED_SHARE = 0.75  # of the objects in such a step

StageName = Literal["states", "masks"]


class MaskTraining(BaseModel):
    """How long and how fast the two stages learn.

    Attributes:
        masks: boxes an image, in the stage "masks".
        phrases: phrases an image, in the stage "states".
        ema: decay of the average of the weights that is kept.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    state_steps: int = Field(default=300, ge=0)
    state_batch: int = Field(default=4, ge=1)
    state_rate: float = Field(default=1e-3, gt=0)
    phrases: int = Field(default=16, ge=1)
    mask_steps: int = Field(default=1500, ge=0)
    mask_batch: int = Field(default=8, ge=1)
    mask_rate: float = Field(default=1.5e-3, gt=0)
    masks: int = Field(default=6, ge=1)
    ema: float = Field(default=0.995, ge=0, lt=1)
    save_minutes: float = Field(default=3.0, gt=0)
    workers: int = Field(default=1, ge=0)
    seed: int = 0


def train_masks(
    checkpoint: Path,
    data: Path,
    out: Path,
    settings: MaskTraining | None = None,
    *,
    only: StageName | None = None,
    start: Path | None = None,
    device: str = "auto",
    on_step: OnStep | None = None,
) -> Path:
    """Train the `[SEG]` route of a checkpoint that has a `[DET]` route. The same call resumes a run that was stopped.

    Args:
        checkpoint: a native folder with `adapters/det`. If it has `adapters/seg`, that is trained further.
        data: folder of the training archives.
        out: folder of the run: `state.pt`, `masks.jsonl`, and at the end the adapter, in `seg/`.
        only: one of the two stages; None for both.
        start: a `[SEG]` adapter whose mask network to start from, trained on any model with the same tower.
        on_step: called after every step (tests stop a run with it).

    Returns:
        the adapter's folder, `out / "seg"`.

    Raises:
        CheckpointError: no `[DET]` route, or a `start` that does not fit.
        ConfigError: data that is not there.
    """
    settings = settings or MaskTraining()
    claim_folder(out, settings.model_dump(mode="json", exclude={"workers", "save_minutes"}))
    run = _Run(checkpoint, data, settings, start, device)
    loop = TrainingLoop(out, run.route, save_minutes=settings.save_minutes, on_step=on_step)
    for name in ("states", "masks") if only is None else (only,):
        loop.run(run.stage(name))
    save_adapter(out / SEGMENT.name, run.route, run.backbone)
    return out / SEGMENT.name


class _Run:
    """One run: its stages and their losses."""

    def __init__(self, checkpoint: Path, data: Path, settings: MaskTraining, start: Path | None, device: str) -> None:
        torch.manual_seed(settings.seed)
        self.data, self.settings = data, settings
        self.backbone = load_backbone(checkpoint, local_files_only=True, device=device, dtype="float32")
        self.backbone.model.eval().requires_grad_(False)
        self.device = self.backbone.device
        self.detect = load_adapter(checkpoint / "adapters" / "det", self.backbone)
        self.route = _segment_route(self.backbone, self.detect, checkpoint / "adapters" / SEGMENT.name, start)
        self.names = read_text_vectors(data)[0]
        self.side = self.backbone.tiling.size
        self.decoder = cast(Any, self.route.decoder)

    def stage(self, name: StageName) -> Stage:
        settings = self.settings
        of_states = name == "states"
        steps = settings.state_steps if of_states else settings.mask_steps
        parameters = self._learning(name)
        rate = settings.state_rate if of_states else settings.mask_rate
        return Stage(
            name=name,
            steps=steps,
            optimiser=torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.99), weight_decay=0.02),
            parameters=parameters,
            clip=2.0,
            schedule=lambda step: warm_up_cosine(step, steps, 50, least=0.02),
            seed=lambda step: seed_of(settings.seed, len(name), step),
            batches=lambda first: self._batches(name, first, steps),
            losses=self._state_losses if of_states else self._mask_losses,
            ema=settings.ema,
        )

    def _learning(self, stage: StageName) -> list[nn.Parameter]:
        """Return the parameters that a stage trains; all others are frozen."""
        parts: list[nn.Module] = [self.decoder.head]
        if stage == "states":
            finder = self.decoder.finder
            parts = [self.route.queries, finder.phrase_head, finder.phrase_bias]
        self.route.requires_grad_(False)
        return list(nn.ModuleList(parts).requires_grad_(True).parameters())

    def _state_losses(self, samples: Sequence[MaskSample]) -> dict[str, Tensor]:
        """How far what `[SEG]` says of phrases is from what `[DET]` says of them."""
        phrases = [self._asked(sample) for sample in samples]
        # In fp32: the two soon differ by less than bf16 can tell.
        with torch.no_grad():
            tokens_NTC, _ = self._seen(samples)
        states = phrase_states(self.backbone, [self.detect, self.route], tokens_NTC, phrases)
        with torch.no_grad():
            wanted_KE, wanted_K = cast(Any, self.detect.decoder).phrase_vectors(states["det"])
        unit_KE, bias_K = self.decoder.finder.phrase_vectors(states[SEGMENT.name])
        return {
            "turned": 1 - F.cosine_similarity(unit_KE, wanted_KE, dim=-1).mean(),
            "bias": _BIAS_WEIGHT * F.mse_loss(bias_K, wanted_K),
        }

    def _mask_losses(self, samples: Sequence[MaskSample]) -> dict[str, Tensor]:
        asked = [sorted(set(sample.names)) for sample in samples]
        told = float(torch.rand(())) < _PHRASE_SHARE and any(asked)
        with mixed_precision(self.device):
            with torch.no_grad():
                tokens_NTC, features = self._seen(samples)
                states_KNC = tokens_NTC.new_zeros(0, SEGMENT.num_queries, self.backbone.hidden_size)
                if told:
                    states_KNC = phrase_states(self.backbone, [self.route], tokens_NTC, asked)[SEGMENT.name]
            prepared = self.decoder.prepare(features)
            targets = []
            for sample, phrases in zip(samples, asked, strict=True):
                phrase_G = torch.tensor([phrases.index(name) for name in sample.names], dtype=torch.long)
                dropped = torch.rand(len(phrase_G)) >= (_NAMED_SHARE if told else 0.0)
                targets.append(
                    MaskTargets(
                        boxes_G4=sample.boxes.to(self.device),
                        masks_GHW=sample.masks.to(self.device),
                        phrase_G=phrase_G.masked_fill(dropped, -1).to(self.device),
                    )
                )
            rows = [row for row, phrases in enumerate(asked) for _ in phrases] if told else []
            losses: dict[str, Tensor] = self.decoder.losses(
                states_KNC.float(), rows, prepared, targets, self.settings.masks
            )
        return losses

    def _asked(self, sample: MaskSample) -> list[str]:
        """Names of what is there, and any others, some with a colour."""
        present = sorted(set(sample.names))
        picked = torch.randint(len(self.names), (max(0, self.settings.phrases - len(present)),)).tolist()
        others = [self.names[index] for index in picked]
        coloured = [
            f"{COLOURS[int(torch.randint(len(COLOURS), ()))]} {name}" if torch.rand(()) < 0.3 else name
            for name in others
        ]
        return [*present, *coloured][: self.settings.phrases]

    def _seen(self, samples: Sequence[MaskSample]) -> tuple[Tensor, DenseFeatures]:
        pixels = torch.stack([sample.pixels for sample in samples]).to(self.device)
        tokens_NTC, maps = self.backbone.see(self.backbone.normalise(pixels))
        return tokens_NTC, DenseFeatures(maps)

    def _batches(self, stage: StageName, first: int, steps: int) -> DataLoader[MaskSample]:
        settings = self.settings
        size = settings.state_batch if stage == "states" else settings.mask_batch
        return DataLoader(
            MaskMix(self.data, self.side, (settings.seed, 1 if stage == "states" else 2)),
            batch_size=size,
            sampler=NumberedFrom(first * size, steps * size),
            num_workers=settings.workers,
            collate_fn=list,
            worker_init_fn=one_thread,
        )


def _segment_route(backbone: Backbone, detect: Route, own: Path, start: Path | None) -> Route:
    """The route to train: the checkpoint's own, or a new one that begins as a copy of `[DET]`."""
    if own.is_dir():
        route = load_adapter(own, backbone)
    else:
        decoder = load_decoder(SEGMENT.decoder)(finder=detect.decoder.settings)
        queries = QueryBank(SEGMENT.num_queries, backbone.hidden_size)
        queries.load_state_dict(detect.queries.state_dict())
        route = Route(SEGMENT, add_token(backbone, SEGMENT.token), queries, decoder)
    route.words = detect.words  # it finds what [DET] finds
    parts = cast(Any, route.decoder)
    # What reads the route's own query states stays the route's own.
    kept = {name: part for name, part in parts.finder.state_dict().items() if own.is_dir() and _reads_states(name)}
    parts.finder.load_state_dict(detect.decoder.state_dict() | kept)
    if start is not None:
        given = read_tensors(start)
        prefix = "decoder.head."
        head = {name.removeprefix(prefix): part for name, part in given.items() if name.startswith(prefix)}
        try:
            parts.head.load_state_dict({name: part.float() for name, part in head.items()})
        except RuntimeError as error:
            raise CheckpointError(f"the mask network in {str(start)!r} does not fit: {error}") from error
    return route.float().to(backbone.device).eval()


def _reads_states(name: str) -> bool:
    return name.startswith(("phrase_head.", "phrase_bias."))
