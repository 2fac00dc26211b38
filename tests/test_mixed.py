"""Answers that mix words and routes: read whole, in batches, in streams, and about several images.

A random model does not know routing tokens. So the routes of these tests take over tokens that it happens to write:
its answers then hold routes at known places, of several kinds, and differently many in each row.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_backbone
from PIL import Image
from test_agent_grounding import noise

from vision_agent import (
    AgentResult,
    Answer,
    AnswerDone,
    ArgumentTypeError,
    Decoder,
    DecodeRequest,
    DenseFeatures,
    GenerationOptions,
    InputError,
    Mask,
    ResultReady,
    RoutedText,
    RouteError,
    RouteOpened,
    RouteSpec,
    Segmentation,
    TextDelta,
    VisionAgent,
    new_route,
    save_adapter,
)
from vision_agent.inference.engine import InferenceEngine
from vision_agent.inference.image_refs import named_images
from vision_agent.inference.streaming import AnswerReader, OpenedRoute
from vision_agent.model.checkpoint import save_backbone
from vision_agent.routing.adapter import add_token

REQUESTS = ["a dog", "where is the red car?", "is there a bus", "cat on the grass yes"]
TOKENS = GenerationOptions(max_new_tokens=12)


class Stripe(Decoder):
    """Columns of the image that depend on the states and the image: a mask that is cheap to tell apart."""

    def __init__(self) -> None:
        super().__init__()
        self.settings = {}

    @classmethod
    def for_backbone(cls, route: RouteSpec, hidden_size: int, feature_widths: tuple[int, ...]) -> "Stripe":
        return cls()

    def prepare(self, features: DenseFeatures) -> float:
        return float(features.maps[0].mean())

    def decode(self, states_KNC: torch.Tensor, prepared: float, request: DecodeRequest) -> Segmentation:
        width, height = request.grid.image_width, request.grid.image_height
        masks, scores = torch.zeros(len(states_KNC), height, width, dtype=torch.bool), []
        for row, states_NC in enumerate(states_KNC):
            score = float(torch.sigmoid(states_NC.mean() * 10 + prepared))
            scores.append(score)
            masks[row, :, : 1 + int(score * (width - 1))] = True
        return Segmentation.from_masks(
            masks.numpy(),
            scores,
            request.phrases,
            image_size=(width, height),
            model=request.model,
            phrases=request.phrases,
            decoder="stripe",
        )

    def loss(self, states_KNC: torch.Tensor, rows_K: Sequence[int], prepared: Any, targets: Any) -> torch.Tensor:
        raise NotImplementedError


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> VisionAgent:
    """A tiny InternVL with a [DET] route of boxes, a [SEG] route of stripes, and a [FAR] route that is read "self"."""
    folder = tmp_path_factory.mktemp("mixed") / "tiny"
    backbone = tiny_backbone()
    save_backbone(backbone, folder, torch.float32)
    specs = [
        RouteSpec(token="[DET]", decoder="box", num_queries=4),
        RouteSpec(token="[SEG]", decoder="box", num_queries=2),
        RouteSpec(token="[FAR]", decoder="box", num_queries=0, read="self"),
    ]
    for spec in specs:
        save_adapter(folder / "adapters" / spec.name, new_route(backbone, spec), backbone)
    agent = VisionAgent.from_pretrained(folder)
    for name in ("seg", "far"):
        agent.routes[name].decoder = Stripe()
    # What it writes for these requests: the tokens after the commonest become routes.
    backbone, written = agent.backbone, []
    for seed, request in enumerate(REQUESTS):
        prompt = backbone.encode(request, noise(seed))
        written.append(backbone.generate_ids(prompt.input_ids, prompt.pixel_values, TOKENS.max_new_tokens))
    often = Counter(token for ids in written for token in ids if token not in backbone.end_ids)
    common = [token for token, _ in often.most_common()]
    for name, token in zip(("det", "seg", "far"), common[1:], strict=False):
        agent.routes[name].token_id = token
    return agent


def comparable(answer: Answer) -> list[tuple[Any, ...]]:
    """An answer's routes as plain values, rounded to what padding may change."""
    rows = []
    for routed in answer.routes:
        found = routed.detections
        assert found is not None
        rows.append(
            (routed.token, routed.phrase, routed.start, routed.end, routed.image, type(routed.result).__name__, found)
        )
    return rows


def same(first: Answer, second: Answer) -> None:
    assert first.text == second.text and first.finish_reason == second.finish_reason
    one, two = comparable(first), comparable(second)
    assert [row[:-1] for row in one] == [row[:-1] for row in two]
    for (*_, a), (*_, b) in zip(one, two, strict=True):
        assert a.labels == b.labels
        torch.testing.assert_close(torch.tensor(a.xyxy), torch.tensor(b.xyxy), atol=0.5, rtol=0)
        torch.testing.assert_close(torch.tensor(a.scores), torch.tensor(b.scores), atol=1e-3, rtol=0)


def test_a_batch_with_different_routes_equals_single_calls(tiny: VisionAgent) -> None:
    images = [noise(seed) for seed in range(4)]
    together = tiny.run(REQUESTS, images, options=TOKENS)
    counts = {len(answer.routes) for answer in together}
    kinds = {(routed.token, type(routed.result)) for answer in together for routed in answer.routes}
    assert (
        len(counts) > 1 and {kind.__name__ for _, kind in kinds} == {"Detections", "Segmentation"} and len(kinds) == 3
    )
    tiny.clear_cache()
    for request, image, answer in zip(REQUESTS, images, together, strict=True):
        same(answer, tiny.run(request, image, options=TOKENS))


def test_a_stream_tells_in_order_what_a_call_tells_at_once(tiny: VisionAgent) -> None:
    for seed, request in enumerate(REQUESTS):
        whole = tiny.run(request, noise(seed), options=TOKENS)
        text, waiting, results = "", 0, []
        events = list(tiny.run(request, noise(seed), options=TOKENS, stream=True))
        for event in events:
            if isinstance(event, TextDelta):
                assert waiting == 0 and event.text
                text += event.text
            elif isinstance(event, RouteOpened):
                waiting += 1
                assert text[event.start : event.end] == event.phrase
            elif isinstance(event, ResultReady):
                waiting -= 1
                results.append(event.routed)
        done = events[-1]
        assert isinstance(done, AnswerDone) and waiting == 0
        assert text == whole.text == done.answer.text
        assert tuple(results) == done.answer.routes
        same(done.answer, whole)


def test_results_are_tied_to_their_words_and_survive_json(tiny: VisionAgent) -> None:
    answers = tiny.run(REQUESTS, [noise(seed) for seed in range(4)], options=TOKENS)
    for answer in answers:
        for routed in answer.routes:
            assert answer.text[routed.start : routed.end] == routed.phrase
            assert routed.image == 0
            assert routed.result.phrases == (routed.phrase or routed.token.strip("[]").lower(),)
        assert AgentResult.model_validate_json(answer.model_dump_json()) == answer
    assert any(answer.routes for answer in answers)


def test_routes_may_be_limited_and_the_first_one_chosen(tiny: VisionAgent) -> None:
    free = [tiny.run(request, noise(seed), options=TOKENS) for seed, request in enumerate(REQUESTS)]
    most = max(len(answer.routes) for answer in free)
    assert most >= 2
    for seed, (request, answer) in enumerate(zip(REQUESTS, free, strict=True)):
        image = noise(seed)
        limited = tiny.run(request, image, options=TOKENS, max_routes=1)
        assert len(limited.routes) == min(1, len(answer.routes))
        assert [(r.token, r.phrase) for r in limited.routes] == [(r.token, r.phrase) for r in answer.routes[:1]]
        for name in ("det", "seg", "far"):
            forced = tiny.run(request, image, options=TOKENS, first_route=name, max_routes=1)
            assert [routed.token for routed in forced.routes] == [f"[{name.upper()}]"]
            assert forced.routes[0].phrase
            without = tiny.run(request, image, options=TOKENS, routes=[other for other in tiny.routes if other != name])
            assert f"[{name.upper()}]" not in {routed.token for routed in without.routes}
        assert tiny.run(request, image, options=TOKENS, max_routes=0).routes == ()
    events = list(tiny.run(REQUESTS[0], noise(1), options=TOKENS, first_route="seg", max_routes=1, stream=True))
    assert [event.token for event in events if isinstance(event, RouteOpened)] == ["[SEG]"]


def test_a_result_is_about_the_image_that_is_named(tiny: VisionAgent) -> None:
    images = [noise(1), noise(2, 90, 120)]
    routed = tiny.run("a dog in the second picture", images, options=TOKENS, first_route="seg", max_routes=1).routes
    assert [(item.image, item.result.image_size) for item in routed] == [(1, (90, 120))]
    both = tiny.run("a dog", images, options=TOKENS, first_route="seg", max_routes=1).routes
    assert [(item.image, item.result.image_size) for item in both] == [(0, (150, 80)), (1, (90, 120))]
    assert len({(item.token, item.start, item.end) for item in both}) == 1
    none = tiny.run("a dog", options=TOKENS, first_route="seg", max_routes=1).routes
    assert [(item.image, item.result, item.detections) for item in none] == [(None, None, None)]


def test_a_chat_routes_where_it_is_asked_to(tiny: VisionAgent) -> None:
    chat = tiny.chat(options=TOKENS)
    first = chat.ask(REQUESTS[0], noise(1))
    assert first.routes == ()
    name = next(n for n in tiny.routes)
    second = chat.ask("and the red car?", noise(2, 90, 120), routes=[name, "seg", "far"])
    assert all(routed.image == 1 for routed in second.routes)
    for event in chat.ask("where is the red car?", routes=list(tiny.routes), stream=True):
        if isinstance(event, ResultReady):
            assert event.routed.image in (0, 1)
    assert [answer for _, answer in chat.history][:2] == [first.text, second.text]
    with pytest.raises(RouteError, match="'ocr'"):
        chat.ask("read it", routes=["ocr"])


def test_wrong_choices_are_refused_before_any_work(tiny: VisionAgent) -> None:
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"routes": ["ocr"]}, RouteError, "no 'ocr' route"),
        ({"routes": "det"}, ArgumentTypeError, "`routes`"),
        ({"first_route": "ocr"}, RouteError, "no 'ocr' route"),
        ({"first_route": "seg", "routes": ["det"]}, RouteError, "`first_route`"),
        ({"max_routes": -1}, InputError, "`max_routes`"),
        ({"max_routes": 0, "first_route": "det"}, InputError, "`max_routes`"),
        ({"max_routes": True}, InputError, "`max_routes`"),
    ]
    for arguments, error, words in cases:
        with pytest.raises(error, match=words):
            tiny.run("a dog", noise(1), **arguments)
    with pytest.raises(InputError, match="stream"):
        tiny.run(["a dog"], noise(1), stream=True)  # type: ignore[call-overload]
    with pytest.raises(InputError, match="2 images"):
        tiny.run(["a dog", "a cat"], [noise(1)])


def test_segment_and_point_take_the_mask_route(tiny: VisionAgent) -> None:
    found = tiny.segment(["a dog", "a cat"], noise(1))
    assert found.decoder == "stripe" and found.labels == ["a dog", "a cat"]
    for point, segment in zip(tiny.point(["a dog", "a cat"], noise(1)), found, strict=True):
        assert segment.mask.to_array()[int(point.y), int(point.x)]
    with pytest.raises(RouteError, match="boxes and points"):
        tiny.segment(None, noise(1), boxes=[[1, 1, 5, 5]])


def test_without_a_mask_route_the_remedy_is_named(checkpoint: Path) -> None:
    agent = VisionAgent.from_pretrained(checkpoint)
    with pytest.raises(RouteError, match="segmenter="):
        agent.segment("dog", noise(1))


# --- reading tokens


@pytest.fixture(scope="module")
def marked() -> InferenceEngine:
    """A tokenizer that has Sa2VA's marks."""
    backbone = tiny_backbone()
    for token in ("[SEG]", "[DET]"):
        add_token(backbone, token)
    backbone.tokenizer.add_tokens(["<p>", "</p>"], special_tokens=True)
    return InferenceEngine(backbone)


def read(engine: InferenceEngine, text: str, *, at_once: bool) -> tuple[str, list[tuple[str, str]]]:
    tokenizer = engine.backbone.tokenizer
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    specs = {
        tokenizer.convert_tokens_to_ids(token): RouteSpec(token=token, decoder="box") for token in ("[SEG]", "[DET]")
    }
    reader = AnswerReader(engine, specs, ())
    said: list[str] = []

    def take(news: Iterator[str | OpenedRoute]) -> None:
        said.extend(new for new in news if isinstance(new, str))

    for size in [len(ids)] if at_once else range(len(ids) + 1):
        take(reader.push(ids[:size]))
    take(iter(list(reader.finish())))
    assert "".join(said) == reader.text
    for opened in reader.opened:
        assert reader.text[opened.start : opened.end] == opened.phrase
    return reader.text, [(opened.spec.token, opened.phrase) for opened in reader.opened]


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(
    ("written", "text", "routes"),
    [
        ("a dog[DET]", "a dog", [("[DET]", "a dog")]),
        ("a dog[DET] and a cat[SEG].", "a dog and a cat.", [("[DET]", "a dog"), ("[SEG]", "a cat")]),
        ("a dog[DET][SEG]", "a dog", [("[DET]", "a dog"), ("[SEG]", "a dog")]),
        (
            "<p> a dog </p> [SEG] next to <p> a red car </p> [SEG], on the grass.",
            "a dog next to a red car, on the grass.",
            [("[SEG]", "a dog"), ("[SEG]", "a red car")],
        ),
        ("there is <p> a cat </p> and a dog", "there is a cat and a dog", []),
        ("image-2: a cat[DET]", "image-2: a cat", [("[DET]", "a cat")]),
        ("[DET] a dog", "a dog", [("[DET]", "")]),
        ("", "", []),
    ],
)
def test_phrases_are_the_marked_words_or_those_before_the_token(
    marked: InferenceEngine, written: str, text: str, routes: list[tuple[str, str]], at_once: bool
) -> None:
    assert read(marked, written, at_once=at_once) == (text, routes)


@pytest.mark.parametrize(
    ("text", "images", "named"),
    [
        ("where is the dog?", 3, ()),
        ("the dog in image 2", 3, (1,)),
        ("Image-3: a dog", 3, (2,)),
        ("compare the first picture with the last photo", 3, (0, 2)),
        ("is the left picture brighter than the right one?", 2, (0, 1)),
        ("is the left picture brighter?", 3, ()),
        ("image 7", 3, ()),
        ("the dog on the left", 2, ()),
        ("the 2nd image", 2, (1,)),
    ],
)
def test_images_are_named_by_number_or_place(text: str, images: int, named: tuple[int, ...]) -> None:
    assert named_images(text, images) == named


# --- the default


def test_the_default_streams_its_route(agent: VisionAgent, photo: Path) -> None:
    events = list(agent.run("where is the dog?", photo, stream=True))
    kinds = [event.kind for event in events]
    assert kinds.index("route") < kinds.index("result") < kinds.index("done") == len(events) - 1
    answer = agent.run("where is the dog?", photo)
    done = events[-1]
    assert isinstance(done, AnswerDone) and done.answer.text == answer.text
    assert [item.phrase for item in done.answer.routes] == ["dog"]
    routed = done.answer.routes[0].detections
    assert routed is not None and answer.routes[0].detections is not None
    assert routed.labels == answer.routes[0].detections.labels


def test_masks_keep_their_kind_in_json() -> None:
    mask = Mask.from_array(torch.ones(4, 6, dtype=torch.bool).numpy())
    found = Segmentation.from_masks([mask], [0.5], ["dog"], image_size=(6, 4), model="toy")
    routed = RoutedText(token="[SEG]", phrase="dog", start=0, end=3, result=found, image=0)
    again = RoutedText.model_validate_json(routed.model_dump_json())
    assert again == routed and isinstance(again.result, Segmentation)
    assert routed.detections == found.detections
    other = RoutedText.model_validate({"token": "[X]", "phrase": "", "start": 0, "end": 0, "result": {"kind": "mine"}})
    assert other.result == {"kind": "mine"} and other.detections is None


def test_the_image_may_be_a_list_of_one(agent: VisionAgent, photo: Path) -> None:
    one, many = agent.run("where is the dog?", photo), agent.run("where is the dog?", [Image.open(photo)])
    assert one.routes == many.routes
