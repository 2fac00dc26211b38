"""TODO docstring."""

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextvars import ContextVar

from vision_agent.generation.decoding import Written

# An event that is set when nobody waits any longer for the answers written in this context: `write` then stops.
ABANDONED: ContextVar[threading.Event | None] = ContextVar("ABANDONED", default=None)


def _while_wanted(growing: Iterator[Written], abandoned: threading.Event | None) -> Iterator[Written]:
    for written in growing:
        yield written
        _raise_if_set(abandoned)


def _raise_if_set(abandoned: threading.Event | None) -> None:
    if abandoned is not None and abandoned.is_set():
        raise CancelledError
