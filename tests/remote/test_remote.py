"""Models in other engines: what they answer is what the model answers here, and each fault is one clear error."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import original_format as official
import pytest
import torch
from fake_engine import CONTEXT, NAME, FakeEngine, Faults, running
from PIL import Image
from pydantic import BaseModel, Field

from vision_agent import (
    AnswerDone,
    AnswerError,
    BusyError,
    CheckpointError,
    EngineError,
    GenerationOptions,
    InputError,
    RouteError,
    RouteSpec,
    TextDelta,
    VisionAgent,
)
from vision_agent.remote import http_client
from vision_agent.routing.adapter import new_route, save_adapter

SHORT = GenerationOptions(max_new_tokens=12)
DIALECTS = ["vllm", "sglang", "lmdeploy"]


class Seen(BaseModel):
    """What may be asked for."""

    colour: Literal["red", "green"]
    count: int = Field(ge=0, le=9)


def likes_boxes(folder: Path) -> Path:
    """A checkpoint in the original format whose answers often begin with `<ref>`."""
    rows = official.write_tokenizer(folder, "qwen2") + 3
    content = official.tiny_config("qwen2", "300m", rows, llm_config__max_position_embeddings=2048)
    state = official.tiny_state(content, seed=1)
    official.write_original(folder, content, state)
    backbone = VisionAgent.from_pretrained(folder, dtype="fp32").backbone
    mark = backbone.tokenizer.convert_tokens_to_ids("<ref>")
    asked = backbone.encode("Please provide the bounding box coordinate of: <ref>dog</ref>")
    with torch.inference_mode():
        states = backbone.model.model.language_model(input_ids=asked.input_ids[None]).last_hidden_state[0, -1]
    state["language_model.lm_head.weight"][mark] = 12 * states / states.norm()
    official.write_original(folder, content, state)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return likes_boxes(tmp_path_factory.mktemp("remote") / "checkpoint")


@pytest.fixture(scope="module")
def local(folder: Path) -> VisionAgent:
    return VisionAgent.from_pretrained(folder, dtype="fp32", device="cpu")


@pytest.fixture(scope="module")
def image() -> Image.Image:
    photo = Path(__file__).parents[2] / "examples" / "photos" / "000000139872.jpg"
    return Image.open(photo).convert("RGB").resize((160, 120))


@pytest.fixture(scope="module", params=DIALECTS)
def served(request: pytest.FixtureRequest, local: VisionAgent) -> Iterator[tuple[FakeEngine, str]]:
    """Each engine, and its address."""
    engine = FakeEngine(local, request.param)
    with running(engine) as url:
        yield engine, url


@pytest.fixture(scope="module")
def vllm(local: VisionAgent) -> Iterator[tuple[FakeEngine, str]]:
    engine = FakeEngine(local, "vllm")
    with running(engine) as url:
        yield engine, url


@pytest.fixture
def faults(vllm: tuple[FakeEngine, str]) -> Iterator[Faults]:
    """Faults of that engine; afterwards it is well again."""
    vllm[0].faults = Faults()
    yield vllm[0].faults
    vllm[0].faults = Faults()
    vllm[0].key = None


def same(one: Any, other: Any) -> None:
    assert (one.text, one.value, one.finish_reason, one.prompt_tokens, one.completion_tokens) == (
        other.text,
        other.value,
        other.finish_reason,
        other.prompt_tokens,
        other.completion_tokens,
    )


def test_answers_are_those_of_the_model_here(
    served: tuple[FakeEngine, str], folder: Path, local: VisionAgent, image: Image.Image
) -> None:
    _, url = served
    agent = VisionAgent.remote(url, folder)
    both = (agent, local)
    for one, other in (
        [each.ask("what is it?", image, options=SHORT) for each in both],
        [each.ask("what is it?", image, options=SHORT, max_tiles=2) for each in both],
        [each.ask("hello", options=SHORT.model_copy(update={"repetition_penalty": 1.3})) for each in both],
        [each.ask("what differs?", [image, image.rotate(90)], options=SHORT) for each in both],
        [each.ask("<image>\nand\n<image>\nhow?", [image, image], options=SHORT) for each in both],
        [each.caption(image, options=SHORT) for each in both],
    ):
        same(one, other)
        assert one.confidence == pytest.approx(other.confidence, rel=1e-4)
    questions = ["what?", "where is it?", "and why?"]
    listed = [each.ask(questions, image, options=SHORT) for each in both]
    for one, other in zip(*listed, strict=True):
        same(one, other)
    for each in both:
        assert each.ask("which?", image, choices=["red", "green", "blue"]).value in ("red", "green", "blue")
    chosen = [each.ask("which?", image, choices=["red", "green", "blue"]) for each in both]
    assert chosen[0].value == chosen[1].value
    filled = [each.ask("what?", image, schema=Seen, max_new_tokens=60).value for each in both]
    assert isinstance(filled[0], Seen) and filled[0] == filled[1]
    texts = []
    for each in both:
        chat = each.chat(options=SHORT)
        texts.append([chat.ask("what is it?", image).text, chat.ask("and here?", image.rotate(90)).text])
        frames = each.chat(options=SHORT)
        texts[-1].append(frames.ask("which frame?", video=[image, image, image]).text)
    assert texts[0] == texts[1]
    likely = SHORT.model_copy(update={"top_logprobs": 3})
    there, here = (each.ask("what is it?", image, options=likely).tokens for each in both)
    assert there and here
    assert [one.bytes for one in there] == [one.bytes for one in here]
    assert [one.logprob for one in there] == pytest.approx([one.logprob for one in here], abs=1e-4)
    ran = [each.run("what is it?", image, options=SHORT, planner="off").text for each in both]
    assert ran[0] == ran[1]


def test_a_stream_is_the_answer_in_pieces(
    served: tuple[FakeEngine, str], folder: Path, local: VisionAgent, image: Image.Image
) -> None:
    engine, url = served
    agent = VisionAgent.remote(url, folder)
    *pieces, done = agent.ask("what is it?", image, options=SHORT, stream=True)
    assert isinstance(done, AnswerDone)
    same(done.answer, local.ask("what is it?", image, options=SHORT))
    assert "".join(each.text for each in pieces if isinstance(each, TextDelta)) == done.answer.text
    assert len(pieces) > 1
    # Whoever has enough closes it, and the engine sees the connection close.
    engine.faults = Faults(silent=0.05)
    events = iter(agent.ask("what is it?", image, options=SHORT, stream=True))
    next(events)
    events.close()  # type: ignore[attr-defined]  # a generator
    deadline = time.monotonic() + 20
    while not engine.closed[1:] and time.monotonic() < deadline:
        threading.Event().wait(0.02)
    engine.faults = Faults()
    assert engine.closed == [False, True]


def test_boxes_are_those_of_the_model_here(
    served: tuple[FakeEngine, str], folder: Path, local: VisionAgent, image: Image.Image
) -> None:
    engine, url = served
    agent = VisionAgent.remote(url, folder)
    found = 0
    for phrases, shown in (("dog", image), ("red car", image), ("dog; a cat on the grass", image.rotate(180))):
        before = len(engine.asked)
        there, here = agent.detect(phrases, shown), local.detect(phrases, shown)
        assert there.labels == here.labels
        assert there.xyxy.tolist() == here.xyxy.tolist()
        assert there.scores.tolist() == pytest.approx(here.scores.tolist(), rel=1e-3)
        found += len(here)
        steps = len(engine.asked) - before
    assert found >= 2 and steps > 4  # a number that makes no box was taken back
    assert agent.count("dog", image).count == local.count("dog", image).count
    assert [point.label for point in agent.point("dog", image).points] == ["dog"] * len(
        local.point("dog", image).points
    )


def test_the_probe_says_what_an_engine_is(served: tuple[FakeEngine, str], folder: Path, tmp_path: Path) -> None:
    engine, url = served
    base = VisionAgent.from_pretrained(folder, dtype="fp32").backbone
    for name, spec in (
        ("wide", RouteSpec(token="[WIDE]", decoder="box", num_queries=4)),
        ("causal", RouteSpec(token="[CAUSAL]", decoder="box", num_queries=4, block="causal")),
    ):
        save_adapter(tmp_path / name, new_route(base, spec), base, torch.float32)
    agent = VisionAgent.remote(f"{url}/v1/", folder, adapters=[tmp_path / "wide", tmp_path / "causal"])
    info = agent.engine
    assert info is not None and info.kind == engine.dialect and (info.model, info.models) == (NAME, (NAME,))
    assert info.version == {"vllm": "0.33.0", "sglang": "0.5.23", "lmdeploy": None}[engine.dialect]
    assert (info.tokenizer, info.images, info.logprobs, info.patterns) == ("same ids", True, True, True)
    assert (info.context, agent.backbone.context) == (CONTEXT, CONTEXT)
    gives = engine.dialect in ("sglang", "vllm")
    assert info.hidden_states == gives and list(agent.routes) == (["causal"] if gives else [])
    wide, causal = info.adapters
    assert (wide.causal, causal.causal, wide.usable, causal.usable) == (False, True, False, gives)
    assert "block='causal'" in wide.reason and info.warnings == ()
    assert type(info).model_validate_json(info.model_dump_json()) == info


def test_requests_are_in_each_engines_words(served: tuple[FakeEngine, str], folder: Path, image: Image.Image) -> None:
    engine, url = served
    agent = VisionAgent.remote(url, folder)
    agent.ask("which?", image, choices=["a", "b (c)"], max_tiles=3)
    body = engine.asked[-1]
    pattern = r" ?(?:a|b\ \(c\))"
    shown = body["messages"][-1]["content"][0]["image_url"]
    assert body["messages"][0]["role"] == "system"  # of the official template
    assert shown["url"].startswith("data:image/png;base64,")
    if engine.dialect == "vllm":
        assert body["structured_outputs"] == {"regex": pattern} and body["temperature"] == 0
        assert body["mm_processor_kwargs"] == {"max_dynamic_patch": 3} and body["return_token_ids"] is True
    elif engine.dialect == "sglang":
        assert (body["regex"], body["max_dynamic_patch"], body["temperature"]) == (pattern, 3, 0)
    else:
        assert body["response_format"] == {"type": "regex_schema", "regex_schema": pattern}
        assert (shown["max_dynamic_patch"], body["top_k"]) == (3, 1)
    drawn = GenerationOptions(do_sample=True, temperature=0.7, top_p=0.9, top_k=5, seed=3, max_new_tokens=4, stop="x")
    agent.ask("which?", options=drawn)
    body = engine.asked[-1]
    said = {name: body[name] for name in ("temperature", "top_p", "top_k", "seed", "max_tokens", "stop")}
    assert said == {"temperature": 0.7, "top_p": 0.9, "top_k": 5, "seed": 3, "max_tokens": 4, "stop": ["x"]}
    # What a checkpoint's own settings would add is said not to be.
    assert body["repetition_penalty"] == 1.0


def test_what_cannot_work_is_refused_before_anything_is_sent(
    vllm: tuple[FakeEngine, str], folder: Path, image: Image.Image, tmp_path: Path
) -> None:
    engine, url = vllm
    agent = VisionAgent.remote(url, folder)
    base = VisionAgent.from_pretrained(folder, dtype="fp32").backbone
    save_adapter(tmp_path / "far", new_route(base, RouteSpec(token="[FAR]", decoder="box")), base, torch.float32)
    before = len(engine.asked)
    for verb in (
        lambda: agent.segment("dog", image),
        lambda: agent.segment(None, image, boxes=[[1, 2, 30, 40]]),
        lambda: agent.run_route("det", "dog", image),
        lambda: agent.generate("a dog"),
        lambda: agent.edit("make it red", image),
        lambda: agent.load_adapter(tmp_path / "far"),
        lambda: agent.run("find it", image, routes=["det"]),
        lambda: agent.segment_video("dog", [image, image]),
    ):
        with pytest.raises(RouteError):
            verb()
    for asked in (
        lambda: agent.ask("what?", image, options=GenerationOptions(num_beams=2)),
        lambda: agent.ask("what?", [image, image], combine=True),
        lambda: agent.ask("what?", [image, image], max_tiles=[1, 2]),
        lambda: agent.ask("what? " * 400, image),
        lambda: agent.ask("what?", image, choices=[]),
    ):
        with pytest.raises(InputError):
            asked()
    assert len(engine.asked) == before


FAULTS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "busy": ({"busy": 9}, BusyError, r"no room \(status 429\)"),
    "loading": ({"busy": 9, "busy_status": 503}, BusyError, r"no room \(status 503\)"),
    "much later": ({"busy": 1, "retry_after": "3600"}, BusyError, "come again in 3600 s"),
    "server error": ({"busy": 1, "busy_status": 500}, EngineError, r"status 500\): no room"),
    "silence": ({"silent": 5.0}, EngineError, r"was silent for 0\.5 s"),
    "NaN": ({"nan": True}, AnswerError, "scores are no numbers"),
    "giant": ({"giant": True}, EngineError, "more than 64 MiB"),
    "broken JSON": ({"broken_json": True}, EngineError, "no JSON"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_one_clear_error(name: str, vllm: tuple[FakeEngine, str], faults: Faults, folder: Path) -> None:
    _, url = vllm
    changes, error, said = FAULTS[name]
    agent = VisionAgent.remote(url, folder, timeout=0.5 if name == "silence" else 20)
    vars(faults).update(changes)
    with pytest.raises(error, match=said) as caught:
        agent.ask("hello", options=SHORT)
    assert url in str(caught.value) or error is AnswerError
    vars(faults).update(vars(Faults()))
    assert agent.ask("hello", options=SHORT).completion_tokens > 0  # the next call is well


STREAM_FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "cut": ({"cut": True}, "broke off its answer"),
    "no end": ({"no_reason": True}, "without saying why"),
    "error inside": ({"error_event": True}, "failed while it answered: CUDA out of memory"),
    "silence": ({"silent": 5.0}, r"for 0\.5 s"),
    "silence with comments": ({"silent": 8.0, "comments": True}, r"sent no event for 0\.5 s"),
}


@pytest.mark.parametrize("name", STREAM_FAULTS)
def test_each_fault_of_a_stream_is_one_clear_error(
    name: str, vllm: tuple[FakeEngine, str], faults: Faults, folder: Path
) -> None:
    _, url = vllm
    changes, said = STREAM_FAULTS[name]
    agent = VisionAgent.remote(url, folder, timeout=0.5)
    vars(faults).update(changes)
    with pytest.raises(EngineError, match=said):
        list(agent.ask("hello", options=SHORT, stream=True))
    chat = agent.chat(options=SHORT)
    with pytest.raises(EngineError, match=said):
        list(chat.ask("hello", stream=True))
    assert chat.history == []


def test_an_engine_that_has_no_room_is_asked_again(
    vllm: tuple[FakeEngine, str], faults: Faults, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, url = vllm
    agent = VisionAgent.remote(url, folder)
    waited: list[float] = []
    monkeypatch.setattr(http_client, "_sleep", waited.append)
    before = len(engine.asked)
    faults.busy, faults.retry_after = 2, "7"
    assert agent.ask("hello", options=SHORT).completion_tokens > 0
    assert waited == [7.0, 7.0] and len(engine.asked) == before + 3
    faults.busy, faults.retry_after = 2, None
    agent.ask("hello", options=SHORT)
    assert waited[2:] == [0.5, 1.0]
    # Other refusals may have been charged: they are not repeated.
    faults.busy, faults.busy_status = 1, 502
    before = len(engine.asked)
    with pytest.raises(EngineError, match="status 502"):
        agent.ask("hello", options=SHORT)
    assert len(engine.asked) == before + 1


def test_what_is_no_such_engine_is_told_at_once(
    vllm: tuple[FakeEngine, str], faults: Faults, folder: Path, local: VisionAgent, tmp_path: Path
) -> None:
    engine, url = vllm
    with pytest.raises(EngineError, match=f"has no model 'other', but '{NAME}'"):
        VisionAgent.remote(url, folder, model="other")
    official.write_folder(tmp_path / "other", "internlm2")
    with pytest.raises(EngineError, match=r"has another tokenizer than .*other.* tokens there and \d+ here"):
        VisionAgent.remote(url, tmp_path / "other")
    faults.html = True
    with pytest.raises(EngineError, match="answers with a web page"):
        VisionAgent.remote(url, folder)
    faults.html, faults.redirect = False, "https://elsewhere.example/v1/models"
    with pytest.raises(EngineError, match=r"redirects /v1/models to elsewhere\.example, which is not followed"):
        VisionAgent.remote(url, folder)
    faults.redirect = None
    with pytest.raises(EngineError, match="has no /v1/models"):
        VisionAgent.remote(f"{url}/elsewhere", folder)
    with pytest.raises(EngineError, match="cannot be reached"):
        VisionAgent.remote("http://127.0.0.1:9", folder)
    with pytest.raises(CheckpointError):
        VisionAgent.remote(url, tmp_path)
    engine.names = ("one", "two")
    try:
        with pytest.raises(InputError, match="`model` must be one of the engine's models"):
            VisionAgent.remote(url, folder)
        assert VisionAgent.remote(url, folder, model="two").model == "two"
    finally:
        engine.names = (NAME,)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"url": "127.0.0.1:8000"}, "`url`"),
        ({"url": "file:///etc/passwd"}, "`url`"),
        ({"url": "http://user:secret-1@host:8000"}, "`url`"),
        ({"url": "http://host/?key=secret-1"}, "`url`"),
        ({"timeout": 0}, "`timeout`"),
        ({"timeout": float("nan")}, "`timeout`"),
        ({"retries": 11}, "`retries`"),
        ({"retries": True}, "`retries`"),
        ({"model": " "}, "`model`"),
        ({"key": "secret-1\nX-Other: 1"}, "`key`"),
        ({"key": "secret-1-\u00fc"}, "`key`"),
    ],
)
def test_arguments_are_checked_before_anything_is_sent(folder: Path, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        VisionAgent.remote(**{"url": "http://127.0.0.1:9", "tokenizer": folder, **arguments})
    assert "secret-1" not in str(caught.value)


def test_keys_are_in_no_error_and_no_repr(vllm: tuple[FakeEngine, str], faults: Faults, folder: Path) -> None:
    engine, url = vllm
    engine.key = "sk-right-1234"
    agent = VisionAgent.remote(url, folder, key="sk-right-1234")
    assert agent.ask("hello", options=SHORT).completion_tokens > 0
    with pytest.raises(EngineError, match=r"refuses the key \(status 401\): wrong key in 'Bearer \*\*\*'") as caught:
        VisionAgent.remote(url, folder, key="sk-wrong-9876")
    with pytest.raises(EngineError, match="refuses the key"):
        VisionAgent.remote(url, folder)
    shown = "".join(map(repr, (agent, agent.engine, vars(agent), caught.value, caught.value.__context__)))
    assert "sk-right" not in shown and "sk-wrong" not in shown


def test_an_engine_without_probabilities_or_images(
    vllm: tuple[FakeEngine, str], faults: Faults, folder: Path, image: Image.Image
) -> None:
    engine, url = vllm
    faults.logprobs_off = faults.no_images = True
    agent = VisionAgent.remote(url, folder)
    info = agent.engine
    assert info is not None and (info.logprobs, info.images) == (False, False) and len(info.warnings) == 2
    answer = agent.ask("hello", options=SHORT)
    assert answer.confidence == 0 and "tells no probabilities" in answer.warnings[0]
    before = len(engine.asked)
    with pytest.raises(InputError, match="`top_logprobs` must be None: this engine tells no probabilities"):
        agent.ask("hello", options=SHORT.model_copy(update={"top_logprobs": 2}))
    with pytest.raises(RouteError, match="tells no probabilities"):
        agent.detect("dog", image)
    assert len(engine.asked) == before


def test_an_unknown_engine_with_openais_api(local: VisionAgent, folder: Path, image: Image.Image) -> None:
    engine = FakeEngine(local, "openai")
    with running(engine) as url:
        agent = VisionAgent.remote(url, folder)
        info = agent.engine
        assert info is not None and (info.kind, info.tokenizer, info.patterns) == ("openai", "same counts", False)
        assert {"regex", "top_k", "repetition_penalty"}.isdisjoint(engine.asked[-1])
        filled = agent.ask("what?", image, schema=Seen, max_new_tokens=60).value
        assert filled == local.ask("what?", image, schema=Seen, max_new_tokens=60).value
        with pytest.raises(RouteError, match="holds no answers to patterns"):
            agent.detect("dog", image)
        engine.tokenizer = None
        other = folder.parent / "tokens"
        official.write_folder(other, "llama")
        with pytest.raises(EngineError, match="another tokenizer"):
            VisionAgent.remote(url, other)


async def test_the_same_verbs_are_awaited(vllm: tuple[FakeEngine, str], folder: Path, local: VisionAgent) -> None:
    _, url = vllm
    agent = VisionAgent.remote(url, folder)
    same(await agent.aio.ask("hello", options=SHORT), local.ask("hello", options=SHORT))
    pieces = [event async for event in await agent.aio.ask("hello", options=SHORT, stream=True)]
    assert isinstance(pieces[-1], AnswerDone)
    assert (await agent.aio.chat(options=SHORT).ask("hello")).text == pieces[-1].answer.text


def test_this_packages_own_server(url: str, agent: VisionAgent, photo: Path) -> None:
    remote = VisionAgent.remote(url, "default")
    info = remote.engine
    assert info is not None and info.kind == "vision-agent" and "det" in info.routes
    assert (info.tokenizer, info.images) == ("same counts", True)
    for question in ("is there a dog?", "what colour is the frisbee?"):
        same(remote.ask(question, photo), agent.ask(question, photo))
    assert remote.caption(photo, length="short").text == agent.caption(photo, length="short").text
    likely = GenerationOptions(top_logprobs=2)
    there, here = (each.ask("what colour is the dog?", photo, options=likely).tokens for each in (remote, agent))
    assert there and here and [one.text for one in there] == [one.text for one in here]
    assert [[one.text for one in each.top] for each in there] == [[one.text for one in each.top] for each in here]
    asked = {"choices": ["yes", "no"]}
    assert remote.ask("is there a dog?", photo, **asked).value == agent.ask("is there a dog?", photo, **asked).value  # type: ignore[call-overload]
    refused = remote.ask("who painted this?", photo)
    assert refused.finish_reason == "refused" and refused.refused == agent.ask("who painted this?", photo).refused
    there, here = (each.detect("dog; frisbee", photo, threshold=0.4) for each in (remote, agent))
    assert there.model_dump() == here.model_dump()
    assert remote.count("dog", photo).count == 1
    *_, done = remote.ask("is there a dog?", photo, stream=True)
    assert isinstance(done, AnswerDone) and done.answer.text == "yes"
