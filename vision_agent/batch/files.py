"""Which files a run is about, in the order of its output."""

import glob
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from vision_agent.documents.source import SUFFIXES
from vision_agent.errors import ArgumentTypeError, InputError, bad_argument

# Also of formats that are refused: a photo that is left out without a word would be missed too late.
IMAGE_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .webp .bmp .gif .tif .tiff .ppm .pgm .pbm .pnm .avif .heic .heif .jp2".split()
)
"""Files of a folder that are images."""


def find_files(paths: Iterable[str | os.PathLike[str]]) -> list[str]:
    """Return files as given, and the documents below folders.

    A path with `*`, `?` or `[...]` that is no file stands for all that fit, as in a shell; `**` for folders at any
    depth. The order is that of `paths`; what a folder or a pattern gives is sorted by its path, whatever order the file
    system has. A file that is named twice comes once. Hidden files and folders in a folder are left out, links to
    folders not followed.

    Raises:
        InputError: nothing at a path, or no document at all.
        ArgumentTypeError: `paths` is one path.
    """
    return find_inputs(paths, SUFFIXES, "documents")


def find_images(paths: Iterable[str | os.PathLike[str]]) -> list[str]:
    """Return files as given, and the images below folders, as `find_files` does.

    Raises:
        InputError: nothing at a path, or no image at all.
        ArgumentTypeError: `paths` is one path.
    """
    return find_inputs(paths, IMAGE_SUFFIXES, "images")


def find_inputs(paths: Iterable[str | os.PathLike[str]], suffixes: Collection[str], what: str) -> list[str]:
    """Return files as given, and those below folders that end in one of `suffixes`; `what` they are, for errors."""
    if isinstance(paths, str | os.PathLike):
        raise ArgumentTypeError(bad_argument("paths", "a list of paths", paths))
    given = [os.fspath(path) for path in paths]
    found: dict[str, str] = {}
    for path in given:
        for place in _places(path):
            for file in _below(place, suffixes) if os.path.isdir(place) else [place]:
                found.setdefault(os.path.realpath(file), file)
    if not found:
        raise InputError(bad_argument("paths", f"files, or folders with {what} ({', '.join(sorted(suffixes))})", given))
    return list(found.values())


def _places(path: str) -> list[str]:
    """What is at a path, or fits a pattern."""
    if os.path.exists(path):
        return [path]
    fitting = sorted(glob.glob(path, recursive=True), key=lambda file: Path(file).parts) if glob.has_magic(path) else []
    if not fitting:
        raise InputError(bad_argument("paths", "files and folders that exist", path))
    return fitting


def _below(folder: str, suffixes: Collection[str]) -> Iterator[str]:
    files = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [
            os.path.join(parent, name)
            for name in names
            if not name.startswith(".") and Path(name).suffix.lower() in suffixes
        ]
    yield from sorted(files, key=lambda file: Path(file).parts)
