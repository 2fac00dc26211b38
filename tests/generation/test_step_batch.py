"""Rows that are written side by side: each answer is the one that its request gets alone, whoever comes or goes."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from conftest import tiny_backbone
from hypothesis import given, settings
from schedules import Schedule, carry_out, finish, schedules
from torch import Tensor

from vision_agent import AnswerError, VisionAgent
from vision_agent.generation import step_batch
from vision_agent.generation.answer_row import Alternatives
from vision_agent.generation.decoding import PromptInputs, generate
from vision_agent.generation.grammar import choice_constraint
from vision_agent.generation.options import GenerationOptions
from vision_agent.generation.prefix_cache import PrefixCache
from vision_agent.generation.step_batch import Row, StepBatch
from vision_agent.model.backbone import Backbone
from vision_agent.plugins.constraint import Constraint, ConstraintState

QUESTIONS = ["is there a bus?", "a dog and a cat on the grass " * 3, "no", "find each thing. " * 8, "where is it?"]
OPTIONS = [
    GenerationOptions(max_new_tokens=4, top_logprobs=3),
    GenerationOptions(max_new_tokens=6, do_sample=True, seed=3, temperature=1.3, top_k=20),
    GenerationOptions(max_new_tokens=1, top_logprobs=0),
    GenerationOptions(max_new_tokens=5, repetition_penalty=1.4, top_logprobs=5),
    GenerationOptions(max_new_tokens=7, do_sample=True, seed=5, top_p=0.8, max_repeats=1),
]
CHOICES = ["a dog and a cat", "a dog"]
FORBIDDEN = (7, 11, 12)


class FailsAt(Constraint):
    """A grammar that allows everything and fails after some tokens."""

    def __init__(self, tokens: int, accepting: bool) -> None:
        self.tokens, self.accepting = tokens, accepting

    def start(self) -> ConstraintState:
        return _FailsAt(self)


class _FailsAt(ConstraintState):
    def __init__(self, rule: FailsAt) -> None:
        self._rule, self._count = rule, 0

    def mask(self, scores_V: Tensor) -> Tensor:
        if not self._rule.accepting and self._count == self._rule.tokens:
            raise LookupError("no token fits")
        return scores_V

    @property
    def complete(self) -> bool:
        return True

    def accept(self, token: int) -> None:
        self._count += 1
        if self._rule.accepting and self._count > self._rule.tokens:
            raise LookupError("this token does not fit")


@dataclass
class Asked:
    """Requests to one model, with the answer that each gets alone."""

    backbone: Backbone
    rows: list[Callable[..., Row]]
    ids: list[list[int]]
    logprobs: list[list[float]]
    tops: list[list[list[int]]]

    @classmethod
    def of(cls, backbone: Backbone, prompts: Sequence[PromptInputs], options: Sequence[GenerationOptions]) -> "Asked":
        grammar = choice_constraint(backbone.tokenizer, CHOICES, backbone.end_ids)
        rows, ids, logprobs, tops = [], [], [], []
        for number, (inputs, own) in enumerate(zip(prompts, options, strict=True)):
            forbidden = FORBIDDEN if number % 2 else ()
            rule = grammar if number == len(prompts) - 1 else None
            alone = generate(backbone, [inputs], own, forbidden=forbidden, constraints=[rule])
            rows.append(partial(Row, backbone, inputs, own, forbidden, rule))
            ids.append(alone.answers[0])
            logprobs.append(alone.logprobs[0])
            tops.append(_tokens(alone.tops[0]))
            assert {len(top) for top in tops[-1]} == {own.top_logprobs or 0}
        return cls(backbone, rows, ids, logprobs, tops)

    def is_alone(self, number: int, row: Row) -> bool:
        """Whether the row has the answer that its request gets alone."""
        near = [abs(a - b) < 1e-3 for a, b in zip(row.answer.logprobs, self.logprobs[number], strict=False)]
        same = row.answer.ids == self.ids[number] and _tokens(row.answer.tops) == self.tops[number]
        return row.error is None and same and all(near)


def _tokens(tops: Sequence[Alternatives]) -> list[list[int]]:
    return [[token for token, _ in top] for top in tops]


@pytest.fixture(scope="module")
def asked() -> Asked:
    backbone = tiny_backbone()
    prompts = [PromptInputs(tuple(backbone.prompt_ids(question, []))) for question in [*QUESTIONS, "is it a dog?"]]
    return Asked.of(backbone, prompts, [*OPTIONS, GenerationOptions(max_new_tokens=12)])


@pytest.fixture(autouse=True, scope="module")
def small_chunks() -> Iterator[None]:
    """So that prompts of these lengths are read in several chunks, and some of them together."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_batch, "CHUNK", 48)
        yield


def steps_of(asked: Asked, number: int) -> int:
    """Turns that a request takes alone."""
    batch, turns = StepBatch(asked.backbone), 0
    batch.add(asked.rows[number]())
    while batch.rows:
        batch.read()
        batch.step()
        turns += 1
    return turns


def test_a_row_joins_at_every_step(asked: Asked) -> None:
    for place in range(steps_of(asked, 3) + 1):
        batch = StepBatch(asked.backbone)
        rows = [make() for make in asked.rows]
        batch.add(rows[3])
        for _ in range(place):
            batch.read()
            batch.step()
        for number in (0, 1, 2, 4, 5):
            batch.add(rows[number])
        finish(batch)
        assert [asked.is_alone(number, row) for number, row in enumerate(rows)] == [True] * len(rows)


@pytest.mark.parametrize("leave", ["pause", "drop"])
def test_a_row_leaves_at_every_step(asked: Asked, leave: str) -> None:
    for place in range(steps_of(asked, 1)):
        batch = StepBatch(asked.backbone)
        rows = [make() for make in asked.rows]
        for row in rows:
            batch.add(row)
        for _ in range(place):
            batch.read()
            batch.step()
        if rows[1] in batch.rows:
            getattr(batch, leave)(rows[1])
        finish(batch)
        others = [number for number in range(len(rows)) if number != 1]
        assert all(asked.is_alone(number, rows[number]) for number in others)
        if leave == "pause" and not rows[1].is_done:
            batch.add(rows[1])
            finish(batch)
            assert asked.is_alone(1, rows[1])
        assert batch.nbytes == 0


@pytest.mark.parametrize("accepting", [False, True])
def test_a_row_whose_grammar_fails_at_any_step_fails_alone(asked: Asked, accepting: bool) -> None:
    for tokens in (0, 1, 3):
        batch = StepBatch(asked.backbone)
        rows = [make() for make in asked.rows]
        rule, most = FailsAt(tokens, accepting), GenerationOptions(max_new_tokens=9)
        broken = Row(asked.backbone, rows[0].inputs, most, (), rule)
        for row in (*rows[:3], broken, *rows[3:]):
            batch.add(row)
        finish(batch)
        assert isinstance(broken.error, LookupError)
        assert [asked.is_alone(number, row) for number, row in enumerate(rows)] == [True] * len(rows)


def test_a_row_that_the_model_cannot_take_fails_alone(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it fails while prompts are read together, or in a step of all rows."""
    embed = asked.backbone.embed
    victim = asked.rows[0]().inputs.ids
    for place in (0, 1, 3):
        rows = [make() for make in asked.rows]
        sick = Row(asked.backbone, PromptInputs(victim), GenerationOptions(max_new_tokens=9))
        batch = StepBatch(asked.backbone)
        for row in (sick, *rows):
            batch.add(row)

        def failing(ids_BL: Tensor, *more: Any, place: int = place, sick: Row = sick) -> Tensor:
            if len(sick.answer.ids) == place and not sick.is_done and _feeds(sick, ids_BL):
                raise MemoryError("too much")
            return embed(ids_BL, *more)

        monkeypatch.setattr(asked.backbone, "embed", failing)
        finish(batch)
        # Requests with the same tokens at the same time may be at fault as well; all the others are not.
        assert isinstance(sick.error, MemoryError)
        assert all(asked.is_alone(number, row) for number, row in enumerate(rows) if row.error is None)
        assert sum(row.error is None for row in rows) >= len(rows) - 1


def _feeds(row: Row, ids_BL: Tensor) -> bool:
    """Whether a forward pass has the row's tokens."""
    own = row.answer.ids[-1:] or list(row.inputs.ids)
    return any(ids[: len(own)] == own for ids in ids_BL.tolist())


def test_scores_that_are_no_numbers_end_their_row_alone(asked: Asked) -> None:
    """Nor do its keys and values reach a row that gets its place later."""
    backbone = asked.backbone
    prompt = tuple(backbone.prompt_ids("what is it?", [4]))
    broken_TC = torch.full((4, backbone.hidden_size), torch.nan)
    for order in range(3):
        rows = [make() for make in asked.rows]
        sick = Row(backbone, PromptInputs(prompt, broken_TC), GenerationOptions(max_new_tokens=4))
        batch = StepBatch(backbone)
        for row in (*rows[:order], sick, *rows[order:]):
            batch.add(row)
        finish(batch)
        assert isinstance(sick.error, AnswerError) and "NaN" in str(sick.error)
        assert [asked.is_alone(number, row) for number, row in enumerate(rows)] == [True] * len(rows)


@settings(max_examples=25, deadline=None)
@given(schedules(rows=6, most=40))
def test_any_schedule(schedule: Schedule) -> None:
    asked = _shared(tiny_asked)
    prefixes = PrefixCache()
    rows = [make(prefixes=prefixes) for make in asked.rows]
    dropped = carry_out(schedule, StepBatch(asked.backbone), rows)
    assert all(asked.is_alone(number, row) for number, row in enumerate(rows) if number not in dropped)


def tiny_asked() -> Asked:
    backbone = tiny_backbone(1)
    prompts = [PromptInputs(tuple(backbone.prompt_ids(question, []))) for question in [*QUESTIONS, "is it a dog?"]]
    return Asked.of(backbone, prompts, [*OPTIONS, GenerationOptions(max_new_tokens=12)])


_MADE: dict[Callable[[], Asked], Asked] = {}


def _shared(make: Callable[[], Asked]) -> Asked:
    """Made once for all examples."""
    if make not in _MADE:
        _MADE[make] = make()
    return _MADE[make]


def test_the_default_model_writes_side_by_side_what_it_writes_alone(agent: VisionAgent) -> None:
    backbone = agent.backbone
    questions = ["hello, who are you?", "thank you", "what can you do? " * 12, "hi", "good morning", "who made you?"]
    prompts = [PromptInputs(tuple(backbone.prompt_ids(question, []))) for question in questions]
    asked = Asked.of(backbone, prompts, [*OPTIONS[:2], *OPTIONS[3:], OPTIONS[0], GenerationOptions(max_new_tokens=9)])
    chance = random.Random(0)
    for _ in range(3):
        batch, rows = StepBatch(backbone), [make() for make in asked.rows]
        waiting = chance.sample(range(len(rows)), len(rows))
        while waiting or batch.rows:
            if waiting and chance.random() < 0.4:
                batch.add(rows[waiting.pop()])
            batch.read()
            batch.step()
        assert [asked.is_alone(number, row) for number, row in enumerate(rows)] == [True] * len(rows)


def test_a_short_prompt_does_not_wait_for_a_long_one(asked: Asked) -> None:
    backbone = asked.backbone
    long = Row(backbone, PromptInputs(tuple(backbone.prompt_ids("a dog on the grass " * 60, []))), OPTIONS[0])
    short = asked.rows[0]()
    batch = StepBatch(backbone)
    batch.add(long)
    batch.read()
    batch.add(short)
    turns = 0
    while not short.answer.ids:
        batch.read()
        turns += 1
    assert turns == 2 and not long.answer.ids
    assert long.fed == 3 * step_batch.CHUNK < len(long.inputs.ids)  # two chunks as one while there was nobody else
    batch.add(again := asked.rows[2]())
    assert batch.read(short_only=True) == [again] and long.fed == 3 * step_batch.CHUNK


def test_rows_join_after_a_much_longer_one_has_left(asked: Asked) -> None:
    """They need more places, but fewer columns than there were."""
    words = tuple(asked.backbone.prompt_ids("what is it? " * 120, []))
    batch = StepBatch(asked.backbone)
    batch.add(long := Row(asked.backbone, PromptInputs(words), GenerationOptions(max_new_tokens=40)))
    while batch.reading:
        batch.read()
    rows = [make() for make in asked.rows]
    batch.add(rows[3])
    while batch.reading:
        batch.read()
    assert len(words) > 2 * max(len(row.inputs.ids) for row in rows) + 256
    batch.drop(long)
    for number in (0, 1, 2, 4, 5):
        batch.add(rows[number])
    while batch.reading:
        batch.read()
    finish(batch)
    assert [asked.is_alone(number, row) for number, row in enumerate(rows)] == [True] * len(rows)


def test_keys_and_values_are_copied_at_joins_and_leaves_only(asked: Asked) -> None:
    """Between them the buffers stay where they are."""
    batch = StepBatch(asked.backbone)
    batch.add(asked.rows[1]())
    batch.add(asked.rows[4]())
    while batch.reading:
        batch.read()
    places = set()
    for _ in range(4):
        batch.step()
        places |= {buffer.data_ptr() for layer in batch._cache._layers for buffer in layer.buffers}
    assert len(places) == 2 * asked.backbone.model.config.text_config.num_hidden_layers


def test_a_beginning_that_is_just_being_read_is_waited_for(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_batch, "_READ_ONCE", 16)
    inputs, prefixes = asked.rows[3]().inputs, PrefixCache()
    rows = [Row(asked.backbone, inputs, OPTIONS[0], prefixes=prefixes) for _ in range(3)]
    batch = StepBatch(asked.backbone)
    for row in rows:
        batch.add(row)
    finish(batch)
    assert [row.reused for row in rows] == [0, len(inputs.ids) - 1, len(inputs.ids) - 1]
    assert rows[0].answer.ids == rows[1].answer.ids == rows[2].answer.ids


def test_prompts_with_known_beginnings_of_different_lengths_are_read_together(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of images among them, and new ones; the one whose numbers are none fails alone."""
    backbone, prefixes = asked.backbone, PrefixCache()
    together: list[list[int]] = []
    read = StepBatch._read_together

    def counted(self: StepBatch, rows: list[Row]) -> list[Row]:
        together.append([row.reused for row in rows])
        return read(self, rows)

    monkeypatch.setattr(StepBatch, "_read_together", counted)
    tokens_TC = torch.randn(12, backbone.hidden_size, generator=torch.Generator().manual_seed(5))
    long = "a dog and a cat on the grass, where is the red car? " * 2
    asks = [("is there a bus?", 12), (f"{long}yes", 4), (f"{long}is it a dog?", 4), ("what is it?", 12), ("no", 0)]
    prompts = [
        PromptInputs(
            tuple(backbone.prompt_ids(text, [count] if count else [])), tokens_TC[:count], tuple(range(-9, -9 + count))
        )
        for text, count in asks
    ]
    options = [*OPTIONS[:4], GenerationOptions(max_new_tokens=9)]
    alone = [generate(backbone, [prompt], own) for prompt, own in zip(prompts, options, strict=True)]
    for first in (0, 1):
        generate(backbone, [prompts[first]], OPTIONS[2], prefixes=prefixes)
    broken = PromptInputs(prompts[0].ids, torch.full((12, backbone.hidden_size), torch.nan), tuple(range(12)))
    rows = [Row(backbone, prompt, own, prefixes=prefixes) for prompt, own in zip(prompts, options, strict=True)]
    sick = Row(backbone, broken, OPTIONS[0], prefixes=prefixes)
    batch = StepBatch(backbone)
    for row in (*rows[:2], sick, *rows[2:]):
        batch.add(row)
    finish(batch)
    assert [row.answer.ids for row in rows] == [output.answers[0] for output in alone]
    for row, output in zip(rows, alone, strict=True):
        assert row.answer.logprobs == pytest.approx(output.logprobs[0], abs=1e-3)
    assert isinstance(sick.error, AnswerError)
    assert max(len(set(reused)) for reused in together) > 1, "known beginnings of several lengths in one pass"
    again = [Row(backbone, prompt, own, prefixes=prefixes) for prompt, own in zip(prompts, options, strict=True)]
    for row in again:
        batch.add(row)
    finish(batch)
    assert [row.answer.ids for row in again] == [row.answer.ids for row in rows], "what was kept of them is right"
