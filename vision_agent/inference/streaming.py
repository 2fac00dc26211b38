"""Reads an answer token by token: its visible text, and the phrases that its routing tokens stand for.

The text of `"a dog[DET] and a cat[DET]"` is `"a dog and a cat"`; its tokens stand for `"a dog"` and `"a cat"`. Where
the model marks its phrases, as Sa2VA does (`"<p> a dog </p> [SEG]"`), the marks say what the phrase is. One class
reads whole answers and growing ones, so that both give the same.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from vision_agent.generation.stopping import cut_at_stop
from vision_agent.inference.engine import InferenceEngine
from vision_agent.plugins.route import RouteSpec
from vision_agent.results.answers import Answer
from vision_agent.results.events import AnswerDone, AnswerEvent, ResultReady, RouteOpened, TextDelta

PHRASE_START, PHRASE_END = "<p>", "</p>"
# What stands before a phrase without belonging to it.
_BEFORE = re.compile(r"(?:image-\d+\s*:|[\s,;:.!?]|(?:and|or|then|also)\b)*", re.IGNORECASE)
_CLOSING = ".,;:!?)]}"  # no space before these


@dataclass(frozen=True)
class OpenedRoute:
    """A routing token in an answer.

    Attributes:
        index: its place among the answer's tokens.
        spec: its route.
        phrase: the words it stands for, from `start` to `end` in the text.
        about: all that was written since the token before it.
    """

    index: int
    spec: RouteSpec
    phrase: str
    start: int
    end: int
    about: str


class AnswerReader:
    """Reads one answer, token by token.

    Attributes:
        text: the visible text so far.
        opened: the routing tokens so far.
    """

    def __init__(self, engine: InferenceEngine, specs: Mapping[int, RouteSpec], stop: Sequence[str]) -> None:
        """`specs`: the loaded routes by the ids of their tokens."""
        self.text = ""
        self.opened: list[OpenedRoute] = []
        self._engine = engine
        self._specs = specs
        self._stop = tuple(stop)
        vocabulary = engine.backbone.tokenizer.get_added_vocab()
        self._marks = {vocabulary[mark]: mark for mark in (PHRASE_START, PHRASE_END) if mark in vocabulary}
        self._read = 0  # tokens
        self._begin_piece()
        self._since = 0  # where the text since the last routing token begins
        self._mark: int | None = None  # where the text of an open mark begins
        self._marked: tuple[int, int] | None = None

    def push(self, ids: Sequence[int]) -> Iterator[str | OpenedRoute]:
        """Yield what is new in an answer: text and routing tokens. `ids` are all of its tokens so far."""
        for index in range(self._read, len(ids)):
            token = ids[index]
            if token in self._specs:
                yield from self.finish()
                yield self._open(index, self._specs[token])
            elif token in self._marks:
                yield from self.finish()
                if self._marks[token] == PHRASE_START:
                    self._mark = len(self.text)
                elif self._mark is not None:
                    self._marked, self._mark = (self._mark, len(self.text)), None
            else:
                self._piece.append(token)
        self._read = len(ids)
        if self._piece and (new := self._stream.push(self._piece)):
            yield self._add(new)

    def finish(self) -> Iterator[str]:
        """Yield the text that is still held back: the answer ends here, or its next piece begins."""
        if self._piece and (new := self._stream.finish(self._engine.visible_text(self._piece, self._stop))):
            yield self._add(new)
        self._begin_piece()

    def _begin_piece(self) -> None:
        # Text between two of the tokens that are not shown is a piece of its own.
        self._piece: list[int] = []
        self._stream = TextStream(self._engine, self._stop)
        self._fresh = True

    def _add(self, new: str) -> str:
        if self._fresh and self.text and new[0] not in _CLOSING:
            new = f" {new}"
        self._fresh = False
        self.text += new
        return new

    def _open(self, index: int, spec: RouteSpec) -> OpenedRoute:
        about = self.text[self._since :]
        start, end = self._marked or (self._since, len(self.text))
        before = _BEFORE.match(self.text, start, end)
        start = min(end, before.end() if before is not None else start)
        if start == end and self.opened:  # no text since the last one: the same phrase, by another route
            start, end = self.opened[-1].start, self.opened[-1].end
        self._since, self._marked = len(self.text), None
        self.opened.append(OpenedRoute(index, spec, self.text[start:end], start, end, about))
        return self.opened[-1]


_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")  # how sentencepiece vocabularies name the token of one byte


class TextStream:
    """Turns the growing tokens of an answer into pieces of text that, joined, are its `InferenceEngine.visible_text`.

    Holds back what the next token may change: half a character, space at the end, the beginning of a stop text. Each
    token is decoded with a few before it, never the whole answer again.
    """

    def __init__(self, engine: InferenceEngine, stop: Sequence[str]) -> None:
        self._engine = engine
        self._stop = tuple(stop)
        backbone = engine.backbone
        self._silent = frozenset([*backbone.tokenizer.all_special_ids, *backbone.end_ids])
        # Text is taken from the tokens up to `_taken`; it does not depend on those before `_context`.
        self._context = self._taken = 0
        self._held = ""
        self._sent = 0  # characters

    def push(self, ids: Sequence[int]) -> str:
        """Return the text that is new after these tokens (all of the answer so far)."""
        self._held += self._settled(ids)
        ready = cut_at_stop(self._held, self._stop)
        if len(ready) == len(self._held):
            ready = ready[: len(ready) - max((_begun_length(ready, stop) for stop in self._stop), default=0)]
        ready = ready.rstrip()
        new = ready if self._sent else ready.lstrip()
        if new:
            self._held = self._held[len(ready) :]
            self._sent += len(new)
        return new

    def finish(self, text: str) -> str:
        """Return what is still missing of the whole answer's visible text."""
        return text[self._sent :]

    def _settled(self, ids: Sequence[int]) -> str:
        """The text of the tokens since the last call, or nothing while the next token may change it."""
        size = len(ids)
        while size > self._taken and self._joins(ids[size - 1]):
            size -= 1
        known = self._engine.decode_text(ids[self._context : self._taken])
        text = self._engine.decode_text(ids[self._context : size])
        if len(text) <= len(known) or text.endswith("\ufffd"):
            return ""
        self._context, self._taken = self._taken, size
        return text[len(known) :]

    def _joins(self, token: int) -> bool:
        """Whether the next token may change what this one says.

        A run of byte tokens is decoded as a whole: where it turns out to be no UTF-8, none of its bytes is a letter.
        """
        if token in self._silent:
            return True
        name = self._engine.backbone.tokenizer.convert_ids_to_tokens(token)
        return _BYTE_TOKEN.fullmatch(str(name)) is not None


def _begun_length(text: str, stop: str) -> int:
    """How many characters at the end of the text are the beginning of a stop text."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)


def events_of(answer: Answer) -> Iterator[AnswerEvent]:
    """Yield a finished answer as events, in the order of its text."""
    sent = 0
    for routed in sorted(answer.routes, key=lambda each: each.end):
        if routed.end > sent:
            yield TextDelta(text=answer.text[sent : routed.end])
            sent = routed.end
        yield RouteOpened(token=routed.token, phrase=routed.phrase, start=routed.start, end=routed.end)
        yield ResultReady(routed=routed)
    if answer.text[sent:]:
        yield TextDelta(text=answer.text[sent:])
    yield AnswerDone(answer=answer)
