"""Fingerprints: which weights a model was loaded with, whatever their file format, number format and device are.

A fixed sample of every tensor is taken under the tensor's native name, from the weight files: values in memory may have
been rounded. Position embeddings are left out, which are resized when an original folder is converted.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from vision_agent.model.lora import CONFIG_FILE, WEIGHTS_FILE
from vision_agent.model.weight_files import open_weights
from vision_agent.model.xtuner_files import is_xtuner, read_xtuner

_VALUES = 1024  # of a tensor, evenly spread, the first and the last among them
_DIGITS = 32
_INPUT_TABLE, _OUTPUT_TABLE = "model.language_model.embed_tokens.weight", "lm_head.weight"
_RESIZED = "model.vision_tower.embeddings.position_embeddings"
# What of a LoRA's settings changes what it does to the weights.
_LORA_SETTINGS = ("r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "fan_in_fan_out")


class WeightSample:
    """Samples of named tensors, in any order."""

    def __init__(self) -> None:
        self._parts: dict[str, bytes] = {}

    def add(self, name: str, tensor: Tensor) -> None:
        """Take the sample of a tensor; `name` is its native one. One without storage has none."""
        if name == _RESIZED or tensor.is_meta:
            return
        flat = tensor.detach().reshape(-1)
        places = torch.linspace(0, len(flat) - 1, min(len(flat), _VALUES), dtype=torch.float64).round().long()
        values = flat[places].float().contiguous()
        self._parts[name] = f"{name} {tuple(tensor.shape)} ".encode() + values.numpy().tobytes()

    def digest(self) -> str:
        """Return a SHA-256 over all samples, 32 hexadecimal digits; "" without any."""
        if not self._parts:
            return ""
        parts = dict(self._parts)
        # One table for both is written once natively, and may be written twice originally.
        if _INPUT_TABLE in parts:
            parts.setdefault(
                _OUTPUT_TABLE, parts[_INPUT_TABLE].replace(_INPUT_TABLE.encode(), _OUTPUT_TABLE.encode(), 1)
            )
        return hashlib.sha256(b"".join(parts[name] for name in sorted(parts))).hexdigest()[:_DIGITS]


def native_fingerprint(folder: Path) -> str:
    """Return the fingerprint of a native folder's weights.

    Raises:
        CheckpointError: no weights, or damaged ones.
    """
    sample = WeightSample()
    for file in open_weights(folder, exact=False):
        for key in file.keys():
            sample.add(todays_name(key), file.tensor(key))
    return sample.digest()


def with_lora(fingerprint: str, folders: Sequence[Path]) -> str:
    """Return the fingerprint of a model that LoRA adapters are added to, in whatever order."""
    if not folders:
        return fingerprint
    added = []
    for folder in folders:
        sample = WeightSample()
        if is_xtuner(folder):
            tuned = read_xtuner(folder)
            tensors = dict(tuned.whole)
            for name, (down, up, scale) in tuned.loras.items():
                tensors |= {f"{name}.A": down, f"{name}.B": up, f"{name}.scale": torch.tensor([scale])}
            for name, tensor in tensors.items():
                sample.add(name, tensor)
            added.append(sample.digest())
            continue
        for name, tensor in load_file(folder / WEIGHTS_FILE).items():
            sample.add(name, tensor)
        settings = json.loads((folder / CONFIG_FILE).read_text("utf-8"))
        counted = json.dumps([settings.get(name) for name in _LORA_SETTINGS], sort_keys=True)
        added.append(sample.digest() + counted)
    return hashlib.sha256("\n".join([fingerprint, *sorted(added)]).encode()).hexdigest()[:_DIGITS]


def file_fingerprint(path: Path) -> str:
    """Return a SHA-256 over a weight file's size and its first and last 64 KiB, 32 hexadecimal digits.

    It tells files apart, and not what they hold: adapters saved by versions before 0.2 remember it.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(65536)
        file.seek(max(0, size - 65536))
        tail = file.read()
    return hashlib.sha256(str(size).encode() + head + tail).hexdigest()[:_DIGITS]


def todays_name(name: str) -> str:
    """Return a native tensor's name as transformers has it now; the first native folders had others."""
    if name.startswith("language_model.lm_head."):
        return name.removeprefix("language_model.")
    if name.startswith("language_model.model."):
        return "model.language_model." + name.removeprefix("language_model.model.")
    return f"model.{name}" if name.startswith(("vision_tower.", "multi_modal_projector.")) else name
