"""A cache of the keys and values of prompts, so that no beginning is computed twice.

A second question on the same image, and the next round of a chat, begin like a prompt that was read before. The
longest common beginning is taken from the cache; only the rest is fed to the model. Entries are never written to, so
any number of answers may continue one entry.

Shape suffixes: H heads, L tokens, D head size.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from vision_agent.model.attention import cache_of, full_cache

# Shorter beginnings are computed again: taking them over costs more than it saves.
LEAST_SHARED = 16


class PrefixCache:
    """Prompts and answers of recent calls with their keys and values, bounded by bytes. Safe to share between threads.

    A prompt is known by its *marks*: token ids, and at image tokens numbers that name the image.

    Args:
        max_bytes: bound on keys and values kept.
    """

    def __init__(self, max_bytes: int = 512 * 2**20) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[int, _Entry] = OrderedDict()
        self._bytes = 0
        self._next = 0
        self._lock = threading.Lock()

    def take(self, marks: Sequence[int]) -> tuple[DynamicCache, int]:
        """Return a cache that holds a beginning of this prompt, and how many tokens it holds (0 if nothing fits).

        At least the prompt's last token is left to be fed, since its state predicts the answer.
        """
        wanted = np.asarray(marks, dtype=np.int64)
        with self._lock:
            best, shared = None, 0
            for number, entry in self._entries.items():
                common = _common(entry.marks, wanted[:-1])
                if common > shared:
                    best, shared = number, common
            if best is None or shared < LEAST_SHARED:
                return full_cache(), 0
            self._entries.move_to_end(best)
            layers = self._entries[best].layers
        return cache_of(
            (keys_1HLD[:, :, :shared], values_1HLD[:, :, :shared]) for keys_1HLD, values_1HLD in layers
        ), shared

    def keep(self, marks: Sequence[int], cache: DynamicCache) -> None:
        """Keep a prompt with its answer. `cache` holds one row, and at least as many tokens as there are marks."""
        held = min(len(marks), cache.get_seq_length())
        pairs: list[tuple[Tensor, Tensor]] = []
        for layer in cache.layers:
            if type(layer) is not DynamicLayer or layer.keys is None or layer.values is None:
                return  # a layer of another kind may have dropped its beginning
            pairs.append((layer.keys[:, :, :held], layer.values[:, :, :held]))
        layers = tuple(pairs)
        entry = _Entry(np.asarray(marks[:held], dtype=np.int64), layers)
        with self._lock:
            # What the new entry (nearly) contains need not be kept beside it.
            for number, other in list(self._entries.items()):
                if _common(other.marks, entry.marks) >= 0.9 * len(other.marks):
                    self._drop(number)
            if entry.nbytes > self._max_bytes:
                return
            self._entries[self._next] = entry
            self._next += 1
            self._bytes += entry.nbytes
            while self._bytes > self._max_bytes:
                self._drop(next(iter(self._entries)))

    def clear(self) -> None:
        """Forget all prompts."""
        with self._lock:
            self._entries.clear()
            self._bytes = 0

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values kept now."""
        return self._bytes

    def _drop(self, number: int) -> None:
        self._bytes -= self._entries.pop(number).nbytes


class _Entry:
    """One prompt with its answer."""

    def __init__(self, marks: NDArray[np.int64], layers: tuple[tuple[Tensor, Tensor], ...]) -> None:
        self.marks = marks
        self.layers = layers
        self.nbytes = sum(tensor.untyped_storage().nbytes() for pair in layers for tensor in pair)


def common_beginning(rows: Sequence[Sequence[int]]) -> int:
    """Return the length of the longest beginning that all rows have in common."""
    first = np.asarray(rows[0], dtype=np.int64)
    return min([len(first), *(_common(first, np.asarray(row, dtype=np.int64)) for row in rows[1:])])


def _common(first: NDArray[np.int64], second: NDArray[np.int64]) -> int:
    """Length of the longest common beginning."""
    size = min(len(first), len(second))
    different = np.flatnonzero(first[:size] != second[:size])
    return int(different[0]) if len(different) else size
