"""Many threads, one model: verbs that run at the same time share its steps, and each gets what it gets alone."""

import asyncio
import gc
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import BaseModel

from vision_agent import BusyError, GenerationOptions, InputError, TextDelta, VisionAgent, VisionAgentError
from vision_agent.generation.decoding import PromptInputs, generate
from vision_agent.generation.step_batch import Row
from vision_agent.generation.vocabulary import vocabulary_of
from vision_agent.inference import scheduler
from vision_agent.inference.engine import InferenceEngine
from vision_agent.inference.scheduler import StepScheduler

SHORT = GenerationOptions(max_new_tokens=8)
DRAWN = GenerationOptions(max_new_tokens=8, do_sample=True, seed=4, temperature=1.4, top_k=30)


@pytest.fixture
def tiny(checkpoint: Path) -> Iterator[VisionAgent]:
    yield VisionAgent.from_pretrained(checkpoint)


class Passes:
    """What the language model is given: rows and columns of each forward pass, and by which threads."""

    def __init__(self, agent: VisionAgent, seconds: float = 0.0) -> None:
        self.shapes: list[tuple[int, int]] = []
        self.threads: set[str] = set()
        model = agent.backbone.model.model.language_model
        forward = model.forward

        def counted(*given: Any, **named: Any) -> Any:
            self.shapes.append(tuple(named["inputs_embeds"].shape[:2]))
            self.threads.add(threading.current_thread().name)
            time.sleep(seconds)
            return forward(*given, **named)

        model.forward = counted


class Colour(BaseModel):
    red: bool


def image(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (56, 56, 3), np.uint8))


def streamed(agent: VisionAgent, *given: Any, **named: Any) -> str:
    events = agent.ask(*given, stream=True, **named)
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def chatted(agent: VisionAgent) -> list[str]:
    chat = agent.chat(options=SHORT)
    return [chat.ask("what is it?", image(3)).text, chat.ask("and where?").text]


VERBS: list[Callable[[VisionAgent], Any]] = [
    lambda agent: agent.ask("what is it?", image(0), options=SHORT).text,
    lambda agent: agent.ask("is there a bus on the grass?", options=DRAWN).text,
    lambda agent: agent.ask("is it red?", image(1), choices=["a dog", "a cat"], options=SHORT).value,
    lambda agent: agent.ask("is it red?", schema=Colour, max_new_tokens=24).value,
    lambda agent: agent.ask(["what?", "a dog and a cat?"], [image(0), None], options=SHORT)[1].text,
    lambda agent: agent.ask("where is it?", options=GenerationOptions(max_new_tokens=4, num_beams=2)).text,
    lambda agent: streamed(agent, "tell me more", image(2), options=SHORT),
    lambda agent: streamed(agent, "hello", options=DRAWN),
    lambda agent: agent.point("dog", image(1)).xy.tolist(),
    chatted,
    lambda agent: asyncio.run(agent.aio.ask("find each thing.", options=SHORT)).text,
]


def test_verbs_of_many_threads_share_steps_and_give_what_they_give_alone(tiny: VisionAgent) -> None:
    expected = [verb(tiny) for verb in VERBS]
    tiny.clear_cache()
    passes = Passes(tiny)
    with ThreadPoolExecutor(2 * len(VERBS)) as pool:
        assert list(pool.map(lambda verb: verb(tiny), VERBS * 2)) == expected * 2
    assert max(rows for rows, columns in passes.shapes if columns == 1) >= 4
    assert passes.threads == {"vision-agent-model"}


def test_the_default_model_answers_several_threads(agent: VisionAgent, photo: Path) -> None:
    verbs: list[Callable[[], Any]] = [
        lambda: agent.ask("is there a dog?", photo).text,
        lambda: agent.ask("what colour is the dog?", photo).text,
        lambda: agent.detect("dog", photo).xyxy.round().tolist(),
        lambda: agent.segment("frisbee", photo).xyxy.round().tolist(),
        lambda: streamed(agent, "hello"),
        lambda: [
            each.result.xyxy.round().tolist() for each in agent.run("find the dog", photo, first_route="det").routes
        ],
        lambda: [type(each) for each in agent.run("find the dog", photo, first_route="det", stream=True)],
    ]
    expected = [verb() for verb in verbs]
    with ThreadPoolExecutor(len(verbs)) as pool:
        assert list(pool.map(lambda verb: verb(), verbs)) == expected


@contextmanager
def held(agent: VisionAgent) -> Iterator[Callable[[int], None]]:
    """Keep the model busy; gives what waits until so many requests wait for it."""
    busy, going = threading.Event(), threading.Event()
    engine: InferenceEngine = agent.answer_pipeline._engine
    work = threading.Thread(target=engine.run, args=(lambda: (busy.set(), going.wait(60)),))
    work.start()
    assert busy.wait(60)

    def wait_for(count: int) -> None:
        desk = engine._scheduler._desk
        deadline = time.monotonic() + 60
        while desk.inbox.qsize() < count:
            assert time.monotonic() < deadline
            time.sleep(0.002)

    try:
        yield wait_for
    finally:
        going.set()
        work.join()


def test_images_of_several_requests_go_through_the_tower_together(
    tiny: VisionAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [image(seed) for seed in range(6)]
    alone = [tiny.ask("what is it?", each, options=SHORT).text for each in images]
    tiny.clear_cache()
    tiles: list[int] = []
    see = tiny.backbone.see

    def counted(pixels: torch.Tensor) -> Any:
        tiles.append(len(pixels))
        return see(pixels)

    monkeypatch.setattr(tiny.backbone, "see", counted)
    with ThreadPoolExecutor(6) as pool:
        with held(tiny) as wait_for:
            answers = [pool.submit(tiny.ask, "what is it?", each, options=SHORT) for each in images]
            wait_for(6)
        assert [answer.result().text for answer in answers] == alone
    assert len(tiles) < 6 and max(tiles) > 1, "fewer passes than requests"


def test_routes_of_several_requests_share_a_forward_pass(agent: VisionAgent, photo: Path) -> None:
    asks = ["dog", "frisbee", "person", "tree"]
    engine: InferenceEngine = agent.answer_pipeline._engine
    (seen,) = engine.encode_images([Image.open(photo).convert("RGB")])
    find = partial(agent._predictor.run_route, agent.routes["det"], image=seen, threshold=None)
    alone = [find((name,)) for name in asks]
    passes = Passes(agent)
    try:
        with ThreadPoolExecutor(4) as pool:
            with held(agent) as wait_for:
                found = [pool.submit(find, (name,)) for name in asks]
                wait_for(4)
            results = [each.result() for each in found]
    finally:
        del agent.backbone.model.model.language_model.forward
    assert [rows for rows, _ in passes.shapes] == [4]
    for one, other in zip(results, alone, strict=True):
        np.testing.assert_allclose(one.xyxy, other.xyxy, atol=0.05)
        assert [each.score for each in one] == pytest.approx([each.score for each in other], abs=1e-4)


def test_all_work_that_waits_is_done_before_the_next_step_but_not_for_long(
    tiny: VisionAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step writes tokens of whoever has come that far; and a row waits for no more than some work."""
    for seconds, most in ((60.0, 7), (0.0, 1)):
        monkeypatch.setattr(scheduler, "_WORK_SECONDS", seconds)
        engine: InferenceEngine = tiny.answer_pipeline._engine
        done: list[str] = []
        forward = tiny.backbone.model.model.language_model.forward

        def counted(*given: Any, forward: Any = forward, done: list[str] = done, **named: Any) -> Any:
            done.append("step")
            return forward(*given, **named)

        monkeypatch.setattr(tiny.backbone.model.model.language_model, "forward", counted)
        with ThreadPoolExecutor(9) as pool:
            with held(tiny) as wait_for:
                answer = pool.submit(tiny.ask, "is there a bus?", options=SHORT)
                wait_for(1)
                works = [pool.submit(engine.run, lambda done=done: done.append("work")) for _ in range(7)]
                wait_for(8)
            assert answer.result().text == tiny.ask("is there a bus?", options=SHORT).text
            for work in works:
                work.result()
        monkeypatch.undo()
        runs = " ".join(done).split("step")
        assert max(run.count("work") for run in runs) == most


def test_of_images_that_are_encoded_together_only_the_bad_one_fails(
    tiny: VisionAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [image(seed) for seed in range(4)]
    alone = [tiny.ask("what is it?", each, options=SHORT).text for each in images]
    tiny.clear_cache()
    engine: InferenceEngine = tiny.answer_pipeline._engine
    encode = engine._encode

    def failing(some: Any, most: int | None) -> Any:
        if any(each.tobytes() == images[1].tobytes() for each in some):
            raise LookupError("this one")
        return encode(some, most)

    monkeypatch.setattr(engine, "_encode", failing)
    with ThreadPoolExecutor(4) as pool:
        with held(tiny) as wait_for:
            answers = [pool.submit(tiny.ask, "what is it?", each, options=SHORT) for each in images]
            wait_for(4)
        with pytest.raises(LookupError, match="this one"):
            answers[1].result()
        others = [answer.result().text for place, answer in enumerate(answers) if place != 1]
    assert others == [text for place, text in enumerate(alone) if place != 1]


def test_a_call_that_fails_changes_nothing_for_the_others(tiny: VisionAgent) -> None:
    expected = tiny.ask("what is it?", options=SHORT).text
    broken = tiny.backbone.encode_image

    def encode(shown: Image.Image, most: int | None = None) -> Any:
        encoded = broken(shown, most)
        if shown.getpixel((0, 0)) == (1, 2, 3):
            encoded.tokens_TC.fill_(torch.nan)
        return encoded

    tiny.backbone.encode_image = encode  # type: ignore[method-assign]
    sick = image(5)
    sick.putpixel((0, 0), (1, 2, 3))

    def job(number: int) -> str:
        if number % 3 == 0:
            with pytest.raises(VisionAgentError, match="NaN"):
                tiny.ask("what is it?", sick, options=SHORT)
        if number % 3 == 1:
            with pytest.raises(InputError, match="max_new_tokens"):
                tiny.ask("what is it?", options=GenerationOptions(max_new_tokens=65536))
        return tiny.ask("what is it?", options=SHORT).text

    with ThreadPoolExecutor(9) as pool:
        assert set(pool.map(job, range(9))) == {expected}


def test_a_cancelled_call_ends_within_a_step_and_the_others_go_on(tiny: VisionAgent) -> None:
    long = GenerationOptions(max_new_tokens=400, max_repeats=None)
    expected = tiny.ask("what is it?", options=GenerationOptions(max_new_tokens=40, max_repeats=None)).text
    passes = Passes(tiny, 0.005)

    async def main() -> None:
        going = asyncio.create_task(
            tiny.aio.ask("what is it?", options=GenerationOptions(max_new_tokens=40, max_repeats=None))
        )
        gone = asyncio.create_task(tiny.aio.ask("hello", options=long))
        while (2, 1) not in passes.shapes:
            await asyncio.sleep(0.005)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert (await going).text == expected

    asyncio.run(main())
    both = [shape for shape in passes.shapes if shape == (2, 1)]
    assert passes.shapes[-1] == (1, 1) and len(both) < 40


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Signals of the keyboard count also where a shell started the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_call_frees_the_model(tiny: VisionAgent) -> None:
    """Ctrl+C reaches the thread that waits; the model goes on with other calls."""
    passes = Passes(tiny, 0.005)

    def interrupt() -> None:
        while len(passes.shapes) < 3:
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    for call in (
        lambda: tiny.ask("what is it?", options=GenerationOptions(max_new_tokens=5000, max_repeats=None)),
        lambda: tiny.ask(["what is it?", "a dog?"], [None] * 2, max_new_tokens=5000),
        lambda: streamed(tiny, "what is it?", max_new_tokens=5000),
    ):
        passes.shapes.clear()
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            call()
        thread.join()
        assert tiny.ask("hello", max_new_tokens=1).completion_tokens == 1
        assert len(passes.shapes) < 500


def test_a_stream_that_nobody_reads_pauses_and_goes_on_where_it_was(tiny: VisionAgent) -> None:
    options = GenerationOptions(max_new_tokens=40, max_repeats=None)
    expected = tiny.ask("what is it?", options=options).text
    passes = Passes(tiny)
    stream = tiny.ask("what is it?", options=options, stream=True)
    first = next(stream)
    assert tiny.ask("what is it?", options=options).text == expected
    assert max(rows for rows, _ in passes.shapes[-20:]) == 1  # the stream has left
    rest = [event.text for event in stream if isinstance(event, TextDelta)]
    assert isinstance(first, TextDelta) and first.text + "".join(rest) == expected


def test_a_full_queue_is_an_error_at_once(tiny: VisionAgent) -> None:
    queue, started, go = StepScheduler(1, 1, most_waiting=2), threading.Event(), threading.Event()
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(queue.run, lambda: (started.set(), go.wait(60)))
        assert started.wait(60)
        waiting = pool.submit(queue.run, lambda: 5)
        while queue._desk.free._value:  # type: ignore[attr-defined]
            time.sleep(0.001)
        with pytest.raises(BusyError, match="2 requests wait"):
            queue.run(lambda: 6)
        with pytest.raises(BusyError):
            queue.submit(Row(tiny.backbone, PromptInputs((1, 2, 3)), SHORT))
        go.set()
        assert running.result() and waiting.result() == 5
    assert queue.run(lambda: 7) == 7


def test_rows_wait_where_their_keys_and_values_would_not_fit(tiny: VisionAgent) -> None:
    inputs = PromptInputs(tuple(tiny.backbone.prompt_ids("is there a bus?", [])))
    expected = generate(tiny.backbone, [inputs], SHORT).answers[0]
    most = len(inputs.ids) + SHORT.max_new_tokens
    passes = Passes(tiny)
    for tokens, rows in ((1, 1), (4 * most, 4)):
        passes.shapes.clear()
        queue = StepScheduler(10, 10 * tokens)
        steps = [queue.submit(Row(tiny.backbone, inputs, SHORT)) for _ in range(9)]
        assert [each.last().answers[0] for each in steps] == [expected] * 9
        assert max(count for count, columns in passes.shapes if columns == 1) <= rows


def test_requests_are_begun_in_the_order_in_which_they_come(tiny: VisionAgent) -> None:
    inputs = PromptInputs(tuple(tiny.backbone.prompt_ids("is there a bus?", [])))
    queue, ended = StepScheduler(1, 1), list[int]()
    started, go = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(queue.run, lambda: (started.set(), go.wait(60)))
        assert started.wait(60)
        rows = [Row(tiny.backbone, inputs, SHORT) for _ in range(4)]
        steps = [queue.submit(row) for row in rows]
        for number, row in enumerate(rows):
            row.is_gone = lambda number=number, row=row: bool(row.fed and ended.append(number))  # type: ignore[misc]
        go.set()
        for each in steps:
            each.last()
    assert ended == sorted(ended) and set(ended) == {0, 1, 2, 3}


def test_what_has_gone_before_its_turn_is_not_begun(tiny: VisionAgent) -> None:
    inputs = PromptInputs(tuple(tiny.backbone.prompt_ids("is there a bus?", [])))
    passes, queue = Passes(tiny), StepScheduler(1, 1)
    row = Row(tiny.backbone, inputs, SHORT, is_gone=lambda: True)
    with pytest.raises(CancelledError):
        queue.submit(row).last()
    assert not passes.shapes


def test_an_agent_that_nobody_holds_is_freed_with_its_thread(checkpoint: Path) -> None:
    agent = VisionAgent.from_pretrained(checkpoint)
    agent.ask("hello", max_new_tokens=2)
    model = weakref.ref(agent.backbone.model)
    queue = agent._engine._scheduler
    thread = queue._thread
    assert thread is not None and thread.is_alive()
    del agent, queue
    gc.collect()
    thread.join(60)
    assert not thread.is_alive() and model() is None


def test_a_model_call_inside_of_model_work_does_not_wait_for_itself(tiny: VisionAgent) -> None:
    expected = tiny.ask("hello", options=SHORT).text
    assert tiny._engine.run(lambda: tiny.ask("hello", options=SHORT).text) == expected
    assert tiny._engine.run(lambda: streamed(tiny, "hello", options=SHORT)) == expected
    assert scheduler.AHEAD >= 2


def test_prompts_are_cut_the_same_while_other_threads_tokenize(tiny: VisionAgent) -> None:
    """A tokenizer keeps whether it splits special tokens in itself, whoever's call it was."""
    backbone, words = tiny.backbone, vocabulary_of(tiny.backbone.tokenizer)
    prompt, text = backbone.prompt_ids("what is it?", []), words.text_ids("<|im_start|>a dog")

    def cut(number: int) -> bool:
        if number % 2:
            return all(backbone.prompt_ids("what is it?", []) == prompt for _ in range(100))
        return all(words.text_ids("<|im_start|>a dog") == text for _ in range(100))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(cut, range(8)))
