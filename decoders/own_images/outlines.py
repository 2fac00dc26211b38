"""The stages that bring `[SEG]` after `[DET]`: it finds what the new boxes are of, and learns the outlines of a set."""

from collections.abc import Callable, Iterator, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision_agent.data.annotations.annotated import AnnotatedImage
from vision_agent.model.backbone import Backbone
from vision_agent.plugins.decoder import MaskTargets
from vision_agent.routing.adapter import Route
from vision_agent.train.loop import Stage, seed_of, warm_up_cosine

from ..box import BoxDecoder
from ..mask.decoder import MaskDecoder
from .phrase_states import StateBank, read_states
from .settings import OwnImagesTraining
from .stages import BoxStages, numbered_views, seen
from .views import View, Views

_CONTEXTS = 4  # images that phrases are read under, for masks
_PHRASES_AT_ONCE = 48
_NEW_SHARE = 3  # one in so many phrases is of the new names
_BIAS_WEIGHT = 0.1
_LEAST_SIDE = 6 / 448  # of the view: smaller objects show no shape


class OutlineStages:
    """What `[SEG]` learns once the boxes are learned.

    Args:
        route: `[SEG]`; its mask decoder has a box decoder inside, the same as `[DET]`'s but for what reads its states.
    """

    def __init__(
        self,
        backbone: Backbone,
        detect: Route,
        route: Route,
        images: Sequence[AnnotatedImage],
        names: Sequence[str],
        settings: OwnImagesTraining,
        boxes: BoxStages,
    ) -> None:
        self._backbone, self._settings = backbone, settings
        self._detect = cast(BoxDecoder, detect.decoder)
        self._decoder = cast(MaskDecoder, route.decoder)
        self._new, self._old = len(boxes.bank.phrases), len(boxes.old)
        self._bank = StateBank(backbone, route, boxes.contexts[:_CONTEXTS], boxes.bank.phrases)
        phrases = [*boxes.bank.phrases, *boxes.old]
        self._states_KNC = read_states(backbone, route, boxes.contexts[0], phrases)
        self._wanted_KNC = torch.cat([boxes.bank.first(), boxes.old_states_KNC])
        self._outlined = [each for each in images if any(one.outlined and not one.crowd for one in each.objects)]
        self._views = Views(
            self._outlined, {}, names, backbone.tiling.size, settings.seed, flip=settings.flip, masks=True
        )

    def follow_boxes(self) -> None:
        """Give the box decoder inside the weights of `[DET]`'s, but for what reads the route's own states."""
        finder = self._decoder.finder
        own = {
            name: part
            for name, part in finder.state_dict().items()
            if name.startswith(("phrase_head.", "phrase_bias."))
        }
        finder.load_state_dict(self._detect.state_dict() | own)

    def stages(self) -> list[Callable[[], Stage]]:
        """Return the stages: what phrases mean, then, where the set has outlines, masks."""
        return [self._phrases, *([self._masks] if self._outlined else [])]

    def _phrases(self) -> Stage:
        finder = self._decoder.finder
        parameters = self._learning([finder.phrase_head, finder.phrase_bias])
        return Stage(
            name="phrases",
            steps=self._settings.phrase_steps,
            optimiser=torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.01),
            parameters=parameters,
            clip=2.0,
            schedule=lambda step: warm_up_cosine(step, self._settings.phrase_steps, 10, 0.02),
            seed=lambda step: seed_of(self._settings.seed, 4, step),
            batches=lambda first: range(first, self._settings.phrase_steps),
            losses=self._phrase_losses,
        )

    def _phrase_losses(self, step: int) -> dict[str, Tensor]:
        """How far what `[SEG]` says of phrases is from what `[DET]` says of them."""
        new_K = torch.randint(self._new, (_PHRASES_AT_ONCE // _NEW_SHARE,))
        old_K = self._new + torch.randperm(self._old)[: _PHRASES_AT_ONCE - len(new_K)]
        chosen_K, device = torch.cat([new_K, old_K]), self._backbone.device
        with torch.no_grad():
            wanted_KE, wanted_K = self._detect.phrase_vectors(self._wanted_KNC[chosen_K].to(device))
        unit_KE, bias_K = self._decoder.finder.phrase_vectors(self._states_KNC[chosen_K].to(device))
        turned = 1 - F.cosine_similarity(unit_KE, wanted_KE, dim=-1).mean()
        return {"turned": turned, "bias": _BIAS_WEIGHT * F.mse_loss(bias_K, wanted_K)}

    def _masks(self) -> Stage:
        parameters, settings = self._learning([self._decoder.head]), self._settings
        steps = settings.outline_steps(len(self._outlined))
        return Stage(
            name="masks",
            steps=steps,
            optimiser=torch.optim.AdamW(parameters, lr=settings.rate / 2, weight_decay=0.01),
            parameters=parameters,
            clip=2.0,
            schedule=lambda step: warm_up_cosine(step, steps, min(10, steps // 4 + 1), 0.02),
            seed=lambda step: seed_of(settings.seed, 5, step),
            batches=lambda first: self._outlined_views(first, steps),
            losses=lambda given: self._mask_losses(given[1]),
            ema=0.97,
        )

    def _learning(self, parts: Sequence[nn.Module]) -> list[nn.Parameter]:
        self._decoder.requires_grad_(False)
        return list(nn.ModuleList(parts).requires_grad_(True).parameters())

    def _outlined_views(self, first: int, steps: int) -> Iterator[tuple[int, list[View]]]:
        return numbered_views(self._views, first, steps, self._settings.batch)

    def _mask_losses(self, views: Sequence[View]) -> dict[str, Tensor]:
        device = self._backbone.device
        whole = self._decoder.prepare(seen(self._backbone, views))
        states_KNC = self._bank.states([phrase for view in views for phrase in view.phrases]).to(device)
        rows = [row for row, view in enumerate(views) for _ in view.phrases]
        targets = [_targets(view, device) for view in views]
        return self._decoder.losses(states_KNC, rows, whole, targets)


def _targets(view: View, device: torch.device) -> MaskTargets:
    """The objects of a view whose outline is known and large enough to show."""
    sides_G2 = view.targets.boxes_G4[:, 2:] - view.targets.boxes_G4[:, :2]
    kept = [
        place
        for place, mask in enumerate(view.masks)
        if mask is not None and bool(mask.any()) and float(sides_G2[place].min()) >= _LEAST_SIDE
    ]
    phrases = [view.targets.belongs_KG[:, place].nonzero().flatten().tolist() for place in kept]
    side = view.pixels.shape[0]
    masks = [mask for place in kept if (mask := view.masks[place]) is not None]
    return MaskTargets(
        boxes_G4=view.targets.boxes_G4[kept].to(device),
        masks_GHW=(torch.stack(masks) if masks else torch.zeros(0, side, side, dtype=torch.bool)).to(device),
        phrase_G=torch.tensor([named[0] if named else -1 for named in phrases], dtype=torch.long, device=device),
    )
