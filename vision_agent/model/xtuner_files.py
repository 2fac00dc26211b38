"""xtuner's checkpoints of a fine-tuned InternVL: `iter_1000.pth`, or DeepSpeed's folder of that name.

A file holds what was trained, under the original names behind `model.`: LoRA in PEFT's names, the projector whole. It
is torch's zip, read with `weights_only`; of other objects only those that mmengine's runner adds are known by name, and
each becomes an empty stand-in. The scale of a LoRA is in the run's configuration, which is Python: its text is parsed,
never run.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vision_agent.errors import CheckpointError, first_line

_DEEPSPEED = "mp_rank_00_model_states.pt"
_PARTS = {"language_model": "llm_lora", "vision_model": "visual_encoder_lora"}
_LORA = re.compile(r"(language_model|vision_model)\.base_model\.model\.(.+)\.lora_([AB])(?:\.default)?\.weight")
_MOST_TEXT = 2**20  # characters of a configuration


class _Ignored:
    """Stands for an object that is not needed: takes whatever it is made of, and does nothing."""

    def __new__(cls, *arguments: Any, **named: Any) -> "_Ignored":
        return super().__new__(cls)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        return

    def __setstate__(self, state: Any) -> None:
        return


# What mmengine's runner puts beside the weights: histories of figures, with numpy's arrays and numbers.
_IGNORED = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    "numpy.ndarray",
    "numpy.dtype",
)


@dataclass(frozen=True)
class TunedWeights:
    """What an xtuner checkpoint changes, under original names.

    Attributes:
        whole: tensors that take the place of others.
        loras: of each changed weight the two factors A (r, in) and B (out, r), and the scale.
    """

    whole: Mapping[str, Tensor]
    loras: Mapping[str, tuple[Tensor, Tensor, float]]


def is_xtuner(path: Path) -> bool:
    """Return whether a path is one of xtuner's: a `.pth`, or DeepSpeed's folder."""
    return (path.suffix == ".pth" and path.is_file()) or (path / _DEEPSPEED).is_file()


def read_xtuner(path: Path) -> TunedWeights:
    """Read what a checkpoint changes.

    Raises:
        CheckpointError: a damaged file; one that asks for objects which no checkpoint of xtuner has; LoRA that is half
            there, or whose scale is told neither by the file nor by a configuration beside it.
    """
    held = _load(path / _DEEPSPEED if path.is_dir() else path)
    state = next((held[name] for name in ("state_dict", "module") if isinstance(held.get(name), Mapping)), held)
    tensors = {str(name).removeprefix("model."): tensor for name, tensor in state.items()}
    wrong = [name for name, tensor in tensors.items() if not isinstance(tensor, Tensor)]
    if wrong or not tensors:
        raise CheckpointError(f"{path.name} holds no named tensors" + (f": {wrong[0][:80]!r}" if wrong else ""))
    factors: dict[str, dict[str, Tensor]] = {}
    whole: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        found = _LORA.fullmatch(name)
        if found is None:
            whole[name] = tensor
        else:
            factors.setdefault(f"{found[1]}.{found[2]}.weight", {})[found[3]] = tensor
    stray = [name for name in whole if "lora_" in name or ".base_model." in name]
    if stray or any(set(pair) != {"A", "B"} for pair in factors.values()):
        raise CheckpointError(f"the LoRA in {path.name} is half there, or of another form than xtuner's: {stray[:1]}")
    texts = list(_configurations(held, path)) if factors else []
    scales = {part: _scale(part, texts, path) for part in {name.partition(".")[0] for name in factors}}
    loras = {}
    for name, pair in factors.items():
        rank, alpha = scales[name.partition(".")[0]]
        shapes = tuple(pair["A"].shape), tuple(pair["B"].shape)
        if pair["A"].ndim != 2 or pair["B"].ndim != 2 or not shapes[0][0] == shapes[1][1] == rank:
            raise CheckpointError(f"the LoRA of {name} in {path.name} has the shapes {shapes}; its rank is {rank}")
        loras[name] = (pair["A"], pair["B"], alpha / rank)
    return TunedWeights(whole, loras)


def _load(file: Path) -> Mapping[str, Any]:
    known: list[Any] = [(type(name.rpartition(".")[2], (_Ignored,), {}), name) for name in _IGNORED]
    try:
        with torch.serialization.safe_globals(known):
            held = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        said = first_line(error)
        raise CheckpointError(f"{file.name} is damaged, or asks for objects that no weights need: {said}") from error
    if not isinstance(held, Mapping):
        raise CheckpointError(f"{file.name} holds no named tensors")
    return held


def _configurations(held: Mapping[str, Any], path: Path) -> Iterator[str]:
    """The text of the run's configuration: in the file, and beside it, where mmengine copies it to."""
    meta = held.get("meta")
    if isinstance(meta, Mapping) and isinstance(meta.get("cfg"), str):
        yield meta["cfg"]
    for file in sorted(path.parent.glob("*.py")):
        if file.is_file() and file.stat().st_size <= _MOST_TEXT:
            yield file.read_text("utf-8", "replace")


def _scale(part: str, texts: list[str], path: Path) -> tuple[int, float]:
    """The rank and alpha that a configuration says of a part's LoRA."""
    for text in texts:
        told = _settings_of(_PARTS[part], text)
        rank, alpha = told.get("r"), told.get("lora_alpha")
        if type(rank) is int and rank > 0 and type(alpha) in (int, float):
            assert isinstance(alpha, int | float)
            return rank, float(alpha)
    raise CheckpointError(
        f"{path.name} does not say `{_PARTS[part]}`'s `r` and `lora_alpha`; put the run's configuration (.py) beside it"
    )


def _settings_of(name: str, text: str) -> dict[str, object]:
    """The plain values of `name=dict(...)`, or of a dict with that key, in a Python text."""
    try:
        tree = ast.parse(text[:_MOST_TEXT])
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    for node in ast.walk(tree):
        found: ast.expr | None = None
        if isinstance(node, ast.keyword) and node.arg == name:
            found = node.value
        elif isinstance(node, ast.Dict):
            items = zip(node.keys, node.values, strict=True)
            found = next((value for key, value in items if isinstance(key, ast.Constant) and key.value == name), None)
        elif isinstance(node, ast.Assign) and any(isinstance(to, ast.Name) and to.id == name for to in node.targets):
            found = node.value
        pairs: list[tuple[object, ast.expr]] = []
        if isinstance(found, ast.Call):
            pairs = [(each.arg, each.value) for each in found.keywords]
        elif isinstance(found, ast.Dict):
            keys = (key.value if isinstance(key, ast.Constant) else None for key in found.keys)
            pairs = list(zip(keys, found.values, strict=True))
        if found is not None:
            return {str(key): value.value for key, value in pairs if isinstance(value, ast.Constant)}
    return {}
