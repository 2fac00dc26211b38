"""The stages that teach a route new names: names on regions that are read once, then boxes and names together.

The model itself, tower, language model and routing token, is frozen: what else it says stays bit by bit the same. What
a phrase means hardly depends on the image, so its states are read once, under a few of the images.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from vision_agent.data.annotations.annotated import AnnotatedImage
from vision_agent.data.scene import flipped, window
from vision_agent.model.backbone import Backbone
from vision_agent.plugins.decoder import DenseFeatures
from vision_agent.routing.adapter import Route
from vision_agent.train.loop import Stage, on_device, seed_of, warm_up_cosine

from ..box import BoxDecoder
from ..box_truth import LossSums, certain, nameable, named, quality_focal, trained
from .phrase_states import StateBank, read_states
from .remembering import Remembered, old_names
from .settings import OwnImagesTraining
from .views import Found, View, Views, asked_view, find_others, scene_of, wordings

_CONTEXTS = 12  # images that phrases are read under
_NAME_BATCH = 16
_LEAST_RATE = 0.02


@dataclass(frozen=True)
class ReadImage:
    """A view as the starting decoder sees it: its regions, their descriptions, and which of them are real."""

    view: View
    regions_N4: Tensor
    embeddings_NE: Tensor
    real_N: Tensor


class BoxStages:
    """The training images of a set, read once, and the stages that learn from them.

    Args:
        route: its decoder is what learns.
    """

    def __init__(
        self,
        backbone: Backbone,
        route: Route,
        images: Sequence[AnnotatedImage],
        names: Sequence[str],
        settings: OwnImagesTraining,
    ) -> None:
        self._backbone, self._settings, self._names = backbone, settings, tuple(names)
        self._decoder = cast(BoxDecoder, route.decoder)
        start = copy.deepcopy(self._decoder).eval().requires_grad_(False)
        self._side = backbone.tiling.size
        self._read: list[ReadImage] = []
        self.found: dict[str, Found] = {}
        contexts: list[Tensor] = []
        every = max(1, len(images) // _CONTEXTS)
        for number, annotated in enumerate(images):
            tokens_TC = self._read_image(annotated, start)
            if number % every == 0 and len(contexts) < _CONTEXTS:
                contexts.append(tokens_TC)
        asked = [wording for name in names for wording in wordings(name)]
        self.contexts = contexts
        self.bank = StateBank(backbone, route, contexts, asked)
        self.old = old_names(route.words, names, settings.kept_names)
        self.old_states_KNC = read_states(backbone, route, contexts[0], self.old)
        self.remembered = Remembered(start, self.old_states_KNC)
        self.views = Views(images, self.found, names, self._side, settings.seed, flip=settings.flip)
        self._images = images

    @torch.no_grad()
    def _read_image(self, annotated: AnnotatedImage, start: BoxDecoder) -> Tensor:
        """Keep what the starting decoder sees on an image; return the image tokens."""
        image = annotated.load()
        encoded = self._backbone.encode_image(image)
        self.found[annotated.file] = find_others(start, annotated, encoded)
        scene = window(
            scene_of(annotated, image, self.found[annotated.file]),
            (0, 0, *image.size),
            (self._side, self._side),
        )
        rng = np.random.default_rng((self._settings.seed, len(self._read)))
        for turned in (scene, flipped(scene)) if self._settings.flip else (scene,):
            view = asked_view(turned, self._names, rng)
            _, maps = self._backbone.see(self._backbone.normalise(view.pixels[None].to(self._backbone.device)))
            prepared = start.prepare(DenseFeatures(maps).float())
            true_G4 = view.targets.boxes_G4.to(self._backbone.device)
            sampled = start.describe.reduced(DenseFeatures(maps).float())
            true_NE = start.describe(sampled, true_G4[None])[0]
            self._read.append(
                ReadImage(
                    view,
                    torch.cat([prepared.regions_BN4[0], true_G4]).cpu(),
                    torch.cat([prepared.embeddings_BNE[0], true_NE]).cpu(),
                    torch.cat([prepared.proposed_BN[0], prepared.proposed_BN.new_ones(len(true_G4))]).cpu(),
                )
            )
        return encoded.tokens_TC.clone()

    def names(self) -> Stage:
        """Return the stage that learns phrases alone."""
        settings, decoder = self._settings, self._decoder
        decoder.requires_grad_(False)
        learning = nn.ModuleList([decoder.phrase_head, decoder.phrase_bias]).requires_grad_(True)
        parameters = list(learning.parameters())
        return Stage(
            name="names",
            steps=settings.name_steps,
            optimiser=torch.optim.AdamW(parameters, lr=settings.name_rate, weight_decay=0.01),
            parameters=parameters,
            clip=2.0,
            schedule=lambda step: warm_up_cosine(step, settings.name_steps, 10, _LEAST_RATE),
            seed=lambda step: seed_of(settings.seed, 1, step),
            batches=self._name_batches,
            losses=self._name_losses,
        )

    def boxes(self, before_step: Callable[[int], None]) -> Stage:
        """Return the stage that learns everything in the decoder; `before_step` is told the number of each step."""
        settings = self._settings
        steps = settings.box_steps(len(self._images))
        parameters = list(self._decoder.requires_grad_(True).parameters())
        return Stage(
            name="boxes",
            steps=steps,
            optimiser=torch.optim.AdamW(parameters, lr=settings.rate, weight_decay=0.01),
            parameters=parameters,
            clip=2.0,
            schedule=lambda step: warm_up_cosine(step, steps, min(20, steps // 4 + 1), _LEAST_RATE),
            seed=lambda step: seed_of(settings.seed, 2, step),
            batches=lambda first: numbered_views(self.views, first, steps, settings.batch),
            losses=lambda given: self._box_losses(given, before_step),
            ema=0.97,
        )

    def _name_batches(self, first: int) -> Iterator[list[ReadImage]]:
        for step in range(first, self._settings.name_steps):
            rng = np.random.default_rng((self._settings.seed, 3, step))
            yield [self._read[place] for place in rng.integers(len(self._read), size=_NAME_BATCH)]

    def _name_losses(self, batch: Sequence[ReadImage]) -> dict[str, Tensor]:
        device, sums = self._backbone.device, LossSums(self._backbone.device)
        phrases = [phrase for each in batch for phrase in each.view.phrases]
        unit_KE, bias_K = self._decoder.phrase_vectors(self.bank.states(phrases).to(device))
        described, real, first = [], [], 0
        for each in batch:
            count = len(each.view.phrases)
            mine = slice(first, first + count)
            first += count
            regions_N4, embeddings_NE = each.regions_N4.to(device), each.embeddings_NE.to(device)
            target, real_N = on_device(each.view.targets, device), each.real_N.to(device)
            logits_KN = self._decoder.logits(unit_KE[mine], bias_K[mine], embeddings_NE)
            truth_KN = named(regions_N4, target)
            judged_KN = trained(target, (regions_N4[:, :2] + regions_N4[:, 2:]) / 2)
            judged_KN = judged_KN * real_N * certain(regions_N4, target) * nameable(regions_N4, target)
            sums.add("names", (quality_focal(logits_KN, truth_KN) * judged_KN).sum(), (truth_KN * judged_KN).sum())
            described.append(embeddings_NE)
            real.append(real_N)
        kept = self.remembered.losses(self._decoder, described[:4], described[:4], real[:4], self._settings.keep)
        return {"names": 2.0 * sums.mean("names"), **kept}

    def _box_losses(self, given: tuple[int, list[View]], before_step: Callable[[int], None]) -> dict[str, Tensor]:
        step, views = given
        before_step(step)
        device, decoder, start = self._backbone.device, self._decoder, self.remembered.start
        features = seen(self._backbone, views)
        prepared = decoder.prepare(features)
        rows = [row for row, view in enumerate(views) for _ in view.phrases]
        states_KNC = self.bank.states([phrase for view in views for phrase in view.phrases]).to(device)
        targets = [on_device(view.targets, device) for view in views]
        losses = decoder.losses(states_KNC, rows, prepared, targets)
        regions_BN4 = prepared.regions_BN4 if prepared.proposals_BN4 is None else prepared.proposals_BN4
        with torch.no_grad():
            then_BNE = start.describe(start.describe.reduced(features), regions_BN4)
        now, then, real = prepared.embeddings_BNE.unbind(), then_BNE.unbind(), prepared.proposed_BN.unbind()
        return {**losses, **self.remembered.losses(decoder, now, then, real, self._settings.keep)}


def numbered_views(views: Views, first: int, steps: int, batch: int) -> Iterator[tuple[int, list[View]]]:
    """Give each step's number and its views."""
    for step in range(first, steps):
        yield step, [views[step * batch + place] for place in range(batch)]


@torch.no_grad()
def seen(backbone: Backbone, views: Sequence[View]) -> DenseFeatures:
    """Return the frozen tower's maps of views, to be learned from."""
    pixels_NSS3 = torch.stack([view.pixels for view in views]).to(backbone.device)
    _, maps = backbone.see(backbone.normalise(pixels_NSS3))
    return DenseFeatures(maps).float()
