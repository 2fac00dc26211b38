"""Cancellation: one event that stops work whose caller has gone.

Whatever takes long asks between its steps: tokens, steps of drawing, frames, pages, images. Plug-ins may, too.
"""

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")

# An event that is set when nobody waits any longer for the results of this context.
CANCELLED: ContextVar[threading.Event | None] = ContextVar("CANCELLED", default=None)


def until_cancelled(steps: Iterable[T], event: threading.Event | None = None) -> Iterator[T]:
    """Yield every step. Raises CancelledError after the step during which the event was set.

    `event`: that of `CANCELLED` if None.
    """
    for step in steps:
        yield step
        raise_if_cancelled(event)


def raise_if_cancelled(event: threading.Event | None = None) -> None:
    """Raise CancelledError if the event is set, or, for None, that of `CANCELLED`."""
    event = event or CANCELLED.get()
    if event is not None and event.is_set():
        raise CancelledError
