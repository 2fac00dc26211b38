"""Reads and checks a whole set of dialogues before anything learns from it: every bad line is told, none replaced.

The official loader prints a bad line's error and learns from another line, drawn by chance, instead.
"""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from vision_agent.data.annotations.faults import Faults
from vision_agent.data.dialogues.dialogue_files import DialogueFile, dialogue_files
from vision_agent.data.dialogues.dialogue_lines import DialogueLine, read_line
from vision_agent.errors import ImageError, InputError, bad_argument
from vision_agent.images.loading import ImageLimits, load_image
from vision_agent.images.regular_files import NotRegularError
from vision_agent.images.video import sample_frames

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_AT_ONCE = 4


@dataclass(frozen=True)
class DialogueSet:
    """What is learned from, and what is kept back.

    Attributes:
        train: each dialogue as often as its file is repeated. validation: those kept back, once.
        left_out: a sentence for each faulty line that was left out.
        digest: of all lines, by which a run knows its data again.
    """

    train: tuple[DialogueLine, ...]
    validation: tuple[DialogueLine, ...]
    left_out: tuple[str, ...]
    digest: str


def read_dialogues(
    data: str | Path,
    *,
    images: str | Path | None = None,
    validation: float | str | Path = 0.0,
    skip_bad: bool = False,
    limits: ImageLimits | None = None,
) -> DialogueSet:
    """Read and check a set of dialogues in InternVL's own format.

    Args:
        data: a meta file (JSON: name to `root`, `annotation`, ...), a `.jsonl`, or a JSON list of the same.
        images: folder of the images of a `.jsonl`; None for the one that it is in.
        validation: the share of lines that is kept back, by a hash of each line, or another set.
        skip_bad: leave faulty lines out and say which, where False raises.
        limits: sizes and formats of images that are accepted.

    Raises:
        AnnotationError: faulty lines; tells all of them, with file and number.
        InputError: no such file, or a share that is none.
    """
    faults = Faults()
    digest = hashlib.sha256()
    limits = limits or ImageLimits()
    files = dialogue_files(Path(data), None if images is None else Path(images), faults)
    kept: list[DialogueLine] = []
    train: list[DialogueLine] = []
    share = 0.0
    if isinstance(validation, str | Path):
        other = dialogue_files(Path(validation), None if images is None else Path(images), faults)
        kept = [line for file in other for line, _ in _checked(file, faults, digest, limits)]
    elif isinstance(validation, bool) or not 0 <= validation < 1:
        raise InputError(bad_argument("validation", "a share from 0 to below 1, or another set", validation))
    else:
        share = validation
    found = [
        (line, text, max(1, int(file.repeat)))
        for file in files
        for line, text in _checked(file, faults, digest, limits)
    ]
    held_back = _held_back({text for _, text, _ in found}, share)
    for line, text, repeat in found:
        if text in held_back:
            kept.append(line)
        else:
            train += [line] * repeat
    if not train:
        said = "no line is good" if faults.found else "there is no line to learn from"
        faults.add("empty set", data, "", said, fatal=True)
    left_out = faults.settle(skip_bad, str(data))
    return DialogueSet(tuple(train), tuple(kept), left_out, digest.hexdigest())


def _held_back(texts: set[str], share: float) -> set[str]:
    """The share of lines whose hashes come first: the same text is always on one side."""
    ordered = sorted(texts, key=lambda text: hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
    return set(ordered[: int(len(ordered) * share)])


def _checked(
    file: DialogueFile, faults: Faults, digest: Any, limits: ImageLimits
) -> Iterator[tuple[DialogueLine, str]]:
    """The good lines of a file, with their texts."""
    try:
        lines = file.lines()
    except UnicodeDecodeError as error:
        faults.add("no text", file.annotation, "", f"it is not UTF-8: {error.reason}", fatal=True)
        return
    except (ValueError, RecursionError) as error:
        faults.add("no JSON", file.annotation, "", error, fatal=True)
        return
    digest.update(f"{file.name}|{file.repeat}|{file.augment}|{file.max_tiles}|".encode())
    read: list[tuple[DialogueLine, Any, str]] = []
    for number, text in lines:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\n")
        if not text.strip():
            continue
        found = read_line(text, number, file, partial(_tell, faults, file, number))
        if found is not None:
            read.append((*found, text))
    with ThreadPoolExecutor(_AT_ONCE, "vision-agent-check") as pool:
        looked = pool.map(lambda each: _looked_at(each[0], each[1], limits), read)
        for (line, _, text), (sizes, wrong) in zip(read, looked, strict=True):
            for kind, what in wrong:
                faults.add(kind, line.file, f"line {line.line}", what)
            if not wrong:
                yield replace(line, sizes=sizes), text


def _tell(faults: Faults, file: DialogueFile, number: int, kind: str, what: object) -> None:
    faults.add(kind, file.annotation, f"line {number}", what)


def _looked_at(
    line: DialogueLine, stated: Sequence[tuple[Any, Any]], limits: ImageLimits
) -> tuple[tuple[tuple[int, int], ...], list[tuple[str, str]]]:
    """The sizes of a line's images, and what is wrong with them or with its video."""
    wrong: list[tuple[str, str]] = []
    sizes: list[tuple[int, int]] = []
    for path in line.images:
        try:
            if not path.is_file():
                wrong.append(("missing image", str(path)))
                continue
            sizes.append(load_image(path, limits=limits).size)
        except (ImageError, InputError, NotRegularError, OSError) as error:
            wrong.append(("damaged image", str(error)))
    if not wrong and stated and len(stated) != len(sizes):
        wrong.append(("sizes that lie", f"{len(stated)} sizes are stated for {len(sizes)} images"))
    elif not wrong:
        for path, size, said in zip(line.images, sizes, stated, strict=False):
            if tuple(said) not in (size, size[::-1]):  # turned by EXIF, or not
                wrong.append(("sizes that lie", f"{path.name} is {size[0]}x{size[1]}, not {said[0]!r}x{said[1]!r}"))
    if line.video is not None:
        wrong += _faults_of_video(line.video, line.clip, limits)
    return tuple(sizes), wrong


def _faults_of_video(video: Path, clip: tuple[float, float] | None, limits: ImageLimits) -> list[tuple[str, str]]:
    if not video.exists():
        return [("missing video", str(video))]
    try:
        if video.is_dir():
            if not frame_files(video):
                return [("damaged video", f"{str(video)!r} is a folder without images")]
            load_image(frame_files(video)[0], limits=limits)
        else:
            sample_frames(str(video), segments=1, bounds=clip, limits=limits)
    except (ImageError, InputError, NotRegularError, OSError) as error:
        return [("damaged video", str(error))]
    return []


def frame_files(folder: Path) -> list[Path]:
    """Return the images of a folder in the order of the numbers in their names."""

    def order(path: Path) -> tuple[list[int], str]:
        digits = "".join(each if each.isdigit() and each.isascii() else " " for each in path.stem)
        return [int(each) for each in digits.split()], path.name

    return sorted((each for each in folder.iterdir() if each.suffix.lower() in IMAGE_SUFFIXES), key=order)
