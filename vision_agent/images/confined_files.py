"""Files beneath a folder, opened once and never through a link.

Who checks a path and then opens it by name may open something else: between the two, a folder or file can be swapped
for a link. Here every part of the path is opened within the one before, links are not followed, and what is read is
the open file that was looked at.
"""

import os
import stat
from pathlib import Path

_FILE = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_FOLDER = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_DIRECTORY", 0)
_CHUNK = 1 << 20


def read_beneath(root: Path, path: Path, most: int) -> bytes:
    """Read a regular file beneath a folder.

    A hard link is the file itself under another name, so it is read like one.

    Args:
        root: the folder, without links in it.
        path: of the file, beneath `root`, without links in it.
        most: bytes.

    Raises:
        FileNotFoundError: nothing is there any more.
        OverflowError: the file has more than `most` bytes.
        OSError: a part of the path is a link by now, no regular file, or may not be read.
    """
    descriptor = _opened(root, path.relative_to(root).parts)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):  # a pipe or a device could block or never end
            raise OSError("it is no regular file")
        if info.st_size > most:
            raise OverflowError(info.st_size)
        data = bytearray()
        while len(data) <= most and (chunk := file.read(min(_CHUNK, most + 1 - len(data)))):
            data += chunk
    if len(data) > most:  # it grew meanwhile
        raise OverflowError(len(data))
    return bytes(data)


def _opened(root: Path, parts: tuple[str, ...]) -> int:
    """A descriptor of the file."""
    if os.open not in os.supports_dir_fd:  # Windows, where making links takes a privilege
        return os.open(root.joinpath(*parts), _FILE)
    folder = os.open(root, _FOLDER)
    try:
        for part in parts[:-1]:
            below = os.open(part, _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = below
        return os.open(parts[-1], _FILE, dir_fd=folder)
    finally:
        os.close(folder)
