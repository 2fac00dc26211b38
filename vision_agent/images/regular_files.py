"""Opening files that are files: a pipe, a socket or a device could block or never end."""

import os
import stat
from typing import BinaryIO


class NotRegularError(OSError):
    """A path that leads to something else than a file.

    Attributes:
        is_folder: whether it is a folder.
    """

    def __init__(self, is_folder: bool) -> None:
        super().__init__("a folder" if is_folder else "not a regular file")
        self.is_folder = is_folder


def open_regular(path: "str | os.PathLike[str]") -> BinaryIO:
    """Open a file for reading, without waiting for whatever else the path may lead to.

    What was opened is checked, not only what the path led to before.

    Raises:
        NotRegularError: a folder, a pipe, a socket or a device.
        OSError, ValueError: as `open` raises them.
    """
    _check(os.stat(path))  # opening a device can do things already
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    file = os.fdopen(os.open(path, flags), "rb")
    try:
        _check(os.fstat(file.fileno()))
    except BaseException:
        file.close()
        raise
    return file


def _check(info: os.stat_result) -> None:
    if not stat.S_ISREG(info.st_mode):
        raise NotRegularError(stat.S_ISDIR(info.st_mode))
