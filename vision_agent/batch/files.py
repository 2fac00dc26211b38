"""Which files a run is about, in the order of its output."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from vision_agent.documents.source import SUFFIXES
from vision_agent.errors import ArgumentTypeError, InputError, bad_argument


def find_files(paths: Iterable[str | os.PathLike[str]]) -> list[str]:
    """Return files as given, and the documents below folders.

    The order is that of `paths`; what a folder holds is sorted by its path, whatever order the file system has. A file
    that is named twice comes once. Hidden files and folders in a folder are left out, links to folders not followed.

    Raises:
        InputError: nothing at a path, or no document at all.
        ArgumentTypeError: `paths` is one path.
    """
    if isinstance(paths, str | os.PathLike):
        raise ArgumentTypeError(bad_argument("paths", "a list of paths", paths))
    given = list(paths)
    found: dict[str, str] = {}
    for path in given:
        if not os.path.exists(path):
            raise InputError(bad_argument("paths", "files and folders that exist", os.fspath(path)))
        for file in _below(os.fspath(path)) if os.path.isdir(path) else [os.fspath(path)]:
            found.setdefault(os.path.realpath(file), file)
    if not found:
        expected = f"files, or folders with documents ({', '.join(sorted(SUFFIXES))})"
        raise InputError(bad_argument("paths", expected, [os.fspath(path) for path in given]))
    return list(found.values())


def _below(folder: str) -> Iterator[str]:
    files = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [
            os.path.join(parent, name)
            for name in names
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES
        ]
    yield from sorted(files, key=lambda file: Path(file).parts)
