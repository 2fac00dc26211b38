"""Loads a SAM checkpoint; the path decides which kind it is."""

from pathlib import Path

from vision_agent.errors import CheckpointError
from vision_agent.model.fingerprint import file_fingerprint, native_fingerprint
from vision_agent.model.original.sa2va import is_sa2va

from .files import read_json
from .network import Network
from .original_network import OriginalNetwork
from .sa2va import Sa2vaNetwork
from .transformers_network import TransformersNetwork

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def load_network(source: Path) -> Network:
    """Load the network of a transformers folder, a Sa2VA folder or a `segment-anything` file, on the CPU.

    Raises:
        CheckpointError: nothing there, damaged or missing weights, or another kind of model.
        MissingExtraError: a file of the `segment-anything` package, and that package is not installed.
    """
    if source.is_dir():
        content = read_json(source / "config.json")
        if is_sa2va(content):
            return Sa2vaNetwork.load_folder(source)
        return TransformersNetwork.load(source, str(content.get("model_type")))
    if source.is_file():
        return OriginalNetwork.load(source)
    raise CheckpointError(f"there is no SAM checkpoint at {str(source)!r}: no such folder or file")


def fingerprints(source: Path) -> tuple[str, ...]:
    """Return what identifies a checkpoint's weights, then what did before version 0.2; nothing where it has none."""
    if source.is_file():
        return (file_fingerprint(source),)
    files = [source / name for name in _WEIGHTS if (source / name).is_file()]
    if not files:
        return ()
    former = [file_fingerprint(files[0])] if files[0].suffix != ".json" else []
    return (native_fingerprint(source), *former)
