"""Adds the `[SEG]` route to a finished model, which itself stays as it is.

Two short stages. "states": the route's queries learn to say what `[DET]` says of the same phrase, so that its finder
finds the same boxes; this depends on the language weights, takes minutes, and has to be done again when they change.
"masks": the mask network learns shapes on the frozen tower's maps; it depends on the tower alone.

The row of the routing token is left as it is: with it the language model decides when to write the token.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from vision_agent.data.dataset import NumberedFrom
from vision_agent.data.mask_samples import MaskMix, MaskSample
from vision_agent.data.sources import read_text_vectors
from vision_agent.errors import CheckpointError
from vision_agent.inference.colors import COLOURS
from vision_agent.model.backbone import Backbone
from vision_agent.plugins.decoder import DenseFeatures, MaskTargets
from vision_agent.plugins.registry import load_decoder
from vision_agent.plugins.route import RouteSpec
from vision_agent.routing.adapter import Route, add_token, load_adapter, save_adapter
from vision_agent.routing.layout import QueryBank, Segment, arrange
from vision_agent.routing.states import FORCED_REQUEST, embed_layout, forced_segments, hidden_states

SEGMENT = RouteSpec(token="[SEG]", decoder="mask", num_queries=4, ends=True)

_BIAS_WEIGHT = 0.1
_PHRASE_SHARE = 0.5  # of the steps that tell the mask network what it looks at: it must do without, too
_NAMED_SHARE = 0.75  # of the things in such a step

Stage = Literal["states", "masks"]


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
    only: Stage | None = None,
    start: Path | None = None,
    device: str = "auto",
    on_step: Callable[[], None] | None = None,
) -> Path:
    """Train the `[SEG]` route of a checkpoint that has a `[DET]` route, or go on with a run that was killed.

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
    out.mkdir(parents=True, exist_ok=True)
    run = _Run(checkpoint, data, out, settings or MaskTraining(), start, device, on_step or (lambda: None))
    stages: tuple[Stage, ...] = ("states", "masks") if only is None else (only,)
    for stage in stages:
        run.stage(stage)
    save_adapter(out / SEGMENT.name, run.route, run.backbone)
    return out / SEGMENT.name


def phrase_states(
    backbone: Backbone, routes: Sequence[Route], tokens_NTC: Tensor, phrases: Sequence[Sequence[str]]
) -> dict[str, Tensor]:
    """States (K, N, C) of forced phrases on several images, for each route by its name, in one pass.

    Args:
        tokens_NTC: image tokens of each image.
        phrases: of each image; K is their number, in their order.
    """
    prompt = Segment(tokens=tuple(backbone.prompt_ids(FORCED_REQUEST, [tokens_NTC.shape[1]])))
    rows: list[list[Segment]] = []
    blocks: dict[str, list[tuple[int, int]]] = {route.spec.name: [] for route in routes}
    for row, asked in enumerate(phrases):
        segments = [prompt]
        for route in routes:
            for phrase in asked:
                lead, block = forced_segments(backbone, route, [phrase], parent=0)
                segments += [lead, replace(block, parent=len(segments))]
                blocks[route.spec.name].append((row, len(segments) - 1))
        rows.append(segments)
    layout = arrange(rows).to(backbone.device)
    by_name = {route.spec.name: route for route in routes}
    hidden_BLC = hidden_states(
        backbone, layout, embed_layout(backbone, by_name, layout, rows, tokens_NTC.flatten(0, 1))
    )

    def states(places: Sequence[tuple[int, int]]) -> Tensor:
        spans = [layout.spans[row][segment] for row, segment in places]
        return torch.stack([hidden_BLC[span.row, span.start : span.end] for span in spans])

    return {name: states(places).float() for name, places in blocks.items()}


class _Run:
    """The state of one run."""

    def __init__(
        self,
        checkpoint: Path,
        data: Path,
        out: Path,
        settings: MaskTraining,
        start: Path | None,
        device: str,
        on_step: Callable[[], None],
    ) -> None:
        torch.manual_seed(settings.seed)
        self.data, self.out, self.settings, self.on_step = data, out, settings, on_step
        self.backbone = Backbone.from_pretrained(checkpoint, local_files_only=True, device=device, dtype="float32")
        self.backbone.model.eval().requires_grad_(False)
        self.device = self.backbone.device
        self.detect = load_adapter(checkpoint / "adapters" / "det", self.backbone)
        self.route = _segment_route(self.backbone, self.detect, checkpoint / "adapters" / SEGMENT.name, start)
        self.names = read_text_vectors(data)[0]
        self.side = self.backbone.tiling.size
        self.decoder = cast(Any, self.route.decoder)
        self.resumed: dict[str, Any] = {"finished": [], "stage": "", "step": 0}
        state = out / "state.pt"
        if state.exists():
            self.resumed = torch.load(state, map_location=self.device, weights_only=True)
            self.route.load_state_dict(self.resumed["route"])

    def stage(self, stage: Stage) -> None:
        if stage in self.resumed["finished"]:
            return
        settings = self.settings
        steps = settings.state_steps if stage == "states" else settings.mask_steps
        rate = settings.state_rate if stage == "states" else settings.mask_rate
        learning = self._learning(stage)
        optimiser = torch.optim.AdamW(learning.values(), lr=rate, betas=(0.9, 0.99), weight_decay=0.02)
        average = {name: parameter.detach().clone() for name, parameter in learning.items()}
        first = 0
        if self.resumed["stage"] == stage:
            optimiser.load_state_dict(self.resumed["optimiser"])
            first, average = self.resumed["step"], self.resumed["average"]
        saved = time.monotonic()
        batches = tqdm(self._batches(stage, first, steps), desc=stage, initial=first, total=steps, mininterval=5)
        for step, samples in enumerate(batches, first):
            for group in optimiser.param_groups:
                group["lr"] = rate * _schedule(step, steps)
            # What a step draws follows from its number too, so that a resumed run is the same run.
            torch.manual_seed(int(np.random.SeedSequence((settings.seed, len(stage), step)).generate_state(1)[0]))
            losses = self._state_losses(samples) if stage == "states" else self._mask_losses(samples)
            total = torch.stack(list(losses.values())).sum()
            if not bool(torch.isfinite(total)):
                raise FloatingPointError(f"the loss of step {step} of stage {stage!r} is {total.item()}: {losses}")
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(total)
            nn.utils.clip_grad_norm_(learning.values(), 2.0)
            optimiser.step()
            decay = min(settings.ema, (1 + step) / (10 + step))
            with torch.no_grad():
                for name, parameter in learning.items():
                    average[name].lerp_(parameter, 1 - decay)
            self._log(
                {"stage": stage, "step": step, **{key: round(float(loss.detach()), 4) for key, loss in losses.items()}}
            )
            if time.monotonic() - saved > settings.save_minutes * 60:
                self._save({"stage": stage, "step": step + 1, "optimiser": optimiser.state_dict(), "average": average})
                saved = time.monotonic()
            self.on_step()
        with torch.no_grad():
            for name, parameter in learning.items():
                parameter.copy_(average[name])
                parameter.requires_grad_(False)
        self.resumed["finished"].append(stage)
        self._save({"stage": "", "step": 0})

    def _learning(self, stage: Stage) -> Mapping[str, nn.Parameter]:
        """The parameters that a stage trains, by name; all others rest."""
        parts: dict[str, nn.Module] = {"head": self.decoder.head}
        if stage == "states":
            finder = self.decoder.finder
            parts = {"queries": self.route.queries, "phrase": finder.phrase_head, "bias": finder.phrase_bias}
        self.route.requires_grad_(False)
        learning = nn.ModuleDict(parts)
        learning.requires_grad_(True)
        return dict(learning.named_parameters())

    def _state_losses(self, samples: Sequence[MaskSample]) -> dict[str, Tensor]:
        """How far what `[SEG]` says of phrases is from what `[DET]` says of them."""
        phrases = [self._asked(sample) for sample in samples]
        with self._fast():
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
        with self._fast():
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

    def _fast(self) -> AbstractContextManager[Any]:
        """bf16 where the device multiplies it fast."""
        kind = self.device.type
        if kind == "cuda":
            fast = bool(torch.cuda.is_bf16_supported(including_emulation=False))
        else:
            fast = kind == "cpu" and bool(torch.cpu._is_amx_tile_supported())
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=fast)

    def _batches(self, stage: Stage, first: int, steps: int) -> Iterator[list[MaskSample]]:
        settings = self.settings
        size = settings.state_batch if stage == "states" else settings.mask_batch
        seed = (settings.seed, 1 if stage == "states" else 2)
        yield from DataLoader(
            MaskMix(self.data, self.side, seed),
            batch_size=size,
            sampler=NumberedFrom(first * size, steps * size),
            num_workers=settings.workers,
            collate_fn=list,
            worker_init_fn=_one_thread,
        )

    def _save(self, progress: dict[str, Any]) -> None:
        partial = self.out / "state.pt.partial"
        torch.save(
            {"finished": self.resumed["finished"], "route": self.route.state_dict(), **progress},
            partial,
        )
        os.replace(partial, self.out / "state.pt")

    def _log(self, line: dict[str, Any]) -> None:
        with (self.out / "masks.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _segment_route(backbone: Backbone, detect: Route, own: Path, start: Path | None) -> Route:
    """The route to train: the checkpoint's own, or a new one that begins as a copy of `[DET]`."""
    if own.is_dir():
        route = load_adapter(own, backbone)
    else:
        decoder = load_decoder(SEGMENT.decoder)(finder=detect.decoder.settings)
        queries = QueryBank(SEGMENT.num_queries, backbone.hidden_size)
        queries.load_state_dict(detect.queries.state_dict())
        route = Route(SEGMENT, add_token(backbone, SEGMENT.token), queries, decoder)
    parts = cast(Any, route.decoder)
    parts.finder.load_state_dict(detect.decoder.state_dict())
    if start is not None:
        given = load_file(start / "adapter.safetensors")
        prefix = "decoder.head."
        head = {name.removeprefix(prefix): part for name, part in given.items() if name.startswith(prefix)}
        try:
            parts.head.load_state_dict({name: part.float() for name, part in head.items()})
        except RuntimeError as error:
            raise CheckpointError(f"the mask network in {str(start)!r} does not fit: {error}") from error
    return route.float().to(backbone.device).eval()


def _schedule(step: int, steps: int, warm_up: int = 50) -> float:
    """Linear warm-up, then cosine to a fiftieth."""
    if step < warm_up:
        return (step + 1) / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
