"""Weights that an adapter has in common with one in the folder beside its own: they are on the disk once.

The default's `[SEG]` finds objects with the box decoder of `[DET]`, all but the parts that read its own query states.
A digest of the weights is kept with their names, so that another `[DET]` beside it is an error, never another result.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vision_agent.errors import CheckpointError


class SharedTensors(BaseModel):
    """Which weights of an adapter are in the file of which other one.

    Attributes:
        adapter: name of the other's folder, in the same parent folder.
        ours, theirs: prefixes of the names, in this adapter and in the other.
        names: what follows the prefixes, sorted.
        digest: SHA-256 of names, dtypes, shapes and values, in that order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    adapter: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    ours: str
    theirs: str
    names: tuple[str, ...]
    digest: str


def find_shared(folder: Path, tensors: Mapping[str, Tensor], adapter: str, ours: str, theirs: str) -> SharedTensors:
    """Find which of an adapter's `tensors` the one named `adapter`, beside `folder`, has too, bit by bit.

    Raises:
        CheckpointError: that adapter is missing or damaged.
    """
    candidates = sorted(name.removeprefix(ours) for name in tensors if name.startswith(ours))
    other = _read(folder, adapter, theirs, candidates)
    names = tuple(name for name in candidates if _equal(tensors[ours + name], other.get(name)))
    digest = _digest({name: other[name] for name in names})
    return SharedTensors(adapter=adapter, ours=ours, theirs=theirs, names=names, digest=digest)


def load_shared(folder: Path, shared: SharedTensors) -> dict[str, Tensor]:
    """Load the weights that the adapter in `folder` has in common with another, under its own names.

    Raises:
        CheckpointError: the other adapter is missing, damaged, or has other weights.
    """
    found = _read(folder, shared.adapter, shared.theirs, shared.names)
    if _digest(found) != shared.digest:
        raise CheckpointError(
            f"the adapter {str(folder)!r} shares weights with {shared.adapter!r} beside it, which has others: "
            f"keep the two as they were saved, together"
        )
    return {shared.ours + name: tensor for name, tensor in found.items()}


def _read(folder: Path, adapter: str, prefix: str, names: "tuple[str, ...] | list[str]") -> dict[str, Tensor]:
    path = folder.resolve().parent / adapter / "adapter.safetensors"
    if not path.is_file():
        raise CheckpointError(
            f"the adapter {str(folder)!r} shares weights with {adapter!r} beside it, but {str(path)!r} is missing: "
            f"copy both folders"
        )
    try:
        with safe_open(path, "pt") as file:
            there = set(file.keys())
            return {name: file.get_tensor(prefix + name) for name in names if prefix + name in there}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"the adapter {str(path.parent)!r} is damaged: {error}") from error


def _equal(one: Tensor, other: Tensor | None) -> bool:
    return other is not None and one.dtype == other.dtype and torch.equal(one, other)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
