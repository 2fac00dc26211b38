"""Reads a sentencepiece model file (`tokenizer.model`), which holds a vocabulary and how text is normalised.

The file is a Protocol Buffers message. The few fields that matter are read here directly, so that neither the
sentencepiece nor the protobuf package is needed.

Facts from google/sentencepiece, `sentencepiece_model.proto`, and the Protocol Buffers encoding.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from vision_agent.errors import CheckpointError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class PieceType(IntEnum):
    """What a piece is; only the first kind, and the fourth, come out of ordinary text."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Piece:
    """A vocabulary entry; its id is its place."""

    text: str
    score: float
    kind: PieceType


@dataclass(frozen=True)
class SentencePieceModel:
    """The content of a `tokenizer.model`.

    Attributes:
        pieces: in the order of their ids.
        is_bpe: byte-pair merges by score, as opposed to another algorithm.
        charsmap: compiled character replacements; empty for none.
        dummy_prefix: a space is put before the text.
        trims_spaces: spaces at both ends are dropped and runs of spaces shortened to one.
        space_is_suffix: a word carries the space after it, not the one before it.
    """

    pieces: tuple[Piece, ...]
    is_bpe: bool
    charsmap: bytes
    dummy_prefix: bool
    trims_spaces: bool
    space_is_suffix: bool


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """Read a `tokenizer.model`.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    pieces: list[Piece] = []
    trainer: dict[int, int] = {}
    charsmap, flags = b"", {3: 1, 4: 1}  # fields 3 and 4 of the normaliser are true unless said otherwise
    try:
        for field, value in _fields(path.read_bytes()):
            if field == 1 and isinstance(value, bytes):
                pieces.append(_piece(value))
            elif field == 2 and isinstance(value, bytes):
                trainer = {number: found for number, found in _fields(value) if isinstance(found, int)}
            elif field == 3 and isinstance(value, bytes):
                for number, found in _fields(value):
                    if number == 2 and isinstance(found, bytes):
                        charsmap = found
                    elif isinstance(found, int):
                        flags[number] = found
    except (OSError, ValueError, IndexError, struct.error) as error:
        raise CheckpointError(f"{path.name} is missing or damaged: {error}") from error
    if not pieces:
        raise CheckpointError(f"{path.name} holds no vocabulary")
    return SentencePieceModel(
        pieces=tuple(pieces),
        is_bpe=trainer.get(3, 1) == 2,
        charsmap=charsmap,
        dummy_prefix=bool(flags[3]),
        trims_spaces=bool(flags[4]),
        space_is_suffix=bool(trainer.get(24, 0)),
    )


def _piece(message: bytes) -> Piece:
    text, score, kind = "", 0.0, PieceType.NORMAL
    for field, value in _fields(message):
        if field == 1 and isinstance(value, bytes):
            text = value.decode("utf-8")
        elif field == 2 and isinstance(value, bytes):
            (score,) = struct.unpack("<f", value)
        elif field == 3 and isinstance(value, int):
            kind = PieceType(value)
    return Piece(text, score, kind)


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of each field; fixed-width numbers and nested messages come as their bytes."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, place = _varint(message, place)
            yield number, value
            continue
        if wire == _BYTES:
            size, place = _varint(message, place)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire} at byte {place}")
        if place + size > len(message):
            raise ValueError(f"the message ends in the middle of field {number}")
        yield number, message[place : place + size]
        place += size


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7
