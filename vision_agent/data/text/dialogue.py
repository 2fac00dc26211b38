"""What is said in training: phrases with their boxes, requests with their answers."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PhraseTarget:
    """A phrase and the boxes it names.

    Attributes:
        phrase: as asked.
        owned: indices of the scene's boxes it names; empty for an absent object.
        ignored: boxes (xyxy, pixels) where it is neither right nor wrong.
    """

    phrase: str
    owned: tuple[int, ...]
    ignored: tuple[NDArray[np.float32], ...] = ()


@dataclass(frozen=True)
class Part:
    """A run of an answer, tokenised as a piece of its own.

    Attributes:
        text: its words, without the routing token.
        route: name of the route whose token ends the part, None for plain words.
        target: what the decoder of that route is to find, where the image tells.
        given: written by the agent, not by the model: read, never predicted (see `vision_agent.inference.evidence`).
    """

    text: str
    route: str | None = None
    target: PhraseTarget | None = None
    given: bool = False


@dataclass(frozen=True)
class Exchange:
    """A request and its answer.

    Attributes:
        answer: its first words; `route` names the route whose token ends them, with its `target`.
        then: what follows them in the same answer.
    """

    request: str
    answer: str
    route: str | None = None
    target: PhraseTarget | None = None
    then: tuple[Part, ...] = ()

    @property
    def parts(self) -> tuple[Part, ...]:
        """The whole answer. The end token follows the last part."""
        return (Part(self.answer, self.route, self.target), *self.then)
