"""PaddlePaddle's weights, as PaddleMIX has InternVL2's: `.pdparams`, and safetensors that Paddle wrote.

A `.pdparams` file is one pickle of names and numpy arrays. It is read by `restricted_pickle`, which executes nothing.
Names are those of InternVL's original format, but `nn.Linear` keeps its weight the other way round, inputs first; bf16
is stored as bare 16-bit patterns.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vision_agent.errors import CheckpointError, first_line
from vision_agent.model.restricted_pickle import read_pickle

SINGLE, INDEX = "model_state.pdparams", "model_state.pdparams.index.json"
FORMAT = "pd"  # what safetensors' metadata say of files that Paddle wrote
_NAMES_OF_PARAMETERS = "StructuredToParameterName@@"
_CUT = "UnpackBigParamInfor@@"  # arrays that protocols 2 and 3 could not hold whole
_LINEAR = re.compile(
    r".*\b(attn\.(qkv|proj)|mlp\.fc[12]|mlp1\.[13]|attention\.(wqkv|wo)|feed_forward\.w[123]|language_model\.output"
    r"|self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj|lm_head)\.weight"
)


def as_torch(key: str, tensor: Tensor) -> Tensor:
    """Return a tensor of a Paddle file the way torch has it: weights of linear layers are turned.

    The head of words is told by its longer side, since some versions keep it as it is.
    """
    if tensor.ndim != 2 or _LINEAR.fullmatch(key) is None:
        return tensor
    head = key.endswith(("lm_head.weight", "language_model.output.weight"))
    return tensor if head and tensor.shape[0] > tensor.shape[1] else tensor.T.contiguous()


class PaddleFile:
    """The named tensors of a `.pdparams` file, which is read whole.

    Raises:
        CheckpointError: the file is damaged, or no plain state dict: it asks for anything but numpy's arrays.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open(path, "rb") as stream:
                held = read_pickle(stream, arrays=True)
            self._arrays = _whole(held)
        except (ValueError, OSError, MemoryError, RecursionError) as error:
            raise CheckpointError(
                f"{path.name} is no state dict as Paddle writes it, or it is damaged: {first_line(error)}"
            ) from error

    def keys(self) -> list[str]:
        """Return the names of its tensors."""
        return list(self._arrays)

    def tensor(self, key: str) -> Tensor:
        """Return a tensor, the way torch has it."""
        array = self._arrays[key]
        if array.dtype == np.uint16:
            return as_torch(key, torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16))
        return as_torch(key, torch.from_numpy(array.copy()))


def _whole(held: Any) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays by name; those that were cut into slices are joined."""
    if not isinstance(held, dict):
        raise ValueError("something else than a state dict")
    cut = held.get(_CUT, {})
    arrays = {key: value for key, value in held.items() if key not in (_NAMES_OF_PARAMETERS, _CUT)}
    for key, value in arrays.items():
        if not isinstance(key, str) or not isinstance(value, np.ndarray):
            raise ValueError(f"{str(key)[:80]!r} is no array")
        if not value.dtype.isnative:
            raise ValueError(f"{key[:80]!r} has the bytes of another kind of machine")
    if not isinstance(cut, Mapping):
        raise ValueError("slices that are told in another form than Paddle's")
    for key, told in cut.items():
        slices = told.get("slices") if isinstance(told, Mapping) else None
        shape = told.get("OriginShape") if isinstance(told, Mapping) else None
        if not isinstance(slices, list) or not slices or not all(type(s) is str and s in arrays for s in slices):
            raise ValueError(f"slices of {str(key)[:80]!r} that are not there")
        if not isinstance(shape, list | tuple) or not all(type(side) is int for side in shape):
            raise ValueError(f"slices of {str(key)[:80]!r} without a shape")
        arrays[key] = np.concatenate([arrays.pop(each).ravel() for each in slices]).reshape(tuple(shape))
    return arrays
