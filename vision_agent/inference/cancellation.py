"""Cancellation: one event that stops an answer whose caller has gone."""

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")

# An event that is set when nobody waits any longer for the answers of this context: `InferenceEngine.generate` stops.
CANCELLED: ContextVar[threading.Event | None] = ContextVar("CANCELLED", default=None)


def until_cancelled(steps: Iterator[T], event: threading.Event | None) -> Iterator[T]:
    """Yield every step. Raises CancelledError after the step during which the event was set."""
    for step in steps:
        yield step
        raise_if_cancelled(event)


def raise_if_cancelled(event: threading.Event | None) -> None:
    """Raise CancelledError if the event is set."""
    if event is not None and event.is_set():
        raise CancelledError
