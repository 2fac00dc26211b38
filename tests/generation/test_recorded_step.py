"""Steps that are recorded once and replayed, as a CUDA graph does it: the same operations on the same memory.

No GPU is needed for that: torch's operations are recorded below Python, and replayed without it. What a replay gets
wrong here (a length that Python read, memory that moved, a row that joined) it gets wrong in a CUDA graph, too.
"""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import tiny_backbone
from hypothesis import given, settings
from schedules import Schedule, carry_out, finish, schedules
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vision_agent import ConfigError, VisionAgent
from vision_agent.generation import recorded_step
from vision_agent.generation.decoding import PromptInputs, generate
from vision_agent.generation.options import GenerationOptions
from vision_agent.generation.recorded_step import RecordedSteps
from vision_agent.generation.step_batch import Row, StepBatch
from vision_agent.model import cuda_graphs, load_options
from vision_agent.model.backbone import Backbone
from vision_agent.model.cuda_graphs import check_recordable

QUESTIONS = ["is there a bus?", "a dog and a cat on the grass " * 3, "no", "find each thing. " * 8, "where is it?"]
SAMPLED = GenerationOptions(max_new_tokens=7, do_sample=True, seed=5, top_p=0.8)


_WAITS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.item.default, torch.ops.aten.nonzero.default}


class Tape(TorchDispatchMode):
    """Records operations with their tensors; `replay` carries them out again and lets no Python of the model run."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _WAITS:
            raise RuntimeError("operation not permitted when stream is capturing")  # CUDA's own words
        made = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, made))
        return made

    def replay(self) -> None:
        for func, args, kwargs, recorded in self.operations:
            for old, new in zip(tree_leaves(recorded), tree_leaves(func(*args, **kwargs)), strict=True):
                # Views, and what is changed in place, are the recorded memory already.
                if isinstance(old, Tensor) and old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr():
                    old.copy_(new)


def record(run: Callable[[], None]) -> Callable[[], None]:
    """Run twice, the second time on tape, as `record_cuda_graph` does."""
    run()
    tape = Tape()
    with tape:
        run()
    return tape.replay


@cache
def backbone() -> Backbone:
    return tiny_backbone()


@cache
def prompts() -> tuple[PromptInputs, ...]:
    return tuple(PromptInputs(tuple(backbone().prompt_ids(question, []))) for question in QUESTIONS)


def options(number: int) -> GenerationOptions:
    return SAMPLED if number == 1 else GenerationOptions(max_new_tokens=3 + 4 * number)


@cache
def alone(number: int) -> tuple[list[int], list[float]]:
    """The answer of a request by itself, by steps as they are."""
    made = generate(backbone(), [prompts()[number]], options(number))
    return made.answers[0], [round(each, 3) for each in made.logprobs[0]]


def is_alone(number: int, row: Row) -> bool:
    ids, logprobs = alone(number)
    return row.error is None and row.answer.ids == ids and row.answer.logprobs == pytest.approx(logprobs, abs=2e-3)


@pytest.fixture(autouse=True, scope="module")
def little_room() -> Iterator[None]:
    """So that buffers have to be made anew within these few tokens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recorded_step, "_ROOM", 6)
        yield


@settings(max_examples=20, deadline=None)
@given(schedules(rows=len(QUESTIONS), most=30))
def test_replayed_steps_answer_as_each_request_does_alone(schedule: Schedule) -> None:
    steps = RecordedSteps(backbone(), record)
    for _ in range(2):  # the second time on the buffers of the first
        rows = [Row(backbone(), prompt, options(number)) for number, prompt in enumerate(prompts())]
        dropped = carry_out(schedule, StepBatch(backbone(), steps), rows)
        assert all(is_alone(number, row) for number, row in enumerate(rows) if number not in dropped)


def test_rows_that_come_and_go_need_no_new_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do requests after one another: recording takes longer than many steps."""
    monkeypatch.setattr(recorded_step, "_ROOM", 400)
    steps = RecordedSteps(backbone(), record)
    for _ in range(2):
        batch = StepBatch(backbone(), steps)
        rows = [Row(backbone(), prompts()[number], options(number)) for number in (0, 1, 2, 4)]
        for row in rows:
            batch.add(row)
            batch.read()
            batch.step()
        finish(batch)
        assert [is_alone(number, row) for number, row in zip((0, 1, 2, 4), rows, strict=True)] == [True] * 4
        assert steps.recordings == 2  # of one row, and of up to four
    batch = StepBatch(backbone(), steps)
    for number in range(5):  # one more than there are places
        batch.add(Row(backbone(), prompts()[number], options(number)))
    finish(batch)
    assert steps.recordings == 3


def test_a_model_that_cannot_be_recorded_goes_on_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    embed = backbone().embed

    def looking(ids_BL: Tensor, *more: Any) -> Tensor:
        assert int(ids_BL.max()) >= 0  # the host waits for the device
        return embed(ids_BL, *more)

    monkeypatch.setattr(backbone(), "embed", looking)
    steps = RecordedSteps(backbone(), record)
    with caplog.at_level(logging.WARNING):
        for number in (0, 3):
            row, batch = Row(backbone(), prompts()[number], options(number)), StepBatch(backbone(), steps)
            batch.add(row)
            finish(batch)
            assert is_alone(number, row)
    assert steps.recordings == 0
    assert caplog.text.count("cannot be recorded") == 1 and "capturing" in caplog.text


def test_an_agent_writes_by_recorded_steps(agent: VisionAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Callable[[], None]] = []

    def counted(run: Callable[[], None]) -> Callable[[], None]:
        made.append(run)
        return record(run)

    monkeypatch.setattr(recorded_step, "_ROOM", 400)
    monkeypatch.setattr(cuda_graphs, "record_cuda_graph", counted)
    monkeypatch.setattr(load_options, "_check_graphs", lambda *_: None)  # there is no CUDA device
    recorded = VisionAgent.from_pretrained("default", device="cpu", cuda_graphs=True)
    questions = ["hello, who are you?", "thank you", "what can you do?", "good morning"]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda q: recorded.ask(q).text, questions)) == [agent.ask(q).text for q in questions]
    assert made
    recorded.clear_cache()
    made.clear()
    assert recorded.ask(questions[0]).text == agent.ask(questions[0]).text
    assert len(made) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_cuda_graph_writes_what_the_plain_steps_write() -> None:
    plain = VisionAgent.from_pretrained("default", device="cuda", dtype="fp32")
    recorded = VisionAgent.from_pretrained("default", device="cuda", dtype="fp32", cuda_graphs=True)
    questions = ["hello, who are you?", "thank you", "what can you do?", "good morning"]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            assert list(pool.map(lambda q: recorded.ask(q).text, questions)) == [plain.ask(q).text for q in questions]


# Settings as published: OpenGVLab/InternVL2-8B, InternVL3_5-8B, InternVL3_5-30B-A3B, InternVL3_5-GPT-OSS-20B-A4B.
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ({"model_type": "internlm2", "rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'dynamic'"),
        ({"model_type": "qwen3", "rope_scaling": None}, ""),
        ({"model_type": "qwen3_moe", "num_experts": 128, "rope_scaling": None}, "mixture of experts"),
        ({"model_type": "gpt_oss", "num_local_experts": 32, "rope_scaling": {"rope_type": "yarn"}}, "mixture"),
    ],
)
def test_models_whose_steps_differ_are_refused(text: dict[str, Any], told: str) -> None:
    config = SimpleNamespace(text_config=SimpleNamespace(**text))
    if not told:
        check_recordable(config)
        return
    with pytest.raises(ConfigError, match=told):
        check_recordable(config)
