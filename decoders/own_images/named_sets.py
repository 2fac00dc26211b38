"""Reads the set of annotated images that a command line names, and says what is in it."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

from vision_agent.errors import AnnotationError

if TYPE_CHECKING:
    from vision_agent.data.annotations.annotated import AnnotationSet
    from vision_agent.data.annotations.annotation_sets import AnnotationKind


_MOST_SHOWN = 100  # names, each with its counts


def read_set(path: Path, images: Path | None, kind: str, validation: float | str, skip_bad: bool) -> "AnnotationSet":
    """Read a set; every fault is a line on stderr, before anything is loaded or trained."""
    from vision_agent.data.annotations.annotation_sets import read_annotations

    chosen = cast("AnnotationKind", kind)
    try:
        read = read_annotations(path, images=images, kind=chosen, validation=validation, skip_bad=skip_bad)
    except AnnotationError as error:
        for line in str(error).splitlines()[1:]:
            told(line)
        raise
    if read.left_out:
        told(f"left out of {str(path)!r}: {len(read.left_out)} faulty parts")
        for line in read.left_out[:20]:
            told(f"  {line}")
    shown = read.names if len(read.names) <= _MOST_SHOWN else ()
    counts = ", ".join(f"{name} {train}+{held}" for name in shown for train, held in [read.count(name)])
    counts = counts or f"of {len(read.names)} names"
    told(f"{path}: {len(read.train)} images to learn from, {len(read.validation)} to measure by; objects: {counts}")
    return read


def share_or_set(text: str) -> float | str:
    """Return a share, or the path of another set."""
    try:
        return float(text)
    except ValueError:
        return text


def told(text: str) -> None:
    """Print a line on stderr."""
    print(text, file=sys.stderr)
