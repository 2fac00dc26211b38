"""Beam search ends where it repeats itself, and within one step of a caller who has gone."""

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError

import pytest
import torch
from conftest import tiny_backbone

from vision_agent.generation.decoding import GenerationOutput, generate
from vision_agent.generation.options import GenerationOptions
from vision_agent.model.backbone import Backbone
from vision_agent.plugins.cancellation import CANCELLED


def in_circles(each_step: Callable[[int], None] = lambda step: None) -> Backbone:
    """A model that writes the same three tokens again and again."""
    backbone = tiny_backbone()
    head = backbone.model.lm_head.forward
    steps = 0

    def turning(hidden: torch.Tensor) -> torch.Tensor:
        nonlocal steps
        scores = head(hidden).clone()
        scores[..., 40 + steps % 3] += 1000.0
        steps += 1
        each_step(steps)
        return scores

    backbone.model.lm_head.forward = turning
    return backbone


def search(backbone: Backbone, rows: int = 1, **options: int | None) -> GenerationOutput:
    prompt = backbone.prompt_ids("what is it?", [])
    return generate(backbone, [prompt] * rows, GenerationOptions(num_beams=3, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("rows", [1, 2])
def test_beams_end_where_they_repeat_themselves(rows: int) -> None:
    found = search(in_circles(), rows, max_new_tokens=60)
    for answer, reason, logprobs in zip(found.answers, found.finish_reasons, found.logprobs, strict=True):
        assert reason == "repetition" and len(answer) == len(logprobs) == 24
        assert answer == [40, 41, 42] * 8
    free = search(in_circles(), rows, max_new_tokens=40, max_repeats=None)
    assert [*free.finish_reasons] == ["length"] * rows
    assert [len(answer) for answer in free.answers] == [40] * rows


def test_beams_stop_within_a_step_of_a_caller_who_has_gone() -> None:
    event, steps = threading.Event(), []

    def note(step: int) -> None:
        steps.append(step)
        if step == 4:
            event.set()

    token = CANCELLED.set(event)
    try:
        with pytest.raises(CancelledError):
            search(in_circles(note), max_new_tokens=60)
    finally:
        CANCELLED.reset(token)
    assert steps == [1, 2, 3, 4]
