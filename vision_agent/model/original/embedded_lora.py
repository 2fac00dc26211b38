"""LoRA inside a full checkpoint, as the official training saves it: PEFT's names within the original ones.

`use_llm_lora` and `use_backbone_lora` of `config.json` are the ranks; the official code scales by 2. Adapters are
merged while tensors are read, one at a time (https://arxiv.org/abs/2106.09685).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vision_agent.errors import CheckpointError
from vision_agent.model.weight_files import WeightFile, listed_names

_WRAPPED = re.compile(r"(language_model|vision_model)\.base_model\.model\.(.+)")
_LORA = re.compile(r"(.+)\.lora_([AB])\.([^.]+)\.weight")
_SETTINGS = {"language_model": "use_llm_lora", "vision_model": "use_backbone_lora"}
_SCALE = 2.0  # lora_alpha / r in the official code


@dataclass(frozen=True)
class _Place:
    file: WeightFile
    key: str

    def tensor(self) -> Tensor:
        return self.file.tensor(self.key)


class _MergedFile:
    """A weight file under original names; `path` is the file's own."""

    def __init__(self, path: Path, places: Mapping[str, _Place], loras: Mapping[str, Mapping[str, _Place]]) -> None:
        self.path = path
        self._places = places
        self._loras = loras

    def keys(self) -> list[str]:
        return list(self._places)

    def tensor(self, key: str) -> Tensor:
        base = self._places[key].tensor()
        lora = self._loras.get(key)
        if lora is None:
            return base
        up, down = lora["B"].tensor().float(), lora["A"].tensor().float()
        if up.ndim != 2 or down.ndim != 2 or up.shape[1] != down.shape[0]:
            raise CheckpointError(f"the LoRA of {key} has the shapes {tuple(up.shape)} and {tuple(down.shape)}")
        change = up @ down
        if change.shape != base.shape:
            raise CheckpointError(
                f"the LoRA of {key} has the shape {tuple(change.shape)}; expected {tuple(base.shape)}"
            )
        return (base.float() + _SCALE * change).to(base.dtype)


def merge_embedded(files: Sequence[WeightFile], content: Mapping[str, Any]) -> list[WeightFile]:
    """Return weight files under plain original names, LoRA inside them merged; those without any as they are.

    Args:
        files: of an original folder.
        content: its `config.json`.

    Raises:
        CheckpointError: LoRA that `config.json` does not know of, or the other way round; half of one, one without
            weights to change, or several adapters.
    """
    names = [key for file in files for key in file.keys()]
    wrapped = {found[1] for key in names if (found := _WRAPPED.fullmatch(key)) is not None}
    for part, setting in _SETTINGS.items():
        if bool(content.get(setting)) != (part in wrapped):
            said = f"config.json says {setting} {content.get(setting)!r:.40}"
            raise CheckpointError(
                f"{said}, but the weights have {'LoRA' if part in wrapped else 'no LoRA'} in {part!r}"
            )
    if not wrapped:
        return list(files)
    places: dict[WeightFile, dict[str, _Place]] = {file: {} for file in files}
    loras: dict[str, dict[str, _Place]] = {}
    adapters: set[str] = set()
    for file in files:
        for key in file.keys():
            found = _WRAPPED.fullmatch(key)
            name = key if found is None else f"{found[1]}.{found[2]}"
            lora = _LORA.fullmatch(name) if found is not None else None
            if lora is not None:
                loras.setdefault(f"{lora[1]}.weight", {})[lora[2]] = _Place(file, key)
                adapters.add(lora[3])
            else:
                places[file][name.replace(".base_layer.", ".") if found is not None else name] = _Place(file, key)
    if len(adapters) > 1:
        raise CheckpointError(f"the weights have several LoRA adapters: {', '.join(sorted(adapters))}; expected one")
    bases = {name for own in places.values() for name in own}
    wrong = {name for name, pair in loras.items() if set(pair) != {"A", "B"} or name not in bases}
    if wrong:
        raise CheckpointError(f"LoRA in the weights is half there, or without what it changes: {listed_names(wrong)}")
    return [_MergedFile(file.path, own, loras) for file, own in places.items()]
