"""Work in a thread for asyncio, such that the model stops when nobody waits for it any longer."""

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

R = TypeVar("R")


async def in_thread(work: Callable[[], R]) -> R:
    """What `work` gives. When the awaiting task is cancelled, the model is free after the token it is writing."""
    from vision_agent.inference.cancellation import ABANDONED

    abandoned = threading.Event()

    def watched() -> R:
        ABANDONED.set(abandoned)  # in the thread's own copy of the context
        return work()

    try:
        return await asyncio.to_thread(watched)
    except asyncio.CancelledError:
        abandoned.set()
        raise
