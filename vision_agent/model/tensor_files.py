"""Writes safetensors files that others may read as they may read any file of this process."""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file as _save_private
from torch import Tensor


def save_file(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write tensors to a file, with the rights that the process gives to new files.

    safetensors writes through a private temporary file, whose rights stay: nobody but the owner could read the weights
    of a shared folder or of an installed package.
    """
    path.touch()
    rights = path.stat().st_mode & 0o777
    _save_private(dict(tensors), path, metadata=metadata)
    path.chmod(rights)
