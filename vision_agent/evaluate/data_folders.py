"""What the commands of this folder read: folders of labelled documents. One without any is an error, no figure of 0."""

import json
from pathlib import Path
from typing import Any

from vision_agent.errors import InputError, bad_argument


def files_in(folder: Path, pattern: str, holds: str) -> list[Path]:
    """Return the files of a folder, by name.

    Args:
        pattern: of their names, such as "*.json".
        holds: what the folder must hold, in words for the error.

    Raises:
        InputError: it is no folder, or has no such file.
    """
    found = sorted(folder.glob(pattern)) if folder.is_dir() else []
    if not found:
        raise InputError(bad_argument("folder", f"a folder with {holds}", _told(folder)))
    return found


def listed_documents(folder: Path, name: str = "documents.json") -> list[Any]:
    """Return the documents that a folder's list has: `{"documents": [...]}`.

    Raises:
        InputError: it is no folder, or its list is missing, empty or of another form.
    """
    wanted = f'a folder with a `{name}` of {{"documents": [...]}}'
    try:
        told = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(bad_argument("folder", wanted, _told(folder))) from error
    listed = told.get("documents") if isinstance(told, dict) else None
    if not isinstance(listed, list) or not listed:
        raise InputError(bad_argument("folder", wanted, _told(folder)))
    return listed


def _told(folder: Path) -> str:
    """A path, and why it is no folder of documents where that is plain."""
    if folder.is_dir():
        return str(folder)
    return f"{folder} (a file: unpack it first)" if folder.exists() else f"{folder} (not there)"
