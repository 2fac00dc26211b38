"""What holds old names where they were, while new ones are learned.

On the regions of the user's own images, old names are to score as the starting adapter scores them there, and their
vectors are to stay. This is distillation (https://arxiv.org/abs/1606.09282): no image of the old names is needed.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vision_agent.data.text.phrases import KINDS
from vision_agent.routing.known_words import KnownWords

from ..box import BoxDecoder

_AT_ONCE = 48  # old names a step
_TURNED_WEIGHT = 10.0


def old_names(words: KnownWords | None, new: Sequence[str], count: int) -> tuple[str, ...]:
    """Return at most `count` known names that stand for all the old ones: the commonest, then some from all over."""
    usual = [name for members in KINDS.values() for name in members]
    listed = list(words.names) if words is not None else []
    step = max(1, len(listed) // count)
    learned = KnownWords(names=tuple(new))
    chosen = dict.fromkeys([*usual, *listed[::step]])
    return tuple(name for name in chosen if not learned.names_one(name))[:count]


class Remembered:
    """The starting decoder, and the states of old names (K, N, C) under an image of the user's."""

    def __init__(self, start: BoxDecoder, states_KNC: Tensor) -> None:
        self.start, self._states_KNC = start, states_KNC
        with torch.no_grad():
            self._unit_KE, self._bias_K = start.phrase_vectors(states_KNC.to(next(start.parameters()).device))

    def losses(
        self,
        decoder: BoxDecoder,
        now: Sequence[Tensor],
        then: Sequence[Tensor],
        real: Sequence[Tensor],
        weight: float,
    ) -> dict[str, Tensor]:
        """Return how far old names have moved.

        Args:
            now, then: descriptions (N, E) of the same regions of each image, by the decoder and by the starting one.
            real: bool (N,), which of them are regions.
        """
        chosen = torch.randperm(len(self._states_KNC))[:_AT_ONCE]
        device = self._unit_KE.device
        unit_KE, bias_K = decoder.phrase_vectors(self._states_KNC[chosen].to(device))
        chosen = chosen.to(device)
        start_KE, start_K = self._unit_KE[chosen], self._bias_K[chosen]
        moved, told = unit_KE.new_zeros(()), unit_KE.new_zeros(())
        for now_NE, then_NE, real_N in zip(now, then, real, strict=True):
            with torch.no_grad():
                wanted_KN = self.start.logits(start_KE, start_K, then_NE)
                share_KN = torch.sigmoid(wanted_KN)
                least_KN = F.binary_cross_entropy_with_logits(wanted_KN, share_KN, reduction="none")
            logits_KN = decoder.logits(unit_KE, bias_K, now_NE)
            apart_KN = F.binary_cross_entropy_with_logits(logits_KN, share_KN, reduction="none") - least_KN
            moved = moved + (apart_KN * real_N).sum()
            told = told + (share_KN * real_N).sum()
        turned = 1 - F.cosine_similarity(unit_KE, start_KE, dim=-1).mean() + 0.1 * F.mse_loss(bias_K, start_K)
        return {"kept": weight * moved / told.clamp(min=1.0), "turned": weight * _TURNED_WEIGHT * turned}
