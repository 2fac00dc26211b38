"""Prompts: conversations with images, as text and as token ids.

A question may say where its images go with `<image>`; the placeholders of a conversation are filled from left to
right. What a user types is text, never a control token: a `<|im_end|>` in a question does not end it.
"""

import re
import sys
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from types import FrameType
from typing import Any, NamedTuple, Protocol

from jinja2 import Environment
from jinja2.nodes import Const, Pow

from vision_agent.errors import CheckpointError, InputError, bad_argument, first_line
from vision_agent.model.tokenizing import tokenized

IMAGE_START, IMAGE_END, IMAGE_CONTEXT = "<img>", "</img>", "<IMG_CONTEXT>"
PLACEHOLDER = "<image>"
# InternVL's markup for grounding, which its authors document for questions. It controls nothing, so users may type it.
_MARKUP = frozenset({"<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>"})
# Private-use characters stand for what users wrote while a template is rendered; no template changes them.
_MARK = "\ue000"
# Of a chat template, far above what any needs.
_MOST_SECONDS, _MOST_CHARACTERS, _LARGEST_NUMBER = 5.0, 100_000, 1_000_000
# GPT-OSS writes the channel of an answer before its words ("Harmony"). It has one for answers, so that is given: the
# words come first, and grammars and routes begin with them.
_CHANNEL, _ANSWERING = "<|channel|>final<|message|>", "<|start|>assistant"
_MARKED = re.compile(f"{_MARK}(\\d+){_MARK}")

Turn = tuple[str, str | None]


class Render(Protocol):
    """A chat template: rounds of (question, answer) to text, and a system message in place of the template's own."""

    def __call__(self, turns: Sequence[Turn], system_message: str | None = None, /) -> str: ...


class Piece(NamedTuple):
    """A part of a rendered dialogue: template text, what somebody said, or one `IMAGE_CONTEXT` for a placeholder."""

    text: str
    template: bool
    answer: bool = False


@dataclass(frozen=True)
class Prompt:
    """A conversation ready for its next answer.

    Attributes:
        text: as the model was taught to read it, image tokens included.
        ids: its token ids.
    """

    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Dialogue:
    """A conversation whose last answer is given, as training reads it.

    Attributes:
        ids: its token ids, image tokens included.
        learned: for each, whether the model is to learn to write it: the answers, and the token that ends each.
    """

    ids: tuple[int, ...]
    learned: tuple[bool, ...]


def with_placeholders(question: str, images: int, *, combine: bool = False, first: int = 1) -> str:
    """Give a question a placeholder for each of its images, where it has none of its own.

    One image stands before the question; several are numbered `Image-1: <image>`, as InternVL was trained, unless
    they are combined into one placeholder.

    Args:
        first: number of the first image, for later rounds of a conversation.

    Raises:
        InputError: several placeholders for combined images.
    """
    if combine and images and question.count(PLACEHOLDER) > 1:
        expected = f"one {PLACEHOLDER} placeholder, where all images go together, because of `combine`"
        raise InputError(bad_argument("question", expected, question))
    if not images or PLACEHOLDER in question:
        return question
    if combine or (images == 1 and first == 1):
        return f"{PLACEHOLDER}\n{question}"
    return "".join(f"Image-{first + index}: {PLACEHOLDER}\n" for index in range(images)) + question


class PromptWriter:
    """Writes prompts in a checkpoint's own format.

    Args:
        tokenizer: of the checkpoint.
        render: its chat template: rounds of (question, answer), the last answer None, to text.
        name: of the checkpoint, for errors.
    """

    def __init__(self, tokenizer: Any, render: Render, name: str) -> None:
        self._tokenizer = tokenizer
        self._render = render
        self._name = name
        self._context_id = tokenizer.convert_tokens_to_ids(IMAGE_CONTEXT)
        specials = sorted(set(tokenizer.get_added_vocab()) - _MARKUP - {""}, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, specials)))
        # A tokenizer that begins every piece with a space makes the same tokens of a phrase wherever it stands, if it
        # is read as a piece of its own.
        self._by_pieces = _adds_prefix_space(tokenizer)
        self._opening = _opening(tokenizer, render)

    def write(
        self,
        turns: Sequence[Turn],
        image_tokens: Sequence[int],
        places: Sequence[int | None] = (),
        *,
        opened: bool = True,
    ) -> Prompt:
        """Write the prompt of a conversation.

        Args:
            turns: rounds of (question, answer); the last answer is None. An `<image>` in an answer is plain text.
            image_tokens: how many tokens fill each placeholder, from left to right. Without any, a typed
                `<image>` is plain text.
            places: for each round, how many of its `<image>` stand for images; those after them are plain text.
                None, or no number for a round: all of them.
            opened: where answers begin with the name of a channel, write it before each of them, the next one too.

        Raises:
            InputError: placeholders and images differ in number.
        """
        opening = self._opening if opened else ""
        pieces = self._placed(turns, image_tokens, places, opening)
        counts = iter(image_tokens)
        shown = [
            IMAGE_START + IMAGE_CONTEXT * next(counts) + IMAGE_END
            if piece.template and piece.text == IMAGE_CONTEXT
            else piece.text
            for piece in pieces
        ]
        return Prompt("".join(shown), tuple(self._expanded(self._ids(pieces), image_tokens)))

    def write_dialogue(
        self,
        turns: Sequence[tuple[str, str]],
        image_tokens: Sequence[int],
        places: Sequence[int | None] = (),
        *,
        system: str | None = None,
        end_ids: Sequence[int] = (),
    ) -> Dialogue:
        """Write a conversation with all its answers, and say which tokens are theirs.

        Args:
            turns, image_tokens, places: as for `write`, with a last answer.
            system: the system message; None for the template's own.
            end_ids: of what ends a dialogue: the last answer ends with one of them, whatever the template writes.

        Raises:
            InputError: placeholders and images differ in number.
        """
        pieces = self._placed(turns, image_tokens, places, self._opening, system)
        ids, owners = self._owned_ids(pieces)
        learned = [owner >= 0 and pieces[owner].answer for owner in owners]
        ends = [place for place in range(1, len(ids)) if learned[place - 1] and owners[place] != owners[place - 1]]
        for place in ends:
            learned[place] = True
        if ends and end_ids and ids[ends[-1]] not in end_ids:
            ids[ends[-1]] = end_ids[0]
        counts = iter(image_tokens)
        repeats = [next(counts) if token == self._context_id else 1 for token in ids]
        return Dialogue(
            tuple(token for token, count in zip(ids, repeats, strict=True) for _ in range(count)),
            tuple(each for each, count in zip(learned, repeats, strict=True) for _ in range(count)),
        )

    def parts(self, image_tokens: Sequence[int]) -> tuple[list[int], list[int]]:
        """Return the ids before and after the text of a first question whose images stand before it."""
        question = f"{PLACEHOLDER}\n" * len(image_tokens) + f"{_MARK}0{_MARK}"
        rendered = self._render([(question, None)])
        before, found, after = rendered.partition(f"{_MARK}0{_MARK}")
        if not found or before.count(PLACEHOLDER) != len(image_tokens):
            raise CheckpointError(f"the chat template of {self._name!r} drops the user's text or an image")
        before = before.replace(PLACEHOLDER, IMAGE_START + IMAGE_CONTEXT + IMAGE_END)
        before_ids = self._tokenized(before, add_special_tokens=self._adds_bos(before))
        after_ids = self._tokenized(_ended(after, self._opening), add_special_tokens=False)
        return self._expanded(before_ids, image_tokens), after_ids

    def text_ids(self, text: str) -> list[int]:
        """Return the token ids of plain text. Special tokens that a user types stay text."""
        return self._tokenized(text, add_special_tokens=False, split_special_tokens=True)

    def _placed(
        self,
        turns: Sequence[Turn],
        image_tokens: Sequence[int],
        places: Sequence[int | None],
        opening: str,
        system: str | None = None,
    ) -> list[Piece]:
        """The pieces of a conversation, with as many placeholders as images."""
        pieces = self._pieces(turns, places if image_tokens else [0] * len(turns), opening, system)
        found = sum(piece.template and piece.text == IMAGE_CONTEXT for piece in pieces)
        if found != len(image_tokens):
            raise InputError(
                f"`images` has {len(image_tokens)} images, but the conversation has {found} {PLACEHOLDER} "
                "placeholders; write one for each image, or none at all"
            )
        return pieces

    def _pieces(
        self, turns: Sequence[Turn], places: Sequence[int | None], opening: str, system: str | None
    ) -> list[Piece]:
        written: list[list[str]] = [] if system is None else [[system]]  # texts, cut at their placeholders
        answers: set[int] = set()  # which of them are
        marked: list[Turn] = []
        for index, (question, answer) in enumerate(turns):
            count = places[index] if index < len(places) else None
            said = [question.split(PLACEHOLDER, -1 if count is None else count)]
            said += [] if answer is None else [[answer.removeprefix(opening)]]
            marks = [f"{_MARK}{len(written) + number}{_MARK}" for number in range(len(said))]
            marked.append((marks[0], marks[1] if answer is not None else None))
            answers |= {len(written) + 1} if answer is not None else set()
            written += said
        text = self._render(marked) if system is None else self._render(marked, f"{_MARK}0{_MARK}")
        rendered = _MARKED.split(text)
        if [int(number) for number in rendered[1::2]] != list(range(len(written))):
            raise CheckpointError(f"the chat template of {self._name!r} drops or repeats what was said")
        pieces: list[Piece] = []
        for index, piece in enumerate(rendered):
            if index % 2 == 0:
                last = index + 1 == len(rendered) and turns[-1][1] is None
                opens = last or (index + 1 < len(rendered) and int(rendered[index + 1]) in answers)
                pieces.append(Piece(_ended(piece, opening) if opens else piece, True))
                continue
            for place, part in enumerate(written[int(piece)]):
                if place:
                    # The line break after an image is the format's, not the user's.
                    pieces += [Piece(IMAGE_CONTEXT, True), Piece("\n" if part.startswith("\n") else "", True)]
                    part = part.removeprefix("\n")
                pieces.append(Piece(part, False, int(piece) in answers))
        return [piece for piece in pieces if piece.text]

    def _ids(self, pieces: Sequence[Piece]) -> list[int]:
        whole = _with_marks(pieces)
        if self._as_a_whole(pieces):
            return self._tokenized("".join(whole), add_special_tokens=self._adds_bos(whole[0]))
        return [token for each in self._ids_by_piece(pieces, whole) for token in each]

    def _owned_ids(self, pieces: Sequence[Piece]) -> tuple[list[int], list[int]]:
        """Token ids, and for each the number of the piece that it begins in; -1 for one that nothing wrote."""
        whole = _with_marks(pieces)
        if not self._as_a_whole(pieces):
            parts = self._ids_by_piece(pieces, whole)
            owners = [number for number, part in enumerate(parts) for _ in part]
            return [token for part in parts for token in part], owners
        options = {"add_special_tokens": self._adds_bos(whole[0]), "return_offsets_mapping": True}
        read = tokenized(self._tokenizer, "".join(whole), verbose=False, **options)
        ends = list(accumulate(map(len, whole)))
        owners = [bisect_right(ends, start) if end > start else -1 for start, end in read["offset_mapping"]]
        return list(read["input_ids"]), owners

    def _as_a_whole(self, pieces: Sequence[Piece]) -> bool:
        """Words may join across the edge of template and text: then only the whole gives the tokens of training."""
        said = (piece.text for piece in pieces if not piece.template)
        return not self._by_pieces and not any(self._special.search(text) for text in said)

    def _ids_by_piece(self, pieces: Sequence[Piece], whole: Sequence[str]) -> list[list[int]]:
        return [
            self._tokenized(text, add_special_tokens=index == 0 and self._adds_bos(text))
            if piece.template
            else self.text_ids(text)
            for index, (text, piece) in enumerate(zip(whole, pieces, strict=True))
        ]

    def _adds_bos(self, opening: str) -> bool:
        """Whether the tokenizer may put its first token; some templates write it themselves."""
        bos: str | None = self._tokenizer.bos_token
        return not (bos and opening.startswith(bos))

    def _tokenized(self, text: str, **options: bool) -> list[int]:
        # The context is checked by its true length; transformers would warn of the one in the tokenizer's files.
        ids: list[int] = tokenized(self._tokenizer, text, verbose=False, **options)["input_ids"]
        return ids

    def _expanded(self, ids: Sequence[int], image_tokens: Sequence[int]) -> list[int]:
        """Every image's single context token, as often as the image has tokens."""
        counts = iter(image_tokens)
        expanded: list[int] = []
        for token in ids:
            expanded += [token] * next(counts) if token == self._context_id else [token]
        return expanded


def render_native(tokenizer: Any, name: str) -> Render:
    """Return the chat template in a native checkpoint's files as a function.

    A template that knows no lists of parts, as those of language models, gets plain strings.

    Args:
        name: of the checkpoint, for errors.

    Raises:
        CheckpointError: there is no template; later, one that fails.
    """
    if tokenizer.chat_template is None:
        raise CheckpointError(f"the checkpoint {name!r} has no chat template: expected a file chat_template.jinja")
    _check_numbers(str(tokenizer.chat_template), name)

    def message(role: str, text: str, parts: bool) -> dict[str, Any]:
        return {"role": role, "content": [{"type": "text", "text": text}] if parts else text}

    def written(turns: Sequence[Turn], parts: bool, system: str | None = None) -> str:
        messages = [] if system is None else [message("system", system, parts)]
        for question, answer in turns:
            messages.append(message("user", question, parts))
            if answer is not None:
                messages.append(message("assistant", answer, parts))
        try:
            with _deadline():
                text: str = tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=not turns or turns[-1][1] is None
                )
        except Exception as error:  # jinja and the template's own code raise many kinds
            raise CheckpointError(f"the chat template of {name!r} fails: {first_line(error)}") from error
        said = sum(len(question) + len(answer or "") for question, answer in turns)
        if len(text) > _MOST_CHARACTERS + 10 * said:
            raise CheckpointError(f"the chat template of {name!r} writes {len(text)} characters around {said}")
        return text

    try:
        probe = written([(_MARK, None)], parts=True)
        parts = "'type'" not in probe and _MARK in probe
    except CheckpointError:
        parts = False
    return lambda turns, system_message=None, /: written(turns, parts, system_message)


def _check_numbers(template: str, name: str) -> None:
    """Refuse powers and very large numbers: one text of that length takes all memory, in a step that none can stop."""
    try:
        syntax = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(template)
    except Exception:  # said where it is used; some tags are transformers' own
        return
    large = (each.value for each in syntax.find_all(Const) if isinstance(each.value, int | float))
    if any(abs(value) > _LARGEST_NUMBER for value in large) or next(syntax.find_all(Pow), None) is not None:
        raise CheckpointError(
            f"the chat template of {name!r} reckons with powers, or with numbers above {_LARGEST_NUMBER}; none that "
            "writes dialogues does"
        )


@contextmanager
def _deadline() -> Iterator[None]:
    """Stop a template that loops without end; beside a debugger or a coverage tool, which use the same hook, never."""
    if sys.gettrace() is not None:
        yield
        return
    end = time.monotonic() + _MOST_SECONDS

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code.co_filename != "<template>":  # jinja's name for what it made of a template
            return None
        if time.monotonic() > end:
            raise TimeoutError(f"it takes more than {_MOST_SECONDS:g} s")
        return trace

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(None)


def _opening(tokenizer: Any, render: Render) -> str:
    """What answers begin with, before their words."""
    if not {"<|channel|>", "<|message|>"} <= tokenizer.get_added_vocab().keys():
        return ""
    return _CHANNEL if render([(_MARK, None)]).endswith((_ANSWERING, _ANSWERING + _CHANNEL)) else ""


def _with_marks(pieces: Sequence[Piece]) -> list[str]:
    """The texts of pieces, a placeholder's with the marks around it."""
    marked = IMAGE_START + IMAGE_CONTEXT + IMAGE_END
    return [marked if piece.template and piece.text == IMAGE_CONTEXT else piece.text for piece in pieces]


def _ended(text: str, end: str) -> str:
    return text if text.endswith(end) else text + end


def _adds_prefix_space(tokenizer: Any) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return bool(getattr(getattr(backend, "pre_tokenizer", None), "add_prefix_space", False))
