"""What phrases are to a route: their query states, read once under a few images by the frozen language model."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vision_agent.model.backbone import Backbone
from vision_agent.routing.adapter import Route
from vision_agent.routing.states import phrase_states

_PHRASES_A_ROW = 32  # attention goes with the square of a row's length


@torch.no_grad()
def read_states(backbone: Backbone, route: Route, tokens_TC: Tensor, phrases: Sequence[str]) -> Tensor:
    """Return states (K, N, C) of phrases forced under one image, float32 on the CPU."""
    rows = [phrases[first : first + _PHRASES_A_ROW] for first in range(0, len(phrases), _PHRASES_A_ROW)]
    read = [phrase_states(backbone, [route], tokens_TC[None], [row])[route.spec.name].cpu() for row in rows]
    return torch.cat(read)


class StateBank:
    """States of phrases under some images: (K, M, N, C).

    Args:
        tokens: image tokens (T, C) of the M images.
    """

    def __init__(self, backbone: Backbone, route: Route, tokens: Sequence[Tensor], phrases: Sequence[str]) -> None:
        self.phrases = tuple(dict.fromkeys(phrases))
        self._row = {phrase: row for row, phrase in enumerate(self.phrases)}
        self._states_KMNC = torch.stack([read_states(backbone, route, each, self.phrases) for each in tokens], dim=1)

    def states(self, phrases: Sequence[str]) -> Tensor:
        """Return states (K, N, C), each under an image that is drawn from torch's random numbers."""
        rows = torch.tensor([self._row[phrase] for phrase in phrases], dtype=torch.long)
        images = torch.randint(self._states_KMNC.shape[1], (len(rows),))
        return self._states_KMNC[rows, images]

    def first(self) -> Tensor:
        """Return the states (K, N, C) of all phrases, in their order, under the first image."""
        return self._states_KMNC[:, 0]
