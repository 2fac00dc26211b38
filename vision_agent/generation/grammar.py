"""Grammars for structured answers: one of some choices, or JSON under a schema.

Both say which *bytes* may come next, so they hold for every tokenizer: where a tokenizer's own words do not fit, such
as upper-case keys in a lower-casing one, the tokens of single bytes do. JSON is left to llguidance
(https://github.com/guidance-ai/llguidance), which reads our own table of token bytes rather than the tokenizer.

An answer under a schema also has to *end* within its token limit. While tokens run short, every state knows an ending
(the strings closed, the required keys filled, the brackets shut) and allows only tokens after which there still is one
that fits.

Shape suffix: V scores of the vocabulary, as many as the model has; ids beyond the tokenizer's are never allowed.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary, ref

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vision_agent.errors import (
    ArgumentTypeError,
    CheckpointError,
    InputError,
    MissingExtraError,
    bad_argument,
    check_characters,
)
from vision_agent.generation.json_schema import PreparedSchema, prepare_schema
from vision_agent.generation.runaway import RunawayWatch
from vision_agent.generation.vocabulary import Vocabulary, vocabulary_of
from vision_agent.plugins.constraint import Constraint, ConstraintState

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer
    from pydantic import BaseModel

# How JSON is spaced: as `json.dumps` does, with no freedom that could run away.
_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_LONGEST_ENDING = 2048  # tokens; a schema whose shortest answer needs more is taken to have no finite one
_LONGEST_NUMBER = 24  # bytes
_TRIED = 4  # of the best tokens, how many are tried one by one where room is short
# What ends JSON soonest comes first: inside of strings, and outside of them.
_IN_STRING = b'"' + bytes(range(ord("a"), ord("z") + 1)) + b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ-_:./@ +T"
_OUTSIDE = b'}],"0123456789ntf-[{'


def keep_only(scores_V: Tensor, ids: Iterable[int]) -> Tensor:
    """Return the scores of some token ids, and minus infinity for all others."""
    index = torch.tensor([number for number in ids if number < len(scores_V)], dtype=torch.long, device=scores_V.device)
    kept_V = torch.full_like(scores_V, -torch.inf)
    kept_V[index] = scores_V[index]
    return kept_V


# --- choices --------------------------------------------------------------------------------------------------------


def choice_constraint(tokenizer: Any, choices: Sequence[str], end_ids: Sequence[int]) -> Constraint:
    """Return a grammar of answers that are exactly one of the choices, however tokens write it.

    A space may stand before it: in many tokenizers a word begins with one, and a model that was taught `" no"` has
    next to no opinion on `"no"`.

    Raises:
        ArgumentTypeError: `choices` is no sequence of strings.
        InputError: no choices, a blank one, or one that is there twice.
        CheckpointError: the tokenizer cannot write one of them.
    """
    if isinstance(choices, str) or not isinstance(choices, Sequence) or not all(isinstance(c, str) for c in choices):
        raise ArgumentTypeError(bad_argument("choices", "a list of strings", choices))
    if not choices:
        raise InputError(bad_argument("choices", "at least one string", choices))
    for index, choice in enumerate(choices):
        if not choice.strip():
            raise InputError(bad_argument(f"choices[{index}]", "some words", choice))
        check_characters(f"choices[{index}]", choice)
        if choice in choices[:index]:
            raise InputError(bad_argument(f"choices[{index}]", "different from the others", choice))
    return _Choices(vocabulary_of(tokenizer), tuple(choice.encode() for choice in choices), tuple(end_ids))


class _Choices(Constraint):
    def __init__(self, vocabulary: Vocabulary, texts: tuple[bytes, ...], end_ids: tuple[int, ...]) -> None:
        self.vocabulary = vocabulary
        self.end_ids = end_ids
        # Each choice with the places in it from which tokens can write the rest.
        spaced = [*texts, *(b" " + text for text in texts if not text.startswith(b" "))]
        self.texts: dict[bytes, frozenset[int]] = {}
        for text in dict.fromkeys(spaced):
            places = _open_places(vocabulary, text)
            if 0 in places:
                self.texts[text] = places
            elif text in texts:
                raise CheckpointError(f"the tokenizer has no tokens to write {text.decode()!r} with")

    def start(self) -> "_ChoiceState":
        return _ChoiceState(self)


def _open_places(vocabulary: Vocabulary, text: bytes) -> frozenset[int]:
    places = {len(text)}
    for place in reversed(range(len(text))):
        if any(place + len(vocabulary.pieces[token]) in places for token in vocabulary.starts(text[place:])):
            places.add(place)
    return frozenset(places)


class _ChoiceState(ConstraintState):
    def __init__(self, choices: _Choices) -> None:
        self._choices = choices
        self._written = b""

    @property
    def complete(self) -> bool:
        """Whether what was written is a whole choice."""
        return self._written in self._choices.texts

    def mask(self, scores_V: Tensor) -> Tensor:
        done, vocabulary = len(self._written), self._choices.vocabulary
        allowed = {
            token
            for text, places in self._choices.texts.items()
            if text.startswith(self._written)
            for token in vocabulary.starts(text[done:])
            if done + len(vocabulary.pieces[token]) in places
        }
        if self.complete:
            allowed.update(self._choices.end_ids)
        return keep_only(scores_V, allowed)

    def forces(self, token: int) -> bool:
        possible = [text for text in self._choices.texts if text.startswith(self._written)]
        if token in self._choices.end_ids:
            return len(possible) == 1
        rest = [text[len(self._written) :] for text in possible]
        piece = self._choices.vocabulary.pieces[token]
        if not self._written:  # a space before the choice is no choice
            rest, piece = [text.lstrip() for text in rest], piece.lstrip()
        return all(text.startswith(piece) for text in rest)

    def accept(self, token: int) -> None:
        if token not in self._choices.end_ids:
            self._written += self._choices.vocabulary.pieces[token]


# --- JSON -----------------------------------------------------------------------------------------------------------


def json_constraint(
    tokenizer: Any,
    schema: "type[BaseModel] | dict[str, Any]",
    end_ids: Sequence[int],
    *,
    max_new_tokens: int | None = None,
) -> Constraint:
    """Return a grammar of answers that are JSON under a schema, spaced as by `json.dumps`.

    Args:
        tokenizer: of the model that answers.
        schema: a Pydantic model class or a JSON schema; how it is narrowed: `generation.json_schema`.
        end_ids: tokens that end an answer.
        max_new_tokens: most tokens of an answer, its end token included, within which it ends. None leaves that to
            the model, which may then be cut off in the middle.

    Raises:
        ArgumentTypeError: `schema` is neither a model class nor a dict.
        InputError: `schema` has a kind of value that is not supported, or `max_new_tokens` is too few for any answer.
        MissingExtraError: llguidance is not installed.
    """
    prepared = prepare_schema(schema)
    try:
        from llguidance import LLMatcher
    except ImportError as error:
        raise MissingExtraError(
            'answers under a schema need llguidance: pip install "internvl-vision-agent[structured]"'
        ) from error
    grammar = LLMatcher.grammar_from_json_schema(prepared.schema, overrides=_SPACING)  # type: ignore[arg-type]
    vocabulary = vocabulary_of(tokenizer)
    tokens = _grammar_tokens(vocabulary, tuple(end_ids))
    matcher = LLMatcher(tokens.tokenizer, grammar, log_level=0)
    if matcher.is_error():
        said = " ".join(matcher.get_error().split())
        raise InputError(bad_argument("schema", "a JSON schema that a grammar can be made of", said))
    settings = _JsonSettings(tokenizer, tuple(end_ids), tokens, prepared, max_new_tokens)
    constraint = _Json(vocabulary, matcher, settings)
    needed = len(constraint.shortest) + 1
    if max_new_tokens is not None and needed > max_new_tokens:
        expected = f"at least {needed}, which the shortest answer under `schema` needs"
        raise InputError(bad_argument("max_new_tokens", expected, max_new_tokens))
    return constraint


class _TokenTable:
    """Our table of token bytes, the way llguidance asks for one."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary, end_ids: tuple[int, ...]) -> None:
        names = {number: text for text, number in vocabulary.marks.items()}
        size = max(len(vocabulary.pieces), *(number + 1 for number in (*end_ids, *names)))
        pieces = [*vocabulary.pieces, *[b""] * (size - len(vocabulary.pieces))]
        unwritten = [number for number, piece in enumerate(pieces) if not piece]
        self.tokens = [piece or names.get(number, f"<unused {number}>").encode() for number, piece in enumerate(pieces)]
        self.special_token_ids = sorted({*unwritten, *end_ids})
        self.eos_token_id = end_ids[0]
        self._vocabulary = ref(vocabulary)  # the cache below must not keep it alive
        # Called for every stretch of text that a grammar leaves no choice in, mostly the same keys.
        self._encode = lru_cache(maxsize=4096)(self._encoded)

    def __call__(self, text: str | bytes) -> list[int]:
        return list(self._encode(text.encode() if isinstance(text, str) else text))

    def _encoded(self, data: bytes) -> tuple[int, ...]:
        vocabulary = self._vocabulary()
        if vocabulary is None:
            raise ReferenceError("the vocabulary of this token table is gone")
        return tuple(vocabulary.encode(data))


@dataclass(frozen=True)
class _GrammarTokens:
    """What grammars need of a vocabulary, made once for it.

    Attributes:
        tokenizer: llguidance's view of it.
        begun_V: how many values each token may begin, counted by the marks before them.
        quotes_V: whether a token has a quote.
        closes_V: for what runs on, whether a token closes it: by the token's first byte.
    """

    tokenizer: "LLTokenizer"
    begun_V: npt.NDArray[np.int64]
    quotes_V: npt.NDArray[np.bool_]
    closes_V: dict[str, npt.NDArray[np.bool_]]


_GRAMMAR_TOKENS: "WeakKeyDictionary[Vocabulary, dict[tuple[int, ...], _GrammarTokens]]" = WeakKeyDictionary()


def _grammar_tokens(vocabulary: Vocabulary, end_ids: tuple[int, ...]) -> _GrammarTokens:
    from llguidance import LLTokenizer

    made = _GRAMMAR_TOKENS.setdefault(vocabulary, {})
    if end_ids not in made:
        table: Any = _TokenTable(vocabulary, end_ids)
        pieces = [*vocabulary.pieces, *[b""] * (len(table.tokens) - len(vocabulary.pieces))]
        first_V = np.array([piece[0] if piece else 0 for piece in pieces], dtype=np.uint8)
        made[end_ids] = _GrammarTokens(
            LLTokenizer(table, eos_token=list(end_ids)),
            np.array([sum(piece.count(mark) for mark in (b"{", b"[", b",", b'"')) for piece in pieces]),
            np.array([b'"' in piece for piece in pieces]),
            {
                "text": first_V == ord('"'),
                "list": first_V == ord("]"),
                "number": ~np.isin(first_V, np.frombuffer(b"0123456789.eE+-", dtype=np.uint8)),
            },
        )
    return made[end_ids]


class _Place(NamedTuple):
    """Where JSON text stops: inside of a string, and there after a backslash."""

    quoted: bool = False
    escaped: bool = False

    def after(self, text: bytes) -> "_Place":
        quoted, escaped = self
        for byte in text:
            if escaped:
                escaped = False
            elif byte == ord("\\"):
                escaped = quoted
            elif byte == ord('"'):
                quoted = not quoted
        return _Place(quoted, escaped)


@dataclass(frozen=True)
class _JsonSettings:
    """What all answers of a constraint share besides its grammar.

    Attributes:
        tokenizer: held here, since caches and tables hold it weakly.
        end_ids: tokens that end an answer.
        tokens: the vocabulary as grammars see it.
        prepared: the schema; its bounds in bytes hold for tokens, which are no shorter.
        most: tokens of an answer, its end token included; None for no limit.
    """

    tokenizer: Any
    end_ids: tuple[int, ...]
    tokens: _GrammarTokens
    prepared: PreparedSchema
    most: int | None


class _Json(Constraint):
    def __init__(self, vocabulary: Vocabulary, matcher: "LLMatcher", settings: _JsonSettings) -> None:
        self.vocabulary = vocabulary
        self.settings = settings
        self.matcher = matcher
        # The most that each token may add to the shortest ending, outside of strings and (without a quote) inside.
        scalar, value = max(settings.prepared.text_growth, _LONGEST_NUMBER), settings.prepared.growth
        outside = settings.tokens.begun_V * value + scalar
        self.growth_V = {
            False: outside,
            True: np.where(settings.tokens.quotes_V, outside, settings.prepared.text_growth),
        }
        self._in_string = _single_bytes(vocabulary, _IN_STRING)
        self._outside = _single_bytes(vocabulary, _OUTSIDE)

        shortest = self.ending(matcher, _Place(), _LONGEST_ENDING)
        if shortest is None:
            raise InputError(bad_argument("schema", "satisfied by some short JSON text", settings.prepared.schema))
        self.shortest = shortest

    def start(self) -> "_JsonState":
        return _JsonState(self)

    def allowed(self, matcher: "LLMatcher") -> npt.NDArray[np.bool_]:
        """Return bool (V,): the tokens that may come next, end tokens left out."""
        size = self.settings.tokens.tokenizer.vocab_size
        words = np.zeros(-(-size // 32), dtype=np.int32)
        matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
        allowed = np.unpackbits(words.view(np.uint8), bitorder="little")[:size].astype(np.bool_)
        allowed[list(self.settings.end_ids)] = False
        return allowed

    def ending(
        self, matcher: "LLMatcher", place: _Place, most: int, known: list[int] | None = None
    ) -> list[int] | None:
        """Return tokens that soon end the answer, without the end token; None where there are more than `most`.

        `known` is taken where it still ends the answer: inside of a text it does, whatever was written.
        """
        if known is not None and len(known) <= most:
            led = matcher.deep_copy()
            if led.consume_tokens(known) and led.is_accepting():
                return known
        matcher = matcher.deep_copy()
        tokens: list[int] = []
        used: Counter[int] = Counter()
        while not matcher.is_accepting():
            new = matcher.compute_ff_tokens()
            if not new:
                allowed = self.allowed(matcher)
                order, closing = (self._in_string, 1) if place.quoted else (self._outside, 3)
                fitting = [token for token in order if allowed[token]] or np.flatnonzero(allowed).tolist()
                if not fitting:
                    return None
                # What closes comes first; the others take turns, so that no pattern sticks in a part that repeats.
                closes = fitting[0] in order[:closing]
                new = [fitting[0] if closes else min(fitting, key=lambda token: used[token])]
                used[new[0]] += 1
            if len(tokens) + len(new) > most or not matcher.consume_tokens(new):
                return None
            tokens += new
            place = place.after(self.vocabulary.write(new))
        return tokens


def _single_bytes(vocabulary: Vocabulary, order: bytes) -> list[int]:
    return [vocabulary.ids_of[bytes([byte])][0] for byte in order if bytes([byte]) in vocabulary.ids_of]


class _JsonState(ConstraintState):
    def __init__(self, grammar: _Json) -> None:
        self._grammar = grammar
        self._matcher = grammar.matcher.deep_copy()
        self._place = _Place()
        self._written = 0
        self._ended = False
        # The last known way to end, whether it is one from here, and else what another may need at most.
        self._ending = grammar.shortest
        self._sure = True
        self._needed = len(grammar.shortest)
        self._tried: dict[int, list[int]] = {}
        self._runaway = RunawayWatch()
        self._warnings: dict[str, None] = {}

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was cut: numbers, texts and lists that repeated themselves, and what the token limit ended."""
        return tuple(self._warnings)

    @property
    def complete(self) -> bool:
        """Whether what was written is JSON under the schema."""
        return self._ended or self._matcher.is_accepting()

    def mask(self, scores_V: Tensor) -> Tensor:
        settings = self._grammar.settings
        if self._ended or self._matcher.is_stopped():
            return keep_only(scores_V, settings.end_ids)
        allowed = self._closing(scores_V, self._grammar.allowed(self._matcher)[: len(scores_V)])
        if settings.most is not None:
            allowed = self._in_time(scores_V, allowed, settings.most - self._written)
        if self.complete:
            allowed[[number for number in settings.end_ids if number < len(allowed)]] = True
        mask_V = torch.zeros(len(scores_V), dtype=torch.bool)
        mask_V[: len(allowed)] = torch.from_numpy(allowed)
        return scores_V.masked_fill(~mask_V.to(scores_V.device), -torch.inf)

    def forces(self, token: int) -> bool:
        if token in self._grammar.settings.end_ids:
            return bool(self._ended or self._matcher.is_stopped())
        return bool(self._matcher.compute_ff_bytes().startswith(self._grammar.vocabulary.pieces[token]))

    def accept(self, token: int) -> None:
        self._written += 1
        if token in self._grammar.settings.end_ids:
            self._ended = True
            return
        if not self._matcher.consume_token(token):
            raise ValueError(f"token {token} is not allowed here: {self._matcher.get_error()}")
        if token in self._tried:
            self._know(self._tried[token])
        elif self._sure and self._ending[:1] == [token]:
            self._know(self._ending[1:])
        else:
            self._needed += int(self._grammar.growth_V[self._place.quoted][token])
            self._sure = False
        self._tried = {}
        self._place = self._place.after(self._grammar.vocabulary.pieces[token])
        self._runaway.push(self._grammar.vocabulary.pieces[token])

    def _know(self, ending: list[int]) -> None:
        self._ending, self._needed, self._sure = ending, len(ending), True

    def _closing(self, scores_V: Tensor, allowed: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """bool (V,): of those allowed, where something runs on and may close, those that close it."""
        runaway = self._runaway.runaway
        if runaway is None:
            return allowed
        closing = allowed & self._grammar.settings.tokens.closes_V[runaway][: len(allowed)]
        if not closing.any() and not self._matcher.is_accepting():
            return allowed
        candidates = torch.from_numpy(np.flatnonzero(allowed))
        if len(candidates) and not closing[int(candidates[scores_V.detach().to("cpu")[candidates].argmax()])]:
            self._warnings[f"a {runaway} was cut because it repeated itself: ...{self._runaway.tail}"] = None
        return closing

    def _in_time(self, scores_V: Tensor, allowed: npt.NDArray[np.bool_], left: int) -> npt.NDArray[np.bool_]:
        """bool (V,): those allowed after which the answer can still end; `left` counts the next one and the end token.

        Of tokens that might leave too little room, only the best are tried.
        """
        room = left - 2  # for an ending after the next token
        growth_V = self._grammar.growth_V[self._place.quoted][: len(allowed)]
        if self._needed + growth_V.max() <= room:
            return allowed
        candidates = torch.from_numpy(np.flatnonzero(allowed))
        best = candidates[scores_V.detach().to("cpu")[candidates].topk(min(_TRIED, len(candidates))).indices].tolist()
        fits = allowed & (growth_V + self._needed <= room)
        if fits[best].all():
            return fits
        if not self._sure:
            ending = self._grammar.ending(self._matcher, self._place, room + 1, self._ending)
            if ending is None:
                return allowed  # past the limit: the caller went on after it
            self._know(ending)
            fits = allowed & (growth_V + len(ending) <= room)
        # With no room to spare, nothing but the known ending can fit.
        for token in best if len(self._ending) <= room else ():
            if not fits[token]:
                ending = self._ending_after(token, room)
                if ending is not None:
                    self._tried[token] = ending
                    fits[token] = True
        if self._ending:
            # The grammar takes it, even if llguidance would have written the same text in other tokens.
            fits[self._ending[0]] = True
        if not fits[best[0]]:
            self._warnings["`max_new_tokens` ended the answer: its last values are cut short"] = None
        return fits

    def _ending_after(self, token: int, room: int) -> list[int] | None:
        matcher = self._matcher.deep_copy()
        if not matcher.consume_token(token):
            return None
        place = self._place.after(self._grammar.vocabulary.pieces[token])
        return self._grammar.ending(matcher, place, room, self._ending)
