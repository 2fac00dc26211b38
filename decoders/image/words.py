"""The words the small generator was taught: prompts to ids, and which words of a prompt it does not know."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor

LENGTH = 16  # words of a prompt that are read
_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")
_PADDING, _UNKNOWN = 0, 1


class Words:
    """A fixed vocabulary of single words, lower case.

    Args:
        words: the vocabulary; ids follow its order. Id 0 pads, id 1 is any other word.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)
        self._ids = {word: number for number, word in enumerate(self.words, start=2)}

    def __len__(self) -> int:
        """Number of ids."""
        return len(self.words) + 2

    def ids(self, prompts: Sequence[str]) -> Tensor:
        """Return int64 (K, LENGTH): words beyond the length are cut, shorter prompts padded."""
        rows = torch.full((len(prompts), LENGTH), _PADDING, dtype=torch.long)
        for row, prompt in zip(rows, prompts, strict=True):
            found = [self._ids.get(word, _UNKNOWN) for word in _split(prompt)[:LENGTH]]
            row[: len(found)] = torch.tensor(found, dtype=torch.long)
        return rows

    def unknown(self, prompt: str) -> tuple[str, ...]:
        """Return the prompt's words that are not in the vocabulary, each once, in their order."""
        return tuple(dict.fromkeys(word for word in _split(prompt) if word not in self._ids))


def _split(prompt: str) -> list[str]:
    return _WORD.findall(prompt.lower())
