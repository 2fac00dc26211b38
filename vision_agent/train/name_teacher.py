"""Teaches which names mean similar objects, by the text vectors of CLIP."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn


class NameTeacher(nn.Module):
    """Predicts a name's CLIP vector (512) from its query states; used in training only."""

    _vectors: Tensor

    def __init__(self, hidden_size: int, names: Sequence[str], vectors: NDArray[np.float32]) -> None:
        super().__init__()
        self.head = nn.Linear(hidden_size, vectors.shape[1])
        # CLIP's text vectors share a large mean; what tells names apart is the rest.
        centred = vectors - vectors.mean(axis=0)
        # Goes to the device with the head, and is no part of what is saved.
        self.register_buffer("_vectors", F.normalize(torch.from_numpy(centred), dim=-1), persistent=False)
        self._rows = {name: row for row, name in enumerate(names)}

    def forward(self, states_KNC: Tensor, phrases: Sequence[str]) -> Tensor:
        """Return 1 - cosine, averaged over the phrases that have a vector; 0 without any."""
        known = [(place, self._rows[phrase]) for place, phrase in enumerate(phrases) if phrase in self._rows]
        if not known:
            return states_KNC.sum() * 0
        places, rows = (torch.tensor(side) for side in zip(*known, strict=True))
        predicted = self.head(states_KNC[places].mean(dim=1).float())
        return 1 - F.cosine_similarity(predicted, self._vectors[rows], dim=-1).mean()
