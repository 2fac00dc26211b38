"""The memory of images that are being decoded at the same time, in all threads of the process, within a bound."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

BYTES_A_PIXEL = 8  # as decoded, and as RGB: Pillow keeps four bytes of each


class DecodingMemory:
    """Bytes that are taken while an image is decoded. What does not fit beside the others waits for them."""

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._taken = 0

    @contextmanager
    def held(self, count: int, most: int) -> Iterator[None]:
        """Hold `count` bytes, once all that are held come to at most `most`, or none are: one image always may."""
        with self._free:
            self._free.wait_for(lambda: not self._taken or self._taken + count <= most)
            self._taken += count
        try:
            yield
        finally:
            with self._free:
                self._taken -= count
                self._free.notify_all()

    def forget(self) -> None:
        """Begin anew, in a process that was forked from one whose threads held some."""
        self._free = threading.Condition()
        self._taken = 0


MEMORY = DecodingMemory()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=MEMORY.forget)
