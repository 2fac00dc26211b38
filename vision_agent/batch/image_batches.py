"""Images one batch after the other: read ahead by a thread, then given to the model together.

Batches follow from the list of files alone. A run that is resumed takes a batch again as a whole where a file of it is
missing, for numbers may differ in their last digits from batch to batch.
"""

from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass

from PIL import Image
from pydantic import BaseModel

from vision_agent.batch.attempts import attempted
from vision_agent.batch.image_workers import Asked
from vision_agent.errors import CheckpointError, ConfigError, MissingExtraError, RouteError, UnknownDecoderError

Load = Callable[[str], Image.Image]

_BATCH = 8  # files
_MOST_PIXELS = 32_000_000  # of a batch: beside reading a photo of 50 megapixels, batching it gains nothing
_AHEAD = 4  # images that are read ahead
OF_THE_RUN = (CheckpointError, ConfigError, MissingExtraError, RouteError, UnknownDecoderError)
"""The same for every image, so the run ends."""


@dataclass(frozen=True)
class AnsweredImage:
    """A file, with its image and result, or with the error that came instead."""

    file: str
    image: Image.Image | None = None
    result: BaseModel | None = None
    error: Exception | None = None


def ask_in_batches(
    files: Sequence[str], left: Collection[str], load: Load, start: Callable[[int], AbstractContextManager[Asked]]
) -> Iterator[AnsweredImage]:
    """Yield what was asked about each of the files that are left, in the order of `files`.

    Args:
        files: all files of the run; the batches follow from them.
        left: those that are asked for.
        load: opens a file.
        start: loads the model for so many images, once there is one.

    Raises:
        CheckpointError, ConfigError, MissingExtraError, RouteError, UnknownDecoderError: what fails for every image.
    """
    groups = [files[begin : begin + _BATCH] for begin in range(0, len(files), _BATCH)]
    groups = [group for group in groups if any(file in left for file in group)]
    asked: Asked | None = None
    with ExitStack() as model, closing(_read_ahead([file for group in groups for file in group], load)) as loaded:
        for group in groups:
            batch: list[AnsweredImage] = []
            for number in range(1, len(group) + 1):
                batch.append(next(loaded))
                pixels = sum(each.image.width * each.image.height for each in batch if each.image is not None)
                if number < len(group) and pixels < _MOST_PIXELS:
                    continue
                if asked is None and any(each.image is not None for each in batch):
                    asked = model.enter_context(start(len(files)))
                for answered in batch if asked is None else _answered(batch, asked):
                    if answered.file in left:
                        yield answered
                batch = []


def _answered(batch: Sequence[AnsweredImage], asked: Asked) -> Iterator[AnsweredImage]:
    """Ask about the images of a batch together, or about each alone where that fails."""
    there = [(each.file, each.image) for each in batch if each.image is not None]
    results: dict[str, BaseModel | Exception] = {}
    try:
        together = asked([image for _, image in there]) if there else []
        results = dict(zip((file for file, _ in there), together, strict=True))
    except OF_THE_RUN:
        raise
    except Exception:  # an image may break anything; the others are still asked about
        results = {file: _alone(file, image, asked) for file, image in there}
    for each in batch:
        result = results.get(each.file)
        if isinstance(result, Exception):
            yield AnsweredImage(each.file, error=result)
        else:
            yield AnsweredImage(each.file, each.image, result, each.error)


def _alone(file: str, image: Image.Image, asked: Asked) -> BaseModel | Exception:
    try:
        (result,) = attempted(lambda _: asked([image]), file)
    except Exception as error:
        return error
    return result


def _read_ahead(files: Sequence[str], load: Load) -> Generator[AnsweredImage, None, None]:
    """Yield files with their images, some of which are read by a thread while the model works."""

    def read(file: str) -> AnsweredImage:
        try:
            return AnsweredImage(file, load(file))
        except Exception as error:  # the file becomes a record of this
            return AnsweredImage(file, error=error)

    reader = ThreadPoolExecutor(1, thread_name_prefix="images")
    try:
        ahead = deque(reader.submit(read, file) for file in files[:_AHEAD])
        for number in range(len(files)):
            image = ahead.popleft().result()
            if number + _AHEAD < len(files):
                ahead.append(reader.submit(read, files[number + _AHEAD]))
            yield image
    finally:
        reader.shutdown(cancel_futures=True)
