"""What each token of a tokenizer writes, as bytes: what grammars over text need to know of it.

Tokens are smaller than characters and larger than words, and a tokenizer's own `decode` joins and cleans what it
shows. Grammars therefore work on bytes. Byte-level tokenizers (Qwen2, Llama 3) spell bytes as printable characters;
sentencepiece ones (InternLM2, Llama 2, Phi-3) write spaces as U+2581 and rare bytes as `<0x0A>`.

Added tokens (`<|im_end|>`, `<box>`, `[DET]`) are marks, not text: no grammar reaches them through their letters.
"""

import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary, ref

from vision_agent.errors import CheckpointError
from vision_agent.model.tokenizing import tokenized

_SPACE_MARK = "\u2581"  # a space in sentencepiece
_BYTE_SPACE = "\u0120"  # a space in byte-level vocabularies
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Vocabulary:
    """The tokens of one tokenizer as bytes. Get one from `vocabulary_of`.

    Attributes:
        pieces: what each token id writes; empty for added tokens and for ids without a token.
        marks: the added tokens, text to id.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = ref(tokenizer)  # the cache must not keep it alive
        self.marks: dict[str, int] = {token.content: id for id, token in tokenizer.added_tokens_decoder.items()}
        known: dict[str, int] = tokenizer.get_vocab()
        hidden = {*self.marks.values(), *tokenizer.all_special_ids}
        reads = _reader(known)
        pieces = [b""] * (max(known.values(), default=-1) + 1)
        for token, number in known.items():
            if number not in hidden:
                pieces[number] = reads(token)
        self.pieces: tuple[bytes, ...] = tuple(pieces)

    @cached_property
    def ids_of(self) -> dict[bytes, tuple[int, ...]]:
        """The tokens that write exactly these bytes."""
        found: dict[bytes, tuple[int, ...]] = {}
        for number, piece in enumerate(self.pieces):
            if piece:
                found[piece] = (*found.get(piece, ()), number)
        return found

    @cached_property
    def longest(self) -> int:
        """Bytes of the longest token."""
        return max(map(len, self.ids_of), default=0)

    def starts(self, data: bytes) -> list[int]:
        """Return all tokens that write a beginning of `data`, shortest first."""
        lengths = range(1, min(len(data), self.longest) + 1)
        return [number for length in lengths for number in self.ids_of.get(data[:length], ())]

    def encode(self, data: bytes) -> list[int]:
        """Return tokens that write exactly `data`: the tokenizer's own where it keeps the bytes, else the longest.

        A tokenizer that changes case or begins with a space does not keep them.

        Raises:
            CheckpointError: the tokenizer has no token for a byte of `data`.
        """
        own = self.text_ids(data.decode("utf-8", errors="ignore"))
        if self.write(own) == data:
            return own
        ids: list[int] = []
        place = 0
        while place < len(data):
            fitting = self.starts(data[place : place + self.longest])
            if not fitting:
                raise CheckpointError(f"the tokenizer has no token for {data[place : place + 1]!r} of {data!r}")
            ids.append(fitting[-1])
            place += len(self.pieces[fitting[-1]])
        return ids

    def text_ids(self, text: str) -> list[int]:
        """Return the tokenizer's own ids of a text, in which added tokens are plain characters."""
        return self._tokenized(text, split_special_tokens=True)

    def marked_ids(self, text: str) -> list[int]:
        """Return the tokenizer's own ids of a text, in which added tokens are themselves."""
        return self._tokenized(text)

    def write(self, ids: Sequence[int]) -> bytes:
        """Return the bytes that tokens write together."""
        return b"".join(self.pieces[number] for number in ids)

    def _tokenized(self, text: str, **options: bool) -> list[int]:
        tokenizer = self._tokenizer()
        if tokenizer is None:
            raise ReferenceError("the tokenizer of this vocabulary is gone")
        ids: list[int] = tokenized(tokenizer, text, add_special_tokens=False, **options)["input_ids"]
        return ids


def vocabulary_of(tokenizer: Any) -> Vocabulary:
    """Return the vocabulary of a tokenizer, read once for each; again after tokens were added."""
    known = _VOCABULARIES.get(tokenizer)
    if known is None or known[0] != len(tokenizer):
        known = (len(tokenizer), Vocabulary(tokenizer))
        _VOCABULARIES[tokenizer] = known
    return known[1]


_VOCABULARIES: "WeakKeyDictionary[Any, tuple[int, Vocabulary]]" = WeakKeyDictionary()


def _reader(known: dict[str, int]) -> Callable[[str], bytes]:
    """How tokens spell bytes in this vocabulary: a function from a token's text to what it writes."""
    if "<0x0A>" not in known and _BYTE_SPACE in known:
        return _from_byte_letters
    return _from_piece


def _from_byte_letters(token: str) -> bytes:
    try:
        return bytes(map(_BYTE_LETTERS.__getitem__, token))
    except KeyError:  # no spelling of bytes, so nothing that text could hold
        return b""


def _from_piece(token: str) -> bytes:
    byte = _BYTE_PIECE.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace(_SPACE_MARK, " ").encode()


def _byte_letters() -> dict[str, int]:
    """GPT-2's letter of every byte: itself where it is printable, else the next letter from U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(0x100) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(0x100 + place): byte for place, byte in enumerate(others)}


_BYTE_LETTERS = _byte_letters()
