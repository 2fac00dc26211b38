"""The agent with the model that ships: what users call, and what they get wrong."""

import base64
import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PHOTOS
from numerics import assert_same_boxes
from PIL import Image

from vision_agent import (
    Answer,
    ArgumentTypeError,
    Detections,
    ImageError,
    ImageTooLargeError,
    InputError,
    RouteError,
    UnsupportedImageError,
    UrlRefusedError,
    VisionAgent,
)

BUS = PHOTOS / "000000274272.jpg"
DOG = PHOTOS / "000000139872.jpg"


def test_the_default_finds_what_is_in_a_photo_it_never_saw(agent: VisionAgent) -> None:
    found = agent.detect("bus", BUS)
    assert isinstance(found, Detections)
    assert found.image_size == (640, 480)
    assert found.labels[0] == "bus"
    assert found[0].score >= 0.2


def test_absent_things_give_an_empty_result(agent: VisionAgent) -> None:
    found = agent.detect("giraffe", BUS)
    assert len(found) == 0
    assert found.phrases == ("giraffe",)
    # The card states how often a small model is wrong about this; here it may be for two phrases in ten.
    names = ["zebra", "toilet", "bed", "laptop", "sheep", "oven", "surfboard", "keyboard", "banana", "elephant"]
    wrong = [name for name in names if len(agent.detect(name, BUS))]
    assert len(wrong) <= 2, wrong


def test_a_list_of_phrases_equals_single_calls(agent: VisionAgent) -> None:
    phrases = ["bus", "traffic light", "giraffe", "red bus"]
    together = agent.detect(phrases, BUS, threshold=0.1)
    for phrase in phrases:
        alone = agent.detect(phrase, BUS, threshold=0.1)
        mine = together.filter(label=phrase)
        np.testing.assert_allclose(mine.xyxy, alone.xyxy, atol=0.05)
        np.testing.assert_allclose(mine.scores, alone.scores, atol=1e-4)


def test_order_of_phrases_does_not_matter(agent: VisionAgent) -> None:
    first = agent.detect(["dog", "frisbee"], DOG, threshold=0.1).filter(label="dog")
    second = agent.detect(["frisbee", "dog"], DOG, threshold=0.1).filter(label="dog")
    np.testing.assert_allclose(first.xyxy, second.xyxy, atol=0.05)


def test_a_list_of_images_gives_a_list_of_results(agent: VisionAgent) -> None:
    results = agent.detect("bus", [BUS, DOG])
    assert [type(result) for result in results] == [Detections, Detections]
    assert results[0] == agent.detect("bus", BUS)


def test_every_kind_of_input_gives_the_same_boxes(agent: VisionAgent) -> None:
    image = Image.open(BUS)
    array = np.asarray(image.convert("RGB"))
    data = BUS.read_bytes()
    expected = agent.detect("bus", BUS)
    url = "data:image/jpeg;base64," + base64.b64encode(data).decode()
    kinds = [str(BUS), data, io.BytesIO(data), image, array, torch.tensor(array).permute(2, 0, 1), url]
    for kind in kinds:
        assert agent.detect("bus", kind) == expected


def test_boxes_are_in_the_upright_image(agent: VisionAgent, tmp_path: Path) -> None:
    image = Image.open(BUS).convert("RGB")
    turned = image.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn clockwise to see it upright"
    turned.save(tmp_path / "turned.png", exif=exif)
    assert agent.detect("bus", tmp_path / "turned.png") == agent.detect("bus", image)


def test_threshold_only_removes(agent: VisionAgent) -> None:
    low, high = (agent.detect("bus", BUS, threshold=value) for value in (0.05, 0.5))
    assert len(low) >= len(high)
    assert list(high) == [item for item in low if item.score >= 0.5]


def test_the_model_routes_by_itself(agent: VisionAgent) -> None:
    answer = agent.run("where is the bus?", BUS)
    assert isinstance(answer, Answer)
    assert [(route.token, route.phrase) for route in answer.routes] == [("[DET]", "bus")]
    assert answer.text[answer.routes[0].start : answer.routes[0].end] == "bus"
    assert answer.routes[0].detections is not None
    plain = agent.run("is there a bus?", BUS)
    assert plain.routes == ()
    assert plain.text == "yes"
    assert [look.phrases for look in plain.evidence] == [("bus",)]  # what the answer rests on
    assert len(plain.evidence[0]) >= 1


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("is the frisbee below the dog?", "yes"),
        ("is the frisbee above the dog?", "no"),
        ("is the dog left of the frisbee?", "yes"),
        ("is the dog right of the frisbee?", "no"),
        ("which is bigger, the dog or the frisbee?", "the dog"),
    ],
)
def test_relations_are_answered_by_two_looks(agent: VisionAgent, question: str, answer: str) -> None:
    said = agent.ask(question, DOG)
    assert said.text == answer
    first, second = said.evidence
    assert {*first.phrases, *second.phrases} == {"dog", "frisbee"} and len(first) and len(second)


@pytest.mark.parametrize(
    ("request_", "token", "kind"),
    [
        ("draw a red car", "[GEN]", "generated_images"),
        ("outline the bus", "[SEG]", "segmentation"),
        ("what does it say?", "[OCR]", "ocr"),
    ],
)
def test_an_answer_ends_with_the_one_route_that_it_needs(
    agent: VisionAgent, request_: str, token: str, kind: str
) -> None:
    result = agent.run(request_, None if token == "[GEN]" else BUS)
    assert [route.token for route in result.routes] == [token]
    assert result.routes[0].result.kind == kind
    assert result.finish_reason == "stop" and result.text == result.routes[0].phrase


def test_routed_and_forced_detection_agree(agent: VisionAgent) -> None:
    routed = agent.run("where is the bus?", BUS).routes[0].detections
    forced = agent.detect("bus", BUS)
    assert routed is not None
    assert routed.labels == forced.labels == ["bus"] * len(forced)
    np.testing.assert_allclose(routed.xyxy, forced.xyxy, atol=12)


def test_ask_never_routes(agent: VisionAgent) -> None:
    answer = agent.ask("where is the bus?", BUS)
    assert answer.routes == ()
    assert "[DET]" not in answer.text
    assert [look.phrases for look in answer.evidence] == [("bus",)]


def test_routes_can_be_forced_and_forbidden(agent: VisionAgent) -> None:
    assert agent.run_route("det", "bus", BUS) == agent.detect("bus", BUS)
    assert agent.run("where is the bus?", BUS, routes=()).routes == ()
    assert len(agent.run("where is the bus?", BUS, routes=["det"]).routes) == 1
    with pytest.raises(RouteError, match=r"no 'depth' route; it has \['det', 'edit', 'gen', 'ocr', 'seg'\]"):
        agent.run_route("depth", "bus", BUS)
    with pytest.raises(RouteError, match="depth"):
        agent.run("where is the bus?", BUS, routes=["depth"])


def test_a_token_limit_is_reported(agent: VisionAgent) -> None:
    answer = agent.ask("describe the picture", BUS, max_new_tokens=2)
    assert (answer.finish_reason, answer.completion_tokens) == ("length", 2)
    assert agent.ask("is there a bus?", BUS).finish_reason == "stop"


def test_a_token_typed_by_the_user_is_text(agent: VisionAgent) -> None:
    ids = agent.backbone.prompt_ids("is there a bus? [DET]", [196])
    assert agent.routes["det"].token_id not in ids


def test_a_image_is_encoded_once(agent: VisionAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    encode = agent.backbone.encode_image
    monkeypatch.setattr(agent.backbone, "encode_image", lambda *args: calls.append(1) or encode(*args))
    agent.clear_cache()
    agent.detect(["bus", "car"], BUS)
    agent.detect("person", BUS)
    agent.run("where is the bus?", BUS)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("phrase", "error", "words"),
    [
        ("", InputError, "some words"),
        ("   ", InputError, "some words"),
        ("x" * 10_000, InputError, "at most 300 characters"),
        ([], InputError, "at least one"),
        (["dog", ""], InputError, r"phrase\[1\]"),
        (3, ArgumentTypeError, "string"),
        (["dog", 4], ArgumentTypeError, "list of strings"),
        (None, ArgumentTypeError, "string"),
    ],
)
def test_bad_phrases(agent: VisionAgent, phrase: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        agent.detect(phrase, DOG)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "arguments",
    [(str(DOG), "dog"), (DOG, "dog"), (Image.new("RGB", (20, 20)), "dog"), (np.zeros((20, 20, 3), np.uint8), "dog")],
    ids=["text path", "path", "image", "array"],
)
def test_swapped_arguments_say_so(agent: VisionAgent, arguments: tuple[object, str]) -> None:
    with pytest.raises(TypeError, match="look swapped"):
        agent.detect(*arguments)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="look swapped"):
        agent.ask(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan"), "0.5"])
def test_bad_thresholds(agent: VisionAgent, threshold: object) -> None:
    with pytest.raises(InputError, match="threshold"):
        agent.detect("dog", DOG, threshold=threshold)  # type: ignore[call-overload]


def test_bad_images(agent: VisionAgent, tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "cut.jpg").write_bytes(DOG.read_bytes()[:9000])
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    cases: list[tuple[object, type[Exception]]] = [
        (tmp_path / "missing.jpg", ImageError),
        (tmp_path / "empty.jpg", ImageError),
        (tmp_path / "text.jpg", ImageError),
        (tmp_path / "cut.jpg", ImageError),
        (tmp_path / "moving.gif", UnsupportedImageError),
        (Image.new("RGB", (1, 1)), ImageError),
        (Image.new("RGB", (60_000, 1)), ImageError),
        (torch.full((3, 40, 40), float("nan")), InputError),
        (np.zeros((40, 40, 3), dtype=np.int64), InputError),
        ("https://127.0.0.1/a.jpg", UrlRefusedError),
        (42, ArgumentTypeError),
    ]
    for source, error in cases:
        with pytest.raises(error, match="image"):
            agent.detect("dog", source)  # type: ignore[call-overload]


def test_a_huge_header_is_refused_before_decoding(agent: VisionAgent) -> None:
    import struct
    import zlib

    header = struct.pack(">IIBBBBB", 20_000, 10_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    with pytest.raises(ImageTooLargeError, match="max_pixels"):
        agent.detect("dog", png)


def test_sixteen_threads_get_the_answers_of_one(agent: VisionAgent) -> None:
    jobs = [(phrase, path) for phrase in ("bus", "dog", "person", "car") for path in (BUS, DOG)] * 4
    expected = [agent.detect(*job, threshold=0.1) for job in jobs]
    agent.clear_cache()
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda job: agent.detect(*job, threshold=0.1), jobs))
    for one, other in zip(found, expected, strict=True):
        assert_same_boxes(one, other)


def test_a_thousand_calls_do_not_grow_memory() -> None:
    """In a process of its own: small images, a new one at every fourth call; the cache is small, so that it is full.

    What leaks grows with every block of calls; an allocator that takes another arena once does not count.
    """
    program = """
import numpy as np, psutil, sys
from vision_agent import VisionAgent
agent = VisionAgent(image_cache_bytes=2**25)
rng = np.random.default_rng(0)
def calls(count):
    for number in range(count):
        if number % 4 == 0: image = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
        agent.detect("dog", image)
    return psutil.Process().memory_info().rss
sizes = [calls(400), calls(350), calls(350), calls(350)]
print(*(after / before for before, after in zip(sizes, sizes[1:])))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert min(float(growth) for growth in done.stdout.split()) < 1.01
