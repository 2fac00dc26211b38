"""Trains tower and box decoder without the language model in the step.

What a phrase means to the decoder hardly depends on the image it is asked of, so the states of each phrase are read
once, under a few images, and kept. The language model, the routing tokens and the decoder's phrase head are frozen; so
that the language model goes on seeing what it knew, the image tokens are held to those of the tower as the stage began.
"""

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from vision_agent.data.distillation_samples import BoxBatch
from vision_agent.data.sources import CocoPhotos
from vision_agent.model.backbone import Backbone
from vision_agent.plugins.decoder import DenseFeatures
from vision_agent.routing.adapter import Route
from vision_agent.routing.states import phrase_states
from vision_agent.train.loop import mixed_precision, on_device

# Parts of the box decoder that turn states into phrase vectors: `[SEG]` reads states with its own copies of them.
FROZEN = ("phrase_head", "phrase_bias")

_CONTEXTS = 2
_PHRASES_A_ROW = 32
_HELD_SHARE = 4  # one in so many images of a batch is seen by the old tower too
_HELD_WEIGHT = 4.0


class PhraseBank:
    """States of phrases as the frozen language model gives them, each read once under each of a few images.

    Args:
        tokens_NTC: image tokens of those images.
    """

    def __init__(self, backbone: Backbone, route: Route, tokens_NTC: Tensor) -> None:
        self._backbone, self._route, self._tokens_NTC = backbone, route, tokens_NTC
        self._known: dict[tuple[str, int], Tensor] = {}

    def states(self, phrases: Sequence[str], context: int) -> Tensor:
        """Return states (K, N, C), float32, under the image of number `context`, counted round."""
        context %= len(self._tokens_NTC)
        missing = [phrase for phrase in dict.fromkeys(phrases) if (phrase, context) not in self._known]
        if missing:
            self._known |= zip(((phrase, context) for phrase in missing), self._read(missing, context), strict=True)
        return torch.stack([self._known[phrase, context] for phrase in phrases])

    @torch.no_grad()
    def _read(self, phrases: Sequence[str], context: int) -> Iterable[Tensor]:
        # Attention goes with the square of a row's length.
        rows = [phrases[first : first + _PHRASES_A_ROW] for first in range(0, len(phrases), _PHRASES_A_ROW)]
        tokens_NTC = self._tokens_NTC[context].expand(len(rows), -1, -1)
        return phrase_states(self._backbone, [self._route], tokens_NTC, rows)[self._route.spec.name].unbind()


class BoxDistillation:
    """The losses of a distillation stage.

    Args:
        backbone, route: in training; what they are now is what the image tokens are held to.
        folder: the training archives, for a few images to read phrases under.
    """

    def __init__(self, backbone: Backbone, route: Route, folder: Path) -> None:
        self._backbone, self._route = backbone, route
        inner = backbone.model.model
        self._seeing = nn.ModuleDict({"tower": inner.vision_tower, "projector": inner.multi_modal_projector})
        self._kept = copy.deepcopy(self._seeing).eval().requires_grad_(False)
        self._folder = folder
        self._bank: PhraseBank | None = None

    def losses(self, numbered: tuple[int, BoxBatch]) -> dict[str, Tensor]:
        """Return the losses by name of a step, given as its number and its batch.

        Images of a batch may have any side that the tower takes.
        """
        (step, batch), device = numbered, self._backbone.device
        with mixed_precision(device):
            tokens_NTC, maps = self._backbone.see(self._backbone.normalise(batch.pixels_NSS3.to(device)))
            held = max(1, len(tokens_NTC) // _HELD_SHARE)
            with torch.no_grad():
                kept_NTC = self._kept_tokens(batch.pixels_NSS3[:held]).float()
            decoder = cast(Any, self._route.decoder)
            prepared = decoder.prepare(DenseFeatures(maps))
            asked = [phrase for phrases in batch.phrases for phrase in phrases]
            rows = [row for row, phrases in enumerate(batch.phrases) for _ in phrases]
            with torch.autocast(device.type, enabled=False):
                states_KNC = self._phrases().states(asked, step)
            targets = on_device(batch.targets, device)
            losses: dict[str, Tensor] = decoder.losses(states_KNC, rows, prepared, targets)
            moved = (tokens_NTC[:held].float() - kept_NTC).square().mean() / kept_NTC.var().clamp(min=1e-6)
            return {**losses, "held": _HELD_WEIGHT * moved}

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to hold tokens to the same tower."""
        return self._kept.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._kept.load_state_dict(state)
        self._bank = None

    def _kept_tokens(self, pixels_NSS3: Tensor) -> Tensor:
        """Image tokens as the tower and projector of the stage's beginning give them."""
        inner = self._backbone.model.model
        now = inner.vision_tower, inner.multi_modal_projector
        inner.vision_tower, inner.multi_modal_projector = self._kept["tower"], self._kept["projector"]
        try:
            return self._backbone.see(self._backbone.normalise(pixels_NSS3.to(self._backbone.device)))[0]
        finally:
            inner.vision_tower, inner.multi_modal_projector = now

    def _phrases(self) -> PhraseBank:
        if self._bank is None:
            photos, side = CocoPhotos(self._folder, "coco_train_448"), self._backbone.tiling.size
            images = [photos.photo(record).resize((side, side)) for record in photos.images("train")[:_CONTEXTS]]
            pixels_NSS3 = torch.stack([torch.from_numpy(np.array(image)) for image in images])
            with torch.no_grad():
                self._bank = PhraseBank(self._backbone, self._route, self._kept_tokens(pixels_NSS3))
        return self._bank
