"""Which files a set of dialogues is in: InternVL's meta file, or one `.jsonl` by itself."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vision_agent.data.annotations.faults import Faults
from vision_agent.errors import InputError, bad_argument

_META_KEYS = ("annotation", "root")


@dataclass(frozen=True)
class DialogueFile:
    """One `.jsonl` of dialogues.

    Attributes:
        name: of the set, as the meta file has it.
        annotation: the file; root: the folder that its images are in.
        repeat: how often its lines are learned from in a round; below 1, the share of lines, from the first on.
        augment: show its images as JPEGs of lower quality, by chance.
        max_tiles: most tiles of an image; None for the training's.
    """

    name: str
    annotation: Path
    root: Path
    repeat: float = 1
    augment: bool = False
    max_tiles: int | None = None

    def lines(self) -> list[tuple[int, str]]:
        """Return the lines that are learned from, with their numbers from 1; each once.

        Raises:
            UnicodeDecodeError: it is no text.
        """
        numbered = list(enumerate(self.annotation.read_text("utf-8").splitlines(), start=1))
        return numbered[: int(len(numbered) * self.repeat)] if self.repeat < 1 else numbered


def is_dialogue_data(path: str | Path) -> bool:
    """Return whether a file is of dialogues, by its name or, for a JSON, by what it says."""
    path = Path(path)
    if path.suffix.lower() == ".jsonl":
        return True
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    try:
        content = json.loads(path.read_text("utf-8"))
    except (ValueError, OSError):
        return False  # whoever reads it as something else tells what is wrong
    if not isinstance(content, dict) or not content:
        return False
    return all(isinstance(each, dict) and "annotation" in each for each in content.values())


def dialogue_files(path: Path, images: Path | None, faults: Faults) -> list[DialogueFile]:
    """Return the files that a meta file names, or a `.jsonl` as the only one.

    Args:
        images: the folder of the images of a `.jsonl`; None for the folder that it is in.

    Raises:
        InputError: no such file, or a folder of images for a meta file, which names its own.
    """
    if not path.is_file():
        raise InputError(bad_argument("data", "a .jsonl of dialogues or a meta file that exists", str(path)))
    if path.suffix.lower() == ".jsonl":
        return [DialogueFile(path.stem, path, path.parent if images is None else images)]
    if images is not None:
        expected = "left out for a meta file, whose sets name their own `root`"
        raise InputError(bad_argument("images", expected, str(images)))
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise InputError(f"the meta file {str(path)!r} is no JSON: {error}") from error
    if not isinstance(content, dict) or not content:
        raise InputError(
            f"the meta file {str(path)!r} must map names of sets to their files, but holds {content!r:.80}"
        )
    found = [_dialogue_file(path, name, each, faults) for name, each in content.items()]
    return [each for each in found if each is not None]


def _dialogue_file(meta: Path, name: str, said: Any, faults: Faults) -> DialogueFile | None:
    before = len(faults.found)

    def fault(detail: str) -> None:
        faults.add("bad set in the meta file", meta, repr(name), detail, fatal=True)

    if not isinstance(said, Mapping):
        fault(f"expected an object with {' and '.join(_META_KEYS)}, but got {said!r:.80}")
        return None
    for key in _META_KEYS:
        if not isinstance(said.get(key), str):
            fault(f"`{key}` must be a path, but got {said.get(key)!r:.80}")
    repeat, most, augment = said.get("repeat_time", 1), said.get("max_dynamic_patch"), said.get("data_augment", False)
    number = isinstance(repeat, int | float) and not isinstance(repeat, bool)
    if not number or repeat <= 0 or (repeat > 1 and repeat != int(repeat)):
        fault(f"`repeat_time` must be a share below 1 or a whole number, but got {repeat!r:.80}")
    if most is not None and (type(most) is not int or not 1 <= most <= 40):
        fault(f"`max_dynamic_patch` must be a whole number from 1 to 40, but got {most!r:.80}")
    if not isinstance(augment, bool):
        fault(f"`data_augment` must be true or false, but got {augment!r:.80}")
    if len(faults.found) > before:
        return None
    annotation, root = (_beside(meta, str(said[key])) for key in _META_KEYS)
    if annotation.suffix.lower() != ".jsonl" or not annotation.is_file():
        fault(f"`annotation` must be a .jsonl that exists, but got {str(annotation)!r}")
        return None
    return DialogueFile(name, annotation, root, repeat, augment, most)


def _beside(meta: Path, named: str) -> Path:
    """A path as the official script takes it, from where it is started; else from where the meta file is."""
    path = Path(named)
    return path if path.is_absolute() or path.exists() else meta.parent / path
