"""Five hundred malformed requests, made by a generator with a fixed seed: each gets one clear error, and none a 500."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from test_guard import HELLO, error_of

from vision_agent import VisionAgent
from vision_agent.serve.application import Application
from vision_agent.serve.options import ServeOptions

PNG = "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAEElEQVR4nGNgGAWjYBTAAAADEAABPywr7AAAAABJRU5ErkJggg=="
PIXEL = f"data:image/png;base64,{PNG}"
DEEP: Any = "[" * 5000 + "]" * 5000
ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 1e308, 10**40, "", " ", "\0", "x" * 3000, "\u202e", "🦒" * 50, [], [[]], {}, {"a": {}}),
    *("data:", "data:image/png;base64,", "data:;base64,!!!!", "file:///etc/passwd", "//a@b", "img_123456", "<image>"),
    *([None], [1, "a", {}], {"type": "text"}, {"url": 3}, {"$ref": "#"}, "default", ["dog"] * 200, 3.5, "NaN"),
)
SCHEMAS: tuple[Any, ...] = (
    {"$ref": "#"},
    {"type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"b": {"$ref": "#/$defs/b"}}},
    {"type": "string", "pattern": "(a+)+$" * 20},
    {"type": "string", "pattern": "("},
    {"type": "array", "minItems": 10**12, "items": {"type": "string"}},
    {"anyOf": []},
    {"allOf": [{"type": "string"}, {"type": "number"}]},
    {"type": "nothing"},
    {"properties": []},
    {"type": "object", "additionalProperties": {"not": {}}, "required": ["a"]},
    {"enum": []},
    {"type": "number", "multipleOf": 0},
    {"type": "integer", "minimum": 5, "maximum": 4},
)
PARTS: tuple[dict[str, Any], ...] = (
    {"type": "text", "text": "hello"},
    {"type": "image_url", "image_url": {"url": PIXEL}},
    {"type": "image_url", "image_url": PIXEL},
    {"type": "image_url"},
    {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
    {"type": "video_url", "video_url": {"url": "file:///a.mp4"}},
    {"text": "hello"},
)
CHAT = {
    **HELLO,
    "max_tokens": 2,
    "n": 1,
    "temperature": 0,
    "stream": False,
    "stop": ["x"],
    "seed": 1,
    "tools": [{"type": "function", "function": {"name": "a", "parameters": {"type": "object", "properties": {}}}}],
    "tool_choice": "auto",
    "response_format": {"type": "text"},
}
ASKED = {"role": "user", "content": [{"type": "input_image", "image_url": PIXEL}, {"type": "input_text", "text": "a"}]}
RESPONSE = {
    "model": "default",
    "input": [ASKED, {"role": "assistant", "content": [{"type": "output_text", "text": "a"}]}, ASKED],
    "instructions": "be short",
    "max_output_tokens": 2,
    "stream": True,
    "text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": "object", "properties": {}}}},
    "tools": [],
}
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", CHAT),
    "response": ("/v1/responses", RESPONSE),
    "roboflow": ("/yolo_world/infer", {"image": {"type": "base64", "value": PNG}, "text": ["a"], "confidence": 0.5}),
    "page": ("/v1/documents/page", {"document": PIXEL, "page": 1, "password": "a"}),
}
VERBS: dict[str, dict[str, Any]] = {
    "detect": {"phrase": "dog", "image": PIXEL, "threshold": 0.5, "tiles": False, "detail": "low"},
    "segment": {"image": PIXEL, "boxes": [[0, 0, 9, 9]], "points": [[1, 1]], "point_labels": [1], "masks": "rle"},
    "count": {"phrase": "dog", "image": PIXEL},
    "track": {
        "phrase": ["dog"],
        "video": "data:video/mp4;base64,AAAA",
        "fps": 2,
        "bounds": [0, 1],
        "tracker": "motion",
    },
    "ocr": {"document": PIXEL, "pages": 1, "engine": "rapidocr", "text_layer": "only"},
    "extract": {
        "document": "data:application/pdf;base64,AAAA",
        "schema": {"type": "object", "properties": {"a": {"type": "string"}}},
    },
    "caption": {"image": PIXEL, "length": "short"},
    "ask": {"question": "what is it?", "image": PIXEL, "choices": ["a", "b"], "max_tiles": 1, "max_new_tokens": 2},
    "run": {"request": "find the dog", "image": PIXEL, "routes": ["det"], "max_steps": 1, "max_new_tokens": 2},
    "generate": {"prompt": "a bus", "steps": 1, "size": 64, "seed": 1, "guidance": 2},
    "edit": {"prompt": "make it red", "image": PIXEL, "steps": 1, "mask": PIXEL},
}


def odd(dice: random.Random, some: tuple[Any, ...] = ODD) -> Any:
    """One of them, a fresh copy."""
    return json.loads(json.dumps(dice.choice(some)))


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a request."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield (*at, key)
        yield from places(part, (*at, key))


def mutated(request: dict[str, Any], dice: random.Random) -> dict[str, Any]:
    """A request with one to three things in it that do not belong there."""
    made = json.loads(json.dumps(request))
    for _ in range(dice.randint(1, 3)):
        place = dice.choice([*places(made)])
        inside = made
        for key in place[:-1]:
            inside = inside[key]
        what = dice.randrange(5)
        if what == 0:
            del inside[place[-1]]
        elif what == 1 and isinstance(inside, dict):
            inside[dice.choice(["", "x", "Image", "__class__", "max_new_token", "schema_", "a" * 300])] = dice.choice(
                ODD
            )
        elif what == 2 and place[-1] in ("schema", "parameters"):
            inside[place[-1]] = odd(dice, SCHEMAS)
        elif what == 3 and place[-1] == "content":
            inside[place[-1]] = [odd(dice, PARTS) for _ in range(dice.randint(0, 4))]
        else:
            inside[place[-1]] = odd(dice)
        if not made:
            break
    return made


def broken(body: bytes, dice: random.Random) -> bytes:
    """JSON that is none any more, or of a kind that readers stumble over."""
    cut = dice.randrange(len(body))
    surrogate = b'{"model": "default", "messages": [{"role": "user", "content": "\\ud800"}]}'
    return dice.choice(
        [
            body[:cut],
            body[:cut] + bytes(dice.randrange(256) for _ in range(8)) + body[cut:],
            DEEP.encode(),
            b'{"a":' * 3000,
            body.replace(b"1", b"NaN").replace(b"0", b"-Infinity"),
            body.replace(b"1", b"1" * 6000),
            surrogate,
            b"\xff\xfe" + body,
            body.decode().encode("utf-16"),
            b"null",
            b"[]",
            b"",
        ]
    )


def malformed(dice: random.Random) -> dict[str, Any]:
    """The arguments of one request."""
    name = dice.choice([*VERBS, *["chat"] * 6, *["response"] * 4, "roboflow", "page"])
    path, request = OTHERS[name] if name in OTHERS else (f"/v1/vision/{name}", VERBS[name])
    how = dice.randrange(10)
    headers = {"content-type": "application/json"}
    if how < 6:
        content = json.dumps(mutated(request, dice)).encode()
    elif how == 6:
        content = broken(json.dumps(request).encode(), dice)
    elif how == 7:
        headers["content-type"] = dice.choice(["", "text/plain", "application/xml", "multipart/form-data", "a" * 5000])
        content = json.dumps(request).encode()
    elif how == 8:
        boundary = dice.choice(["x", "", "é", "x" * 500])
        headers["content-type"] = f"multipart/form-data; boundary={boundary}"
        part = f'--{boundary}\r\ncontent-disposition: form-data; name="{dice.choice(["image", "phrase", "", "a"])}"'
        content = f'{part}; filename="a"\r\n\r\n{dice.choice(["", "x", PIXEL])}\r\n--{boundary}--'.encode()[
            : dice.randrange(20, 300)
        ]
    else:
        path = dice.choice(["/", "/v1", "/v1/", "/v1/vision/", f"{path}/", "/v1/models/%00", "/mcp", "/../etc/passwd"])
        content = b"{}"
    return {
        "method": dice.choice(["POST"] * 9 + ["PUT"]),
        "url": path,
        "content": content,
        "headers": {name: value.encode() for name, value in headers.items()},
    }


@pytest.mark.parametrize("seed", range(5))
def test_malformed_requests(agent: VisionAgent, seed: int) -> None:
    app = Application(agent, ServeOptions(max_running=2, request_seconds=60))
    dice = random.Random(seed)
    requests = [malformed(dice) for _ in range(100)]

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)  # what the application raises would be raised here
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as http:
            return [await http.request(**request) for request in requests]

    answers = asyncio.run(ask())
    counted = Counter(response.status_code for response in answers)
    assert set(counted) <= {200, 400, 404, 405, 415, 422}, [
        (request, response.text)
        for request, response in zip(requests, answers, strict=True)
        if response.status_code not in (200, 400, 404, 405, 415, 422)
    ]
    for response in answers:
        assert response.status_code == 200 or error_of(response)  # some changes do no harm
    assert counted[400] > 40 and counted[200] < 40, counted
