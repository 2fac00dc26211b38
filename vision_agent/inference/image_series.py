"""Many images to one verb: a list gives a list of results, an iterator an iterator, read as it is asked.

Images are loaded and looked at in groups, so that they go through the image tower together and never all lie in memory.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from vision_agent.errors import ArgumentTypeError, InputError, VisionAgentError, bad_argument
from vision_agent.images.loading import ImageLimits, load_image
from vision_agent.plugins.cancellation import raise_if_cancelled

R = TypeVar("R")
Look = Callable[[Sequence[Image.Image]], Sequence[R]]

AT_ONCE = 8  # images of one group
_LOADERS = 2  # threads that decode files while the model looks at the group before


def is_series(image: object) -> bool:
    """Whether a verb is given many images: anything to iterate over that is no image itself.

    Raises:
        ArgumentTypeError: a set or a mapping, whose order says nothing.
    """
    if isinstance(image, str | bytes | bytearray | memoryview | os.PathLike | Image.Image | np.ndarray):
        return False
    if callable(getattr(image, "read", None)) or callable(getattr(image, "detach", None)):  # a file; a tensor
        return False
    if isinstance(image, set | frozenset | dict):
        expected = "an image, a list of images or an iterator of images"
        raise ArgumentTypeError(bad_argument("image", expected, image))
    return isinstance(image, Iterable)


def look_at(image: Any, limits: ImageLimits, look: Look[R], name: str = "image") -> R | list[R] | Iterator[R]:
    """Return the result of one image, a list of those of a list, or an iterator of those of an iterator.

    An iterator of images is read a group at a time, as its results are asked for. Files of a list that are not there
    are noticed before the model looks at anything.

    Args:
        image: an image, a list or other collection of images, or an iterator.
        limits: what images are accepted.
        look: returns one result for each of some images.
        name: of the caller's argument, for errors.

    Raises:
        InputError: no image at all, or one that cannot be read; it is named by its index, `image[3]`.
        ArgumentTypeError: no image, and no collection of images.
    """
    if not is_series(image):
        return look([load_image(image, limits=limits, name=name)])[0]
    if isinstance(image, Iterator):
        return _looked(image, limits, look, name, ahead=0)
    items = list(image)
    if not items:
        raise InputError(bad_argument(name, f"at least one {name}", image))
    for index, item in enumerate(items):
        if _is_missing(item):
            load_image(item, limits=limits, name=f"{name}[{index}]")  # says why it cannot be read
    return list(_looked(iter(items), limits, look, name, ahead=1))


def _looked(items: Iterator[Any], limits: ImageLimits, look: Look[R], name: str, ahead: int) -> Iterator[R]:
    """Yield results group by group; `ahead` groups are loaded while the model looks at another.

    What lies before an image that cannot be read still has its results.
    """
    with closing(_groups(items, limits, name, ahead)) as groups:
        for images, error in groups:
            raise_if_cancelled()
            if images:
                yield from look(images)
            if error is not None:
                raise error


def _groups(
    items: Iterator[Any], limits: ImageLimits, name: str, ahead: int
) -> Generator[tuple[list[Image.Image], VisionAgentError | None], None, None]:
    """Yield groups of images, and the error of the first one that cannot be read, which ends them."""
    with ThreadPoolExecutor(_LOADERS, "vision-agent-load") as pool:
        waiting: deque[list[Any]] = deque()
        numbered = enumerate(items)

        def load(index: int, item: Any) -> Image.Image:
            return load_image(item, limits=limits, name=f"{name}[{index}]")

        def submit() -> None:
            group = [pool.submit(load, index, item) for index, item in islice(numbered, AT_ONCE)]
            if group:
                waiting.append(group)

        try:
            for _ in range(ahead):
                submit()
            while True:
                submit()
                if not waiting:
                    return
                images: list[Image.Image] = []
                error: VisionAgentError | None = None
                for future in waiting.popleft():
                    try:
                        images.append(future.result())
                    except VisionAgentError as problem:
                        error = problem
                        break
                yield images, error
                if error is not None:
                    return
        finally:
            for group in waiting:
                for future in group:
                    future.cancel()


def _is_missing(item: object) -> bool:
    """Whether an item is no image, or a path without a file: what can be known without reading anything."""
    if isinstance(item, str | os.PathLike):
        text = os.fsdecode(item)
        if text[:5].lower() == "data:" or "://" in text:
            return False
        try:
            return not Path(text).is_file()
        except (OSError, ValueError):
            return True
    kinds = bytes | bytearray | memoryview | Image.Image | np.ndarray
    return not (isinstance(item, kinds) or hasattr(item, "read") or hasattr(item, "detach"))
