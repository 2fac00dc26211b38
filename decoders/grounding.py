"""Boxes in InternVL's own words, for checkpoints without routes: `<ref>phrase</ref><box>[[x0, y0, x1, y1]]</box>`.

Published InternVL checkpoints were taught to ground phrases in text, with whole numbers 0..1000 of the image. Left
alone they also write boxes turned inside out, endless lists, or an essay. Here they write under a grammar: the phrase
is given, and what remains is a list of different boxes with x1 > x0 and y1 > y0, or none. Digits may come one by one
or in groups ("12", "345"), as the tokenizer has them; the grammar follows characters.

A box's score is how probable the model finds it that something is there, that there is one more box, and its sides:
the product of the probabilities of the first token of the phrase (where the model may say "none", or anything else),
of the bracket or comma that opens the box, and of the geometric mean over the digits. All are the model's own, before
the grammar; what the grammar forces does not count.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from vision_agent.errors import CheckpointError, InputError, bad_argument
from vision_agent.generation.grammar import keep_only
from vision_agent.generation.vocabulary import Vocabulary, vocabulary_of
from vision_agent.plugins.constraint import Constraint, ConstraintState
from vision_agent.plugins.decoder import Continuation, DecodeRequest, TextDecoder, WrittenAnswer
from vision_agent.results.detections import Detections

Numbers = tuple[int, int, int, int]

_LARGEST = 1000
_MOST_BOXES = 1000
_DIGITS = "0123456789"
_LETTERS = "[], " + _DIGITS
_LONGEST_BOX = len("[999, 999, 1000, 1000], ")
_OPEN, _CLOSE = "<ref>{phrase}</ref><box>", "</box>"
_NOTHING = "none"


class GroundingDecoder(TextDecoder):
    """Boxes for phrases, read from what the model writes. See the module's docstring.

    Args:
        backbone: the model's tokenizer and end tokens are used (`tokenizer`, `end_ids`).
        limit: most boxes a phrase.

    Raises:
        InputError: a limit that is not from 1 to 1000.
        CheckpointError: the tokenizer cannot write boxes.
    """

    name = "grounding"
    wording = "Please provide the bounding box coordinate of the region this sentence describes: <ref>{phrase}</ref>"

    def __init__(self, backbone: Any, limit: int = 50) -> None:
        super().__init__(backbone)
        if not 1 <= limit <= _MOST_BOXES:
            raise InputError(bad_argument("limit", f"from 1 to {_MOST_BOXES}", limit))
        self.limit = limit
        self._vocabulary = vocabulary_of(backbone.tokenizer)
        self._tokens = _letter_tree(self._vocabulary)
        close = self._vocabulary.marks.get(_CLOSE)
        self._close = tuple(self._vocabulary.encode(_CLOSE.encode())) if close is None else (close,)
        self._nothing = tuple(self._vocabulary.text_ids(_NOTHING))

    def request(self, phrase: str) -> str:
        """Return InternVL's own question, as its authors document it. Its `<ref>` marks are special tokens."""
        return self.wording.format(phrase=phrase)

    def constraint(self, phrase: str) -> Constraint:
        """Return a grammar of at most `limit` different boxes of the phrase; `[]` or "none" where there is nothing."""
        return _Grounding(self, phrase)

    def max_new_tokens(self, phrase: str) -> int:
        """Return tokens that are enough for every answer, its end token included."""
        return len(self.opening(phrase)) + self.limit * _LONGEST_BOX + len("[]") + len(self._close) + 1

    def opening(self, phrase: str) -> tuple[int, ...]:
        """Return the tokens that every answer with a list begins with: the phrase, and where the boxes start."""
        # A phrase may hold what looks like a mark; it is text.
        before, after = _OPEN.split("{phrase}")
        if not any(mark in phrase for mark in self._vocabulary.marks):
            return tuple(self._vocabulary.marked_ids(before + phrase + after))
        vocabulary = self._vocabulary
        ids = vocabulary.marked_ids(before) + vocabulary.text_ids(phrase) + vocabulary.marked_ids(after)
        return tuple(ids)

    def first_tokens(self, phrase: str) -> tuple[int, int]:
        """Return the first token of a list's opening, and that of "none"."""
        return self.opening(phrase)[0], self._nothing[0]

    def continuation(self, phrase: str, written: Sequence[tuple[int, float]]) -> Continuation | None:
        """Return how a list of boxes goes on, taken back to the number that makes no box or repeats one.

        A pattern cannot say that x1 is more than x0; for the number that was wrong it names those that are right.
        """
        boxes = kept = _BoxList(self.limit)
        size = 0  # letters up to where the list was last at no half number
        letters = "".join(self._letters(token) for token, _ in written)
        for place, letter in enumerate(letters, 1):
            longer = boxes.after(letter)
            if longer is None:
                break
            boxes = longer
            if boxes.place == "done":
                return None
            if not boxes.digits and boxes.place != "gap":
                kept, size = boxes, place
        if kept.place == "after box" and len(kept.boxes) >= self.limit:
            return None
        # A space belongs to the token of what follows it, in tokenizers that have such.
        text = letters[:size].rstrip(" ")
        pattern = " " * (size - len(text)) + _rest(kept)
        opening = _OPEN.format(phrase=phrase)
        return Continuation(opening + text, tuple(self._first_letters(written, len(text))), pattern)

    def _first_letters(self, written: Sequence[tuple[int, float]], size: int) -> Iterator[tuple[int, float]]:
        """The tokens of so many letters; one that has more is written anew."""
        for token, logprob in written:
            letters = self._letters(token)[:size]
            if not letters:
                return
            whole = len(letters) == len(self._letters(token))
            for piece in [token] if whole else self._vocabulary.encode(letters.encode()):
                yield piece, logprob
            size -= len(letters)

    def whole_answer(self, phrase: str, there: float, written: Sequence[tuple[int, float]]) -> WrittenAnswer:
        """Return the answer with its opening and what closes it; a list that was cut stays open."""
        boxes: _BoxList | None = _BoxList(self.limit)
        said: list[tuple[int, float]] = []
        for token, logprob in written:
            for letter in self._letters(token):
                boxes = boxes.after(letter) if boxes else None
            if boxes is None:
                break
            said.append((token, logprob))
        opening = self.opening(phrase)
        if boxes is not None and boxes.place == "after box" and len(boxes.boxes) >= self.limit:
            said += [(token, 0.0) for token in self._vocabulary.encode(b"]")]
            boxes = boxes.after("]")
        close = [(token, 0.0) for token in self._close] if boxes is not None and boxes.place == "done" else []
        tokens = [(opening[0], there), *((token, 0.0) for token in opening[1:]), *said, *close]
        ids = tuple(token for token, _ in tokens)
        return WrittenAnswer(self.backbone.decode_text(ids), ids, tuple(logprob for _, logprob in tokens))

    def _letters(self, token: int) -> str:
        pieces = self._vocabulary.pieces
        return pieces[token].decode("latin-1") if 0 <= token < len(pieces) else ""

    def decode(self, answers: Sequence[WrittenAnswer], request: DecodeRequest) -> Detections:
        """Read an answer for each phrase as scored boxes in pixels of the upright original, best first in each phrase.

        The last box of an answer that was cut off in the middle is left out.

        Raises:
            InputError: an answer that the grammar does not allow, or not one for each phrase.
        """
        if len(answers) != len(request.phrases):
            raise InputError(bad_argument("answers", f"{len(request.phrases)}, one for each phrase", len(answers)))
        boxes: list[Numbers] = []
        scores: list[float] = []
        labels: list[str] = []
        for index, (phrase, answer) in enumerate(zip(request.phrases, answers, strict=True)):
            found = self._read(phrase, answer, f"answers[{index}]")
            kept = [(score, box) for box, score in found if request.threshold is None or score >= request.threshold]
            for score, box in sorted(kept, key=lambda scored: -scored[0]):
                boxes.append(box)
                scores.append(score)
                labels.append(phrase)
        thousand = np.array(boxes, dtype=np.float64).reshape(-1, 4)
        return Detections.from_arrays(
            xyxy=request.grid.convert(thousand, "thousand", "image"),
            scores=scores,
            labels=labels,
            image_size=(request.grid.image_width, request.grid.image_height),
            model=request.model,
            phrases=request.phrases,
            decoder=self.name,
        )

    def _read(self, phrase: str, answer: WrittenAnswer, name: str) -> list[tuple[Numbers, float]]:
        """The whole boxes of an answer with their scores."""
        if len(answer.token_ids) != len(answer.logprobs):
            raise InputError(bad_argument(f"{name}.logprobs", "one for each token", len(answer.logprobs)))
        state = _GroundingState(_Grounding(self, phrase))
        there = min(answer.logprobs[0], 0.0) if answer.logprobs else 0.0
        opened: dict[int, float] = {}
        written: dict[int, list[float]] = {}
        for token, logprob in zip(answer.token_ids, answer.logprobs, strict=True):
            if not state.forces(token):
                opening = state.opens(token)
                if opening is not None:
                    opened[opening] = min(logprob, 0.0)
                for owner in state.boxes_of(token):
                    if owner != opening:
                        written.setdefault(owner, []).append(min(logprob, 0.0))
            try:
                state.accept(token)
            except ValueError as error:
                raise InputError(bad_argument(name, "written under the grounding grammar", answer.text)) from error
        scored = []
        for index, box in enumerate(state.list.boxes):
            sides = written.get(index, [0.0])
            scored.append((box, math.exp(there + opened.get(index, 0.0) + sum(sides) / len(sides))))
        return scored


# --- the list, letter by letter -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _BoxList:
    """What was written of `[[x0, y0, x1, y1], ...]`.

    Attributes:
        limit: most boxes.
        boxes: those that are closed.
        numbers: the whole numbers of the open box.
        digits: of the number being written.
        place: where in the list this is: what may come next, see `after`.
    """

    limit: int
    boxes: tuple[Numbers, ...] = ()
    numbers: tuple[int, ...] = ()
    digits: str = ""
    place: str = "start"

    def after(self, letter: str) -> "_BoxList | None":
        """Return the list with one more letter; None where it is not allowed."""
        match self.place, letter:
            case "start", " ":  # sentencepiece tokenizers like to begin so
                return self._at("list")
            case "start" | "list", "[":
                return self._at("first box")
            case "first box", "]":
                return self._at("done")
            case "first box" | "box", "[":
                return self._at("number")
            case "number", _ if letter in _DIGITS:
                return self._with_digit(letter)
            case "number", "," if len(self.numbers) < 3 and self._is_whole():
                return _BoxList(self.limit, self.boxes, (*self.numbers, int(self.digits)), "", "gap")
            case "gap", " ":
                return self._at("number")
            case "number", "]" if len(self.numbers) == 3 and self._is_whole():
                x0, y0, x1 = self.numbers
                return _BoxList(self.limit, (*self.boxes, (x0, y0, x1, int(self.digits))), (), "", "after box")
            case "after box", "]":
                return self._at("done")
            case "after box", "," if len(self.boxes) < self.limit:
                return self._at("box gap")
            case "box gap", " ":
                return self._at("box")
        return None

    def _at(self, place: str) -> "_BoxList":
        return _BoxList(self.limit, self.boxes, self.numbers, self.digits, place)

    def _with_digit(self, digit: str) -> "_BoxList | None":
        digits = self.digits + digit
        longer = _BoxList(self.limit, self.boxes, self.numbers, digits, "number")
        return longer if longer._possible() else None

    def _possible(self) -> bool:
        """Whether some number that is allowed here begins with the digits."""
        lowest, taken = self._lowest(), self._taken()
        if self.digits.startswith("0") and self.digits != "0":
            return False
        first = last = int(self.digits)
        while first <= _LARGEST:
            fitting = min(last, _LARGEST) - max(first, lowest) + 1
            if fitting > sum(first <= number <= last for number in taken):
                return True
            if first == 0:  # no digits follow a leading zero
                break
            first, last = first * 10, last * 10 + 9
        return False

    def _is_whole(self) -> bool:
        return bool(self.digits) and int(self.digits) >= self._lowest() and int(self.digits) not in self._taken()

    def _lowest(self) -> int:
        return 0 if len(self.numbers) < 2 else self.numbers[len(self.numbers) - 2] + 1

    def _taken(self) -> set[int]:
        """Numbers, none below `_lowest`, with which the box could only repeat another, or be no box."""
        same = [box for box in self.boxes if box[: len(self.numbers)] == self.numbers]
        match len(self.numbers):
            case 3:
                return {box[3] for box in same}
            case 2:
                y0 = self.numbers[1]
                return {x1 for x1, count in _counted(box[2] for box in same) if count == _LARGEST - y0}
            case 1:
                x0 = self.numbers[0]
                full = {
                    y0 for y0, count in _counted(box[1] for box in same) if count == (_LARGEST - x0) * (_LARGEST - y0)
                }
                return full | {_LARGEST}
        return {_LARGEST}  # more boxes begin with any other x0 than a list may have


_NUMBER = "(?:0|[1-9][0-9]{0,2}|1000)"
_BOX = rf"\[{_NUMBER}, {_NUMBER}, {_NUMBER}, {_NUMBER}\]"


def _rest(boxes: _BoxList) -> str:
    """A pattern of what may follow in a list, at a place where no number is half written."""
    more = boxes.limit - len(boxes.boxes)
    tail = rf"(?:, {_BOX}){{0,{more - 1}}}\]"
    match boxes.place:
        case "start" | "list":
            return (" ?" if boxes.place == "start" else "") + rf"\[(?:{_BOX}{tail}|\])"
        case "first box":
            return rf"(?:{_BOX}{tail}|\])"
        case "after box":
            return rf"(?:, {_BOX}){{0,{more}}}\]"
        case "box gap" | "box":
            return (" " if boxes.place == "box gap" else "") + _BOX + tail
    lowest, taken = boxes._lowest(), boxes._taken()
    right = "|".join(str(number) for number in range(lowest, _LARGEST + 1) if number not in taken)
    numbers = f", {_NUMBER}" * (3 - len(boxes.numbers))
    return rf"(?:{right}){numbers}\]{tail}"


def _counted(numbers: Iterator[int]) -> list[tuple[int, int]]:
    count: dict[int, int] = {}
    for number in numbers:
        count[number] = count.get(number, 0) + 1
    return list(count.items())


# --- tokens ---------------------------------------------------------------------------------------------------------


@dataclass
class _LetterTree:
    """Tokens made of a list's letters alone: those that end here, and those that continue."""

    ids: list[int] = field(default_factory=list)
    next: dict[str, "_LetterTree"] = field(default_factory=dict)


def _letter_tree(vocabulary: Vocabulary) -> _LetterTree:
    """Raises CheckpointError where a letter is no token of its own: the grammar could get stuck."""
    letters = set(_LETTERS.encode())
    tree = _LetterTree()
    for piece, ids in vocabulary.ids_of.items():
        if letters.issuperset(piece):
            node = tree
            for letter in piece.decode("ascii"):
                node = node.next.setdefault(letter, _LetterTree())
            node.ids += ids
    missing = [letter for letter in _LETTERS if letter not in tree.next or not tree.next[letter].ids]
    if missing:
        raise CheckpointError(f"the tokenizer has no tokens for {missing}, which boxes are written with")
    return tree


def _fitting(node: _LetterTree, boxes: _BoxList) -> Iterator[int]:
    """The tokens under `node` that may come next, whatever their length."""
    for letter, below in node.next.items():
        longer = boxes.after(letter)
        if longer is not None:
            yield from below.ids
            yield from _fitting(below, longer)


class _Given(NamedTuple):
    """Tokens that are not the model's choice: how many of them are written, of which sequences."""

    sequences: tuple[tuple[int, ...], ...]
    written: int = 0

    def next(self) -> set[int]:
        return {sequence[self.written] for sequence in self.sequences if len(sequence) > self.written}

    def after(self, token: int) -> "_Given":
        left = (s for s in self.sequences if len(s) > self.written and s[self.written] == token)
        return _Given(tuple(left), self.written + 1)


class _Grounding(Constraint):
    def __init__(self, decoder: GroundingDecoder, phrase: str) -> None:
        self.decoder = decoder
        self.opening = decoder.opening(phrase)

    def start(self) -> "_GroundingState":
        return _GroundingState(self)


class _GroundingState(ConstraintState):
    """Opening, list, closing, end; or the word for nothing, and the end."""

    def __init__(self, grammar: _Grounding) -> None:
        self._grammar = grammar
        self._decoder = grammar.decoder
        self.list = _BoxList(self._decoder.limit)
        self._part = "opening"
        self._given = _Given((grammar.opening, self._decoder._nothing))

    @property
    def complete(self) -> bool:
        """Whether the answer may end here; it must, then."""
        return self._part == "end"

    def mask(self, scores_V: Tensor) -> Tensor:
        return keep_only(scores_V, self._next())

    def accept(self, token: int) -> None:
        """Continue with `token`. Raises ValueError where it is not allowed."""
        if self._part == "end" and token in self._decoder.backbone.end_ids:
            return
        if self._part == "list":
            longer = self._longer(token)
            if longer is None:
                raise ValueError(f"token {token} is not allowed here")
            self.list = longer
            if longer.place == "done":
                self._part, self._given = "closing", _Given((self._decoder._close,))
            return
        if self._part == "end" or token not in self._given.next():
            raise ValueError(f"token {token} is not allowed here")
        self._given = self._given.after(token)
        finished = [sequence for sequence in self._given.sequences if len(sequence) == self._given.written]
        if self._part == "opening" and self._grammar.opening in finished:
            self._part = "list"
        elif finished:
            self._part = "end"

    def forces(self, token: int) -> bool:
        """Return whether nothing else could be written here; of a token, all letters."""
        if self._part != "list":
            return self._part == "end" or len(self._given.next()) == 1
        state: _BoxList | None = self.list
        for letter in self._letters(token):
            letters = _LETTERS.replace(" ", "") if state and state.place == "start" else _LETTERS
            if state is None or sum(state.after(other) is not None for other in letters) > 1:
                return False
            state = state.after(letter)
        return True

    def opens(self, token: int) -> int | None:
        """Return the box, counted from 0, that the next token would open, where it could end the list instead."""
        state: _BoxList | None = self.list if self._part == "list" else None
        for letter in self._letters(token):
            if state is None:
                break
            if (state.place, letter) in (("first box", "["), ("after box", ",")):
                return len(state.boxes)
            state = state.after(letter)
        return None

    def boxes_of(self, token: int) -> list[int]:
        """Return the boxes, counted from 0, that the next token would write a letter of."""
        if self._part != "list":
            return []
        state: _BoxList | None = self.list
        owners = []
        for letter in self._letters(token):
            if state is None:
                break
            after = state.after(letter)
            if after is not None and after.place != "done":
                owners.append(len(state.boxes))
            state = after
        return list(dict.fromkeys(owners))

    def _next(self) -> set[int]:
        if self._part == "end":
            return set(self._decoder.backbone.end_ids)
        if self._part == "list":
            return set(_fitting(self._decoder._tokens, self.list))
        return self._given.next()

    def _longer(self, token: int) -> _BoxList | None:
        state: _BoxList | None = self.list
        for letter in self._letters(token) or "?":  # a token without text is not allowed either
            state = state.after(letter) if state else None
        return state

    def _letters(self, token: int) -> str:
        return self._decoder._letters(token)
