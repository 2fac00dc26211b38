"""Opens files of named tensors: safetensors, torch's own and Paddle's, one file or the shards that an index names.

Tensors of safetensors files, and of torch's newer ones, lie in the file until they are used.
"""

import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vision_agent.errors import CheckpointError, first_line
from vision_agent.model.checkpoint_files import read_object, weight_map
from vision_agent.model.paddle_files import FORMAT, INDEX, SINGLE, PaddleFile, as_torch

# A mapped file takes memory for what was read of it; it is mapped anew after so many bytes.
_MAPPED_BYTES = 32 * 2**20
# What ends the names of weights in MXFP4.
_COUNTED = ("position_ids", "num_batches_tracked")  # no weights
_PACKED = ("_proj_blocks", "_proj_scales")


class WeightFile(Protocol):
    """A file of named tensors."""

    path: Path

    def keys(self) -> list[str]: ...

    def tensor(self, key: str) -> Tensor: ...


class _SafetensorsFile:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._open()

    def _open(self) -> None:
        self._read = 0
        try:
            file: Any = safe_open(self.path, framework="pt")
            self._file = file
            metadata: dict[str, str] | None = file.metadata()
            self._turned = (metadata or {}).get("format") == FORMAT
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{self.path.name} is truncated or damaged: {first_line(error)}") from error

    def keys(self) -> list[str]:
        return list(self._file.keys())

    def tensor(self, key: str) -> Tensor:
        if self._read > _MAPPED_BYTES:
            self._open()
        try:
            tensor: Tensor = self._file.get_tensor(key)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{key} in {self.path.name} cannot be read: {first_line(error)}") from error
        self._read += tensor.nbytes
        return as_torch(key, tensor) if self._turned else tensor


class _TorchFile:
    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # Files of the old torch format cannot be mapped; they are read whole.
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except Exception as error:  # torch raises many kinds for a damaged file
            raise CheckpointError(f"{path.name} is truncated or damaged: {first_line(error)}") from error
        if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
            raise CheckpointError(f"{path.name} holds no named tensors")
        self._state: dict[str, Tensor] = state

    def keys(self) -> list[str]:
        return list(self._state)

    def tensor(self, key: str) -> Tensor:
        return self._state[key]


def _open_file(path: Path) -> WeightFile:
    if path.suffix == ".pdparams":
        return PaddleFile(path)
    return _SafetensorsFile(path) if path.suffix == ".safetensors" else _TorchFile(path)


def open_weights(folder: Path, *, exact: bool = True) -> list[WeightFile]:
    """Open the weight files of a folder, each tensor in exactly one of them.

    Args:
        exact: an index must name every tensor of its files, and no other.

    Raises:
        CheckpointError: no weights, a file that is missing or damaged, an index that disagrees with its files.
    """
    forms = [(name, f"{name}.index.json") for name in ("model.safetensors", "pytorch_model.bin")]
    for single, index in (*forms, (SINGLE, INDEX)):
        if (folder / single).is_file():
            return [_open_file(folder / single)]
        if (folder / index).is_file():
            return _open_shards(folder, index, exact)
    raise CheckpointError(f"the folder {str(folder)!r} has no weights: expected model.safetensors or its index")


def _open_shards(folder: Path, index: str, exact: bool) -> list[WeightFile]:
    places = weight_map(read_object(folder / index, str(folder)), str(folder), index)
    files: list[WeightFile] = []
    for name in sorted(set(places.values())):
        if not (folder / name).is_file():
            raise CheckpointError(f"{index} names the file {name!r}, which is missing")
        file = _open_file(folder / name)
        files.append(file)
        if not exact:
            continue
        held, listed = set(file.keys()), {key for key, place in places.items() if place == name}
        if listed - held:
            raise CheckpointError(f"{index} says that {name} holds {listed_names(listed - held)}, but it does not")
        if held - listed:
            raise CheckpointError(f"{name} holds {listed_names(held - listed)}, which {index} does not say")
    return files


def stored_dtype(folder: Path, *, exact: bool = True) -> torch.dtype:
    """Return the number format of a folder's weights, by its first tensor; `exact` is as for `open_weights`.

    Raises:
        CheckpointError: see `load_weights`.
    """
    for file in open_weights(folder, exact=exact):
        for key in file.keys():
            return file.tensor(key).dtype
    raise CheckpointError(f"the weight files in {str(folder)!r} are empty")


def refuse_packed(names: Collection[str]) -> None:
    """Refuse experts in MXFP4, as openai/gpt-oss has them; InternVL's own are bf16.

    Raises:
        CheckpointError: a tensor of packed weights among the names.
    """
    packed = next((name for name in names if name.endswith(_PACKED)), None)
    if packed is not None:
        raise CheckpointError(
            f"the experts are packed in MXFP4 ({packed}), which is not supported; unpack them with transformers "
            "(`Mxfp4Config(dequantize=True)`) and save the model again"
        )


def refuse_integers(files: Sequence[WeightFile]) -> None:
    """Refuse weights that are whole numbers: they have scales, which nothing here reads.

    Raises:
        CheckpointError: such a tensor.
    """
    for file in files:
        for key in file.keys():
            dtype = file.tensor(key).dtype
            if not dtype.is_floating_point and not key.endswith(_COUNTED):
                raise CheckpointError(
                    f"{key} in {file.path.name} is {str(dtype).removeprefix('torch.')}: the weights are quantized; "
                    "load the checkpoint that was not quantized"
                )


def listed_names(names: Sequence[str] | set[str]) -> str:
    """Return all names in one line, or the first ones of very many."""
    ordered = sorted(names)
    return ", ".join(ordered[:40]) + (f" and {len(ordered) - 40} more" if len(ordered) > 40 else "")
