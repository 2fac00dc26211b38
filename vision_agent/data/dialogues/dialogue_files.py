"""Which files a set of dialogues is in: InternVL's meta file, or one `.jsonl` (or JSON list) by itself."""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vision_agent.data.annotations.faults import Faults
from vision_agent.errors import InputError, bad_argument

_META_KEYS = ("annotation", "root")
# What else InternVL's meta files say of a set; `length` is for readers.
_KNOWN = (*_META_KEYS, "data_augment", "repeat_time", "length", "max_dynamic_patch")
_MOST_REPEATS = 10_000
_DIALOGUE_KEYS = {"conversations", "messages"}


@dataclass(frozen=True)
class DialogueFile:
    """One `.jsonl` of dialogues, or a JSON list of them.

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

        Of a JSON list, each entry is a line.

        Raises:
            UnicodeDecodeError: it is no text.
            ValueError: it is a `.json` that holds no list.
        """
        if self.annotation.suffix.lower() == ".json":
            texts = _entries(self.annotation)
        else:
            # Lines end where `readlines` of the official loader ends them: a text may hold U+2028 or U+0085.
            with self.annotation.open(encoding="utf-8-sig") as file:
                texts = [line.removesuffix("\n") for line in file]
        numbered = list(enumerate(texts, start=1))
        return numbered[: int(len(numbered) * self.repeat)] if self.repeat < 1 else numbered


def is_dialogue_data(path: str | Path) -> bool:
    """Return whether a file is of dialogues, by its name or, for a JSON, by what it says."""
    path = Path(path)
    if path.suffix.lower() == ".jsonl":
        return True
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    try:
        content = json.loads(path.read_text("utf-8-sig"))
    except (ValueError, OSError, RecursionError):
        return False  # whoever reads it as something else tells what is wrong
    if _is_list_of_dialogues(content):
        return True
    if not isinstance(content, dict) or not content:
        return False
    return all(isinstance(each, dict) and "annotation" in each for each in content.values())


def dialogue_files(path: Path, images: Path | None, faults: Faults) -> list[DialogueFile]:
    """Return the files that a meta file names, or a `.jsonl` or a JSON list as the only one.

    Args:
        images: the folder of the images of a file by itself; None for the folder that it is in.

    Raises:
        InputError: no such file, or a folder of images for a meta file, which names its own.
    """
    if not path.is_file():
        raise InputError(bad_argument("data", "a .jsonl of dialogues or a meta file that exists", str(path)))
    if path.suffix.lower() == ".jsonl":
        return [DialogueFile(path.stem, path, path.parent if images is None else images)]
    try:
        text = path.read_text("utf-8-sig")
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the meta file {str(path)!r} is no JSON: {error}") from error
    if _is_list_of_dialogues(content):
        return [DialogueFile(path.stem, path, path.parent if images is None else images)]
    if images is not None:
        expected = "left out for a meta file, whose sets name their own `root`"
        raise InputError(bad_argument("images", expected, str(images)))
    if not isinstance(content, dict) or not content:
        raise InputError(
            f"the meta file {str(path)!r} must map names of sets to their files, but holds {content!r:.80}"
        )
    json.loads(text, object_pairs_hook=lambda pairs: _named_once(pairs, path, faults))
    found = [_dialogue_file(path, name, each, faults) for name, each in content.items()]
    return [each for each in found if each is not None]


def _dialogue_file(meta: Path, name: str, said: Any, faults: Faults) -> DialogueFile | None:
    before = len(faults.found)

    def fault(detail: str) -> None:
        faults.add("bad set in the meta file", meta, repr(name), detail, fatal=True)

    if not isinstance(said, Mapping):
        fault(f"expected an object with {' and '.join(_META_KEYS)}, but got {said!r:.80}")
        return None
    for key in set(said) - set(_KNOWN):
        if meant := difflib.get_close_matches(key, _KNOWN, 1, 0.75):
            fault(f"`{key}` is unknown; is `{meant[0]}` meant?")
    for key in _META_KEYS:
        value = said.get(key)
        if isinstance(value, str) and "s3://" in value:
            fault(f"`{key}` lies in an object store: {value!r:.80}; copy it, and name the folder")
        # The published sets of words alone have no root.
        elif not isinstance(value, str) and not (key == "root" and key in said and value is None):
            fault(f"`{key}` must be a path, but got {value!r:.80}")
    repeat, most, augment = said.get("repeat_time", 1), said.get("max_dynamic_patch"), said.get("data_augment", False)
    number = isinstance(repeat, int | float) and not isinstance(repeat, bool)
    if not number or not 0 < repeat <= _MOST_REPEATS or (repeat > 1 and repeat != int(repeat)):
        expected = f"a share below 1 or a whole number up to {_MOST_REPEATS}"
        fault(f"`repeat_time` must be {expected}, but got {repeat!r:.80}")
    if most is not None and (type(most) is not int or not 1 <= most <= 40):
        fault(f"`max_dynamic_patch` must be a whole number from 1 to 40, but got {most!r:.80}")
    if not isinstance(augment, bool):
        fault(f"`data_augment` must be true or false, but got {augment!r:.80}")
    if len(faults.found) > before:
        return None
    annotation = _beside(meta, str(said["annotation"]))
    if annotation.suffix.lower() not in (".jsonl", ".json") or not annotation.is_file():
        fault(f"`annotation` must be a .jsonl that exists, but got {str(annotation)!r}")
        return None
    root = annotation.parent if said["root"] is None else _beside(meta, said["root"])
    return DialogueFile(name, annotation, root, repeat, augment, most)


def _beside(meta: Path, named: str) -> Path:
    """A path as the official script takes it, from where it is started; else from where the meta file is."""
    path = Path(named)
    return path if path.is_absolute() or path.exists() else meta.parent / path


def _entries(path: Path) -> list[str]:
    """The entries of a JSON list, as LLaVA's and xtuner's sets are, each as a line."""
    content = json.loads(path.read_text("utf-8-sig"))
    if not isinstance(content, list):
        raise ValueError(f"expected a list of dialogues, but got {content!r:.80}")
    return [json.dumps(each, ensure_ascii=False) for each in content]


def _named_once(pairs: list[tuple[str, Any]], path: Path, faults: Faults) -> dict[str, Any]:
    """An object of a meta file; of two values of one name JSON would keep the last without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        faults.add(
            "bad set in the meta file", path, repr(twice), "the name stands twice; one would be lost", fatal=True
        )
    return found


def _is_list_of_dialogues(content: Any) -> bool:
    first = content[0] if isinstance(content, list) and content else None
    return isinstance(first, dict) and not _DIALOGUE_KEYS.isdisjoint(first)
