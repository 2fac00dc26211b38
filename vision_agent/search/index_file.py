"""An index as a file: one `.npz` of plain numbers, written whole or not at all, and read with mistrust.

Nothing in it is pickled or compressed, so that reading runs no code, and takes no more memory than the file is large.
"""

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError, field_validator

from vision_agent.errors import InputError, bad_argument, first_line
from vision_agent.images.perceptual_hash import HASH_BITS, SMALL_SIDE
from vision_agent.images.regular_files import open_regular
from vision_agent.plugins.embedder import Embedder

_STRICT = ConfigDict(frozen=True, extra="forbid")
_VECTORS, _HASHES, _SMALL, _CONTENT = "vectors", "hashes", "small", "content"
_TYPES = {_VECTORS: np.float32, _HASHES: np.uint8, _SMALL: np.uint8, _CONTENT: np.uint8}
_FAULTS = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    RecursionError,
    NotImplementedError,
    RuntimeError,
    zipfile.BadZipFile,
)


class IndexedImage(BaseModel):
    """An image of an index.

    Attributes:
        file: its path from the folder of the index, with forward slashes.
        size: bytes.
        mtime_ns: when it was last written.
        sha256: of its bytes, hexadecimal; "" where they could not be read.
        image_size: (width, height) in pixels, upright; None for a damaged one.
        error: why it could not be read; None where it could.
    """

    model_config = _STRICT

    file: str
    size: NonNegativeInt
    mtime_ns: int
    sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
    image_size: tuple[PositiveInt, PositiveInt] | None = None
    error: str | None = None

    @field_validator("file")
    @classmethod
    def _inside(cls, file: str) -> str:
        parts = file.split("/")
        if not parts[-1] or not parts[0] or ".." in parts or "\0" in file:
            raise ValueError("a path that leads out of the folder")
        return file


class EmbedderIdentity(BaseModel):
    """The embedder that made an index's vectors."""

    model_config = _STRICT

    name: str
    fingerprint: str
    width: PositiveInt

    @classmethod
    def of(cls, embedder: Embedder) -> Self:
        """Return what tells an embedder from others."""
        return cls(name=embedder.name, fingerprint=embedder.fingerprint, width=embedder.width)


Place = tuple[float, float, float, float, float]
"""Score and box (x0, y0, x1, y1) of what a phrase found in an image."""


class IndexContent(BaseModel):
    """All of an index but its numbers.

    Attributes:
        folder: that the images lie in, absolute.
        embedder: None for an index that knows duplicates alone.
        images: in the order of the rows; damaged ones have none.
        detector: what found `phrases`.
        phrases: by phrase, then by file: the best box; None where there is none.
    """

    model_config = _STRICT

    version: Literal[1] = 1
    folder: str
    embedder: EmbedderIdentity | None
    images: tuple[IndexedImage, ...]
    detector: str = ""
    phrases: dict[str, dict[str, Place | None]] = {}


class IndexArrays(BaseModel):
    """The numbers of an index, a row for each image that is not damaged.

    Attributes:
        vectors: float32 (N, D); D is 0 without an embedder.
        hashes: uint8 (N, 32), the bits of `difference_hash`.
        small: uint8 (N, 768), of `small_copy`.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    vectors: npt.NDArray[np.float32]
    hashes: npt.NDArray[np.uint8]
    small: npt.NDArray[np.uint8]


def write_index(path: Path, content: IndexContent, arrays: IndexArrays) -> None:
    """Write an index in place of what is there, whole or not at all.

    Raises:
        InputError: a place that cannot be written.
    """
    text = np.frombuffer(content.model_dump_json().encode("utf-8"), dtype=np.uint8)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            with open(part, "wb") as file:
                np.savez(file, vectors=arrays.vectors, hashes=arrays.hashes, small=arrays.small, content=text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{bad_argument('out', 'a file that can be written', str(path))}: {error}") from error


def read_index(path: Path) -> tuple[IndexContent, IndexArrays]:
    """Read an index.

    Raises:
        InputError: no file there, or one that is no index, or a damaged one.
    """
    expected = "an index that `vision-agent index` wrote"
    if not path.exists():
        raise InputError(f"{bad_argument('index', expected, str(path))}: there is no such file")
    try:
        found = _arrays(path)
        content = IndexContent.model_validate_json(found[_CONTENT].tobytes())
        arrays = IndexArrays(vectors=found[_VECTORS], hashes=found[_HASHES], small=found[_SMALL])
        _check(content, arrays)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise InputError(f"{bad_argument('index', expected, str(path))}: {where}: {fault['msg']}") from error
    except _FAULTS as error:
        raise InputError(f"{bad_argument('index', expected, str(path))}: {first_line(error)}") from error
    return content, arrays


def _arrays(path: Path) -> Mapping[str, npt.NDArray[np.generic]]:
    """The arrays of a file, none of which claims to be larger than it is. Raises one of `_FAULTS`."""
    found: dict[str, npt.NDArray[np.generic]] = {}
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if sorted(each.filename for each in members) != sorted(f"{name}.npy" for name in _TYPES):
            raise ValueError(f"it has other parts than {', '.join(_TYPES)}")
        for member in members:
            name = member.filename.removesuffix(".npy")
            if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
                raise ValueError(f"its part {name!r} is compressed")
            with archive.open(member) as stream:
                shape, dtype = _header(stream, name)
                data = stream.read()
            if len(data) != int(np.prod(shape, dtype=object)) * dtype.itemsize:
                raise ValueError(f"its part {name!r} has another size than it says")
            found[name] = np.frombuffer(data, dtype=dtype).reshape(shape)
    return found


def _header(stream: IO[bytes], name: str) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    version = np.lib.format.read_magic(stream)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, fortran, dtype = readers[version](stream)
    if fortran or dtype != _TYPES[name] or len(shape) != (1 if name == _CONTENT else 2):
        raise ValueError(f"its part {name!r} is of another type")
    return shape, dtype


def _check(content: IndexContent, arrays: IndexArrays) -> None:
    """See that the parts belong together. Raises ValueError."""
    rows = sum(each.error is None for each in content.images)
    width = 0 if content.embedder is None else content.embedder.width
    if arrays.vectors.shape != (rows, width):
        raise ValueError(f"vectors of shape {arrays.vectors.shape} for {rows} images")
    if arrays.hashes.shape != (rows, HASH_BITS // 8) or arrays.small.shape != (rows, 3 * SMALL_SIDE**2):
        raise ValueError("hashes of another shape")
    squares = np.einsum("nd,nd->n", arrays.vectors, arrays.vectors) if width else np.ones(rows)
    if not (np.abs(squares - 1) < 0.02).all():  # NaN is not
        raise ValueError("vectors that have not length one")
    files = [each.file for each in content.images]
    if len(set(files)) != len(files):
        raise ValueError("a file that is there twice")
    places = [place for found in content.phrases.values() for place in found.values() if place is not None]
    if not np.isfinite(np.array(places, dtype=np.float64)).all():
        raise ValueError("a place that is no number")
