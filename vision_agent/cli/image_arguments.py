"""The images that a command was given: paths, folders, patterns, addresses, and `-` for stdin."""

import io
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from vision_agent.batch import find_images
from vision_agent.errors import InputError, bad_argument
from vision_agent.images.loading import ImageLimits, load_image

STDIN = "-"
GENERATED = ""  # stands for no image
_ADDRESS = re.compile(r"data:|[a-z][a-z0-9+.-]*://", re.IGNORECASE)


@dataclass(frozen=True)
class ImageArguments:
    """What a command is about.

    Attributes:
        files: paths, addresses, and `-`.
        several: whether a command prints which image a line is about: there is more than one, or a folder or pattern.
    """

    files: list[str]
    several: bool

    @classmethod
    def of(cls, given: Sequence[str]) -> "ImageArguments":
        """Find the images.

        Raises:
            InputError: nothing at a path, a folder without images, or stdin twice.
        """
        if list(given).count(STDIN) > 1:
            raise InputError(bad_argument("images", "- once", list(given)))
        found: dict[str, str] = {}
        for item in given:
            if item == STDIN or _ADDRESS.match(item):
                found.setdefault(item, item)
                continue
            for file in find_images([item]):
                found.setdefault(os.path.realpath(file), file)
        files = list(found.values())
        return cls(files, files != list(given) or len(files) > 1)

    def files_alone(self) -> list[str]:
        """Return the files, for a run that can be resumed. Raises InputError for stdin and addresses."""
        for file in self.files:
            if file == STDIN or _ADDRESS.match(file):
                raise InputError(bad_argument("images", "files, folders and patterns where there is --out", file))
        return self.files


def open_image(source: str, limits: ImageLimits) -> Image.Image:
    """Load an image of the command line; `-` is read from stdin."""
    if source != STDIN:
        return load_image(source, limits=limits)
    return load_image(io.BytesIO(read_stdin(limits.max_bytes)), limits=limits)


def read_stdin(most: int) -> bytes:
    """Return what comes on stdin, at most one byte over `most`. Raises InputError where nothing comes."""
    data = sys.stdin.buffer.read(most + 1)
    if not data:
        raise InputError("`-` must be the bytes of a file on stdin, but got nothing")
    return data
