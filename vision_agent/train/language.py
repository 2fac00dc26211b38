"""The text-only stage: names, what they are near to, and how a request becomes a routed answer.

CLIP's text vectors teach which names mean similar things: the query states of "zebra" shall predict the vector of
"zebra". Routed requests with any words teach copying the phrase into the answer.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from vision_agent.train import phrases as words
from vision_agent.train.colour import COLOURS
from vision_agent.train.samples import Exchange


class NameTeacher(nn.Module):
    """Predicts a name's CLIP vector (512) from its query states; used in training only."""

    def __init__(self, hidden_size: int, names: Sequence[str], vectors: NDArray[np.float32]) -> None:
        super().__init__()
        self.head = nn.Linear(hidden_size, vectors.shape[1])
        # CLIP's text vectors share a large mean; what tells names apart is the rest.
        centred = vectors - vectors.mean(axis=0)
        self._vectors = F.normalize(torch.from_numpy(centred), dim=-1)
        self._rows = {name: row for row, name in enumerate(names)}

    def forward(self, states_KNC: Tensor, phrases: Sequence[str]) -> Tensor:
        """1 - cosine, averaged over the phrases that have a vector; 0 without any."""
        known = [(place, self._rows[phrase]) for place, phrase in enumerate(phrases) if phrase in self._rows]
        if not known:
            return states_KNC.sum() * 0
        places, rows = (torch.tensor(side) for side in zip(*known, strict=True))
        predicted = self.head(states_KNC[places].mean(dim=1).float())
        return 1 - F.cosine_similarity(predicted, self._vectors[rows], dim=-1).mean()


class LanguageMix:
    """Rows of the text-only stage, by number like the pictures'."""

    def __init__(self, seed: tuple[int, ...], names: Sequence[str], captions: Sequence[str], phrases: int = 16) -> None:
        self._seed = seed
        self._names = list(names)
        self._captions = list(captions)
        self._phrases = min(phrases, len(self._names))

    def row(self, number: int) -> tuple[list[str], list[Exchange]]:
        """Names to be told apart, and exchanges."""
        rng = np.random.default_rng((*self._seed, number))
        names = [self._names[index] for index in rng.choice(len(self._names), self._phrases, replace=False)]
        exchanges = [self._routed(rng) for _ in range(4)]
        if self._captions:
            caption = self._captions[rng.integers(len(self._captions))].lower().rstrip(". ")
            exchanges.append(Exchange(words.CAPTION[rng.integers(len(words.CAPTION))], caption))
        return names, exchanges

    def _routed(self, rng: np.random.Generator) -> Exchange:
        phrase = self._names[rng.integers(len(self._names))]
        kind = rng.random()
        if kind < 0.3:
            phrase = f"{COLOURS[rng.integers(len(COLOURS))]} {phrase}"
        elif kind < 0.5:
            phrase = words.plural(phrase)
        elif kind < 0.8 and self._captions:
            # Any words at all: copying must not depend on knowing the thing.
            told = self._captions[rng.integers(len(self._captions))].lower().rstrip(". ").split()
            start = int(rng.integers(0, max(1, len(told) - 3)))
            phrase = " ".join(told[start : start + int(rng.integers(1, 6))])
        return Exchange(words.where_request(phrase, rng), phrase, "det")


def corpus(names: Sequence[str], captions: Sequence[str]) -> list[str]:
    """Texts to train the tokenizer on."""
    templates = (*words.WHERE, *words.PRESENCE, *words.COUNT, *words.COLOUR, *words.CAPTION)
    asked = [template.format(name) for name in names for template in templates[:3]]
    return [*captions, *names, *names, *asked, *templates, *(COLOURS * 20), *(words.COUNT_WORDS * 20)]
