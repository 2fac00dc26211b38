"""What an answer may say, token by token: grammars plug in here.

A `Constraint` is made once for a tokenizer and may be shared; each answer gets a state of its own from `start`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


class ConstraintState(ABC):
    """Where one answer stands in its grammar."""

    @abstractmethod
    def mask(self, scores_V: Tensor) -> Tensor:
        """Return the scores (V,) of the next token, minus infinity where the grammar does not allow it.

        End tokens are allowed exactly where the answer may end, so at least one token always is.
        """

    @property
    @abstractmethod
    def complete(self) -> bool:
        """Whether the answer may end here."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the grammar made of the answer against the model's will, in sentences: a number that was cut."""
        return ()

    def forces(self, token: int) -> bool:
        """Return whether nothing else than what `token` writes could come next, however tokens cut it.

        What a grammar forces says nothing about how sure the model is. Asked before `accept`.
        """
        return False

    @abstractmethod
    def accept(self, token: int) -> None:
        """Continue with `token`, which the mask allowed. Called for every generated token, an end token included."""


class Constraint(ABC):
    """A grammar that answers are decoded under."""

    @abstractmethod
    def start(self) -> ConstraintState:
        """Return the state of a new answer."""


@dataclass(frozen=True)
class WrittenGrammar(Constraint):
    """A grammar in words, for a remote engine that holds the model to it itself.

    Attributes:
        choices: the texts that an answer may be; none where it is JSON.
        schema: the JSON schema; None for choices.
    """

    choices: tuple[str, ...] = ()
    schema: Mapping[str, Any] | None = None

    def start(self) -> ConstraintState:
        """Raise TypeError: no answer is written here."""
        raise TypeError("a written grammar is for remote engines; nothing here decodes under it")
