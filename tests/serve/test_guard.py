"""Who is let in, with how much, how requests wait, and how the server stops."""

import asyncio
import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from command_line import CommandLine
from live_server import serving

from vision_agent import InputError, VisionAgent
from vision_agent.serve.application import Application
from vision_agent.serve.listening import listen
from vision_agent.serve.options import ServeOptions, guarded, read_keys
from vision_agent.tools.mcp import MCPServer

LONG = {"prompt": "a red apple", "steps": 1000}  # minutes of work
HELLO = {"model": "default", "messages": [{"role": "user", "content": "hello"}]}


def asked(app: Application, method: str, path: str, **request: Any) -> httpx.Response:
    """The response of an application in this process."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as http:
            return await http.request(method, path, **request)

    return asyncio.run(ask())


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error, in the one form that there is."""
    (error,) = response.json().values()
    assert set(error) == {"message", "type", "param", "code"} and error["message"] and error["type"]
    return error


def until(happened: Callable[[], bool]) -> None:
    """Wait for what must happen soon."""
    for _ in range(600):
        if happened():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen")


# --- keys, hosts, sizes


@pytest.fixture(scope="module")
def locked(agent: VisionAgent) -> Application:
    """Two keys are let in, with little."""
    return Application(agent, ServeOptions(keys=("first key".replace(" ", "-"), "second"), max_body_bytes=5000))


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer secon"}, 401),
        ({"authorization": "Bearer "}, 401),
        ({"authorization": "Basic c2Vjb25k"}, 401),
        ({"authorization": "second"}, 401),
        ({"authorization": "Bearer second"}, 200),
        ({"authorization": "bearer first-key"}, 200),
        ({"x-moondream-auth": "second"}, 200),
    ],
)
def test_a_key_is_needed_where_there_are_keys(locked: Application, sent: dict[str, str], status: int) -> None:
    for path in ("/v1/models", "/metrics", "/openapi.json"):
        response = asked(locked, "GET", path, headers=sent)
        assert response.status_code == status
        assert status == 200 or error_of(response)["code"] == "invalid_api_key"
    assert asked(locked, "GET", "/health/live").status_code == asked(locked, "GET", "/health/ready").status_code == 200


def test_the_client_raises_for_a_wrong_key(agent: VisionAgent) -> None:
    with serving(agent, ServeOptions(keys=("right",))) as url:
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{url}/v1", api_key="wrong").models.list()
        assert openai.OpenAI(base_url=f"{url}/v1", api_key="right").models.list().data


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 403),
        ({"host": "localhost.evil.example:8000"}, 403),
        ({"host": ""}, 403),
        ({"host": "[::1"}, 403),
        ({"host": "LOCALHOST:8000"}, 200),
        ({"host": "127.0.0.1:1"}, 200),
        ({"host": "[::1]:8000"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://localhost:3000"}, 200),
    ],
)
def test_pages_of_others_cannot_call_it(agent: VisionAgent, headers: dict[str, str], status: int) -> None:
    response = asked(Application(agent), "GET", "/v1/models", headers=headers)
    assert response.status_code == status
    assert status == 200 or error_of(response)["code"] == "host_refused"


def test_others_are_served_with_keys_alone(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::", "192.168.1.7", "vision.example.org"):
        with pytest.raises(InputError, match="give `--keys FILE`"):
            guarded(ServeOptions(), host)
        assert guarded(ServeOptions(keys=("k",)), host).hosts is None
        named = ServeOptions(keys=("k",), hosts=("vision.example.org",))
        assert guarded(named, host) == named
    for host in ("127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]"):
        assert guarded(ServeOptions(), host) == ServeOptions()
    file = tmp_path / "keys"
    file.write_text("# ours\n\n first-key \nsecond\n")
    assert read_keys(file) == ("first-key", "second")
    assert "first-key" not in repr(ServeOptions(keys=read_keys(file)))
    for text in ("", "# none\n", "with space\n", "schlüssel\n"):
        file.write_text(text)
        with pytest.raises(InputError, match="`keys`") as raised:
            read_keys(file)
        assert "schlüssel" not in str(raised.value)


def test_too_much_is_refused_before_it_is_read(locked: Application) -> None:
    key = {"authorization": "Bearer second", "content-type": "application/json"}
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1000
            yield b" " * 1000

    for content, headers in ((b" " * 6000, key), (endless(), key), (b"", {**key, "content-length": "9" * 30})):
        response = asked(locked, "POST", "/v1/chat/completions", content=content, headers=headers)
        assert (response.status_code, error_of(response)["code"]) == (413, "body_too_large")
    assert sent == 6000


def test_a_slow_body_is_given_up(agent: VisionAgent) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(30)
        yield b"}"

    app = Application(agent, ServeOptions(body_seconds=0.05))
    headers = {"content-type": "application/json"}
    response = asked(app, "POST", "/v1/chat/completions", content=slow(), headers=headers)
    assert (response.status_code, error_of(response)["code"]) == (408, "body_timeout")


def test_images_are_bounded(agent: VisionAgent, data_url: str) -> None:
    app = Application(agent, ServeOptions(max_pixels=1000, max_images=2, max_characters=50))
    image = {"type": "image_url", "image_url": {"url": data_url}}

    def refusal(content: Any) -> dict[str, Any]:
        request = {"model": "default", "messages": [{"role": "user", "content": content}]}
        return error_of(asked(app, "POST", "/v1/chat/completions", json=request))

    assert refusal([image])["code"] == "image_too_large"
    assert "at most 2 images" in refusal([image] * 3)["message"]
    assert refusal("dog " * 20)["code"] == "context_length_exceeded"
    detected = asked(app, "POST", "/v1/vision/detect", json={"phrase": "dog", "image": data_url})
    assert (detected.status_code, error_of(detected)["param"]) == (400, "image")


def test_roots_are_read_and_nothing_beside_them(agent: VisionAgent, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(photo.read_bytes())
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "dog.jpg").write_bytes(photo.read_bytes())
    (tmp_path / "open" / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    app = Application(agent, ServeOptions(roots=((tmp_path / "open").resolve(),)))

    def detect(image: str) -> httpx.Response:
        return asked(app, "POST", "/v1/vision/detect", json={"phrase": "dog", "image": image})

    assert detect("dog.jpg").json()["detections"]
    for image in ("../secret.jpg", str(tmp_path / "secret.jpg"), "link.jpg", "file://dog.jpg", "/etc/passwd", "a\0b"):
        assert detect(image).status_code == 400


def test_unknown_paths_and_methods(agent: VisionAgent) -> None:
    app = Application(agent)
    assert error_of(asked(app, "GET", "/v1/nothing"))["code"] == "not_found"
    response = asked(app, "GET", "/v1/chat/completions")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    response = asked(app, "POST", "/v1/chat/completions", content=b"{}", headers={"content-type": "text/plain"})
    assert (response.status_code, error_of(response)["code"]) == (415, "media_type")


# --- waiting, leaving, stopping


def metrics(url: str) -> dict[str, float]:
    lines = [line for line in httpx.get(f"{url}/metrics").text.splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0].removeprefix("vision_agent_"): float(line.rpartition(" ")[2]) for line in lines}


def left_alone(url: str) -> socket.socket:
    """A connection on which a long request was sent."""
    host, port = url.removeprefix("http://").split(":")
    body = json.dumps(LONG).encode()
    head = f"POST /v1/vision/generate HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
    connection = socket.create_connection((host, int(port)))
    connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    return connection


def test_a_client_that_leaves_frees_its_place(agent: VisionAgent) -> None:
    with serving(agent, ServeOptions(max_running=1, max_queue=1)) as url:
        first = left_alone(url)
        until(lambda: metrics(url).get("requests_running") == 1)
        second = left_alone(url)
        until(lambda: metrics(url).get("requests_waiting") == 1)
        busy = httpx.post(f"{url}/v1/chat/completions", json=HELLO)
        assert (busy.status_code, error_of(busy)["code"]) == (429, "queue_full")
        assert int(busy.headers["retry-after"]) >= 1
        with pytest.raises(openai.RateLimitError):
            openai.OpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0).chat.completions.create(**HELLO)
        second.close()
        until(lambda: metrics(url)["requests_waiting"] == 0)
        first.close()
        until(lambda: metrics(url)["requests_running"] == 0)
        assert metrics(url)["requests_abandoned_total"] == 2
        assert httpx.post(f"{url}/v1/chat/completions", json=HELLO, timeout=60).status_code == 200


def test_a_client_that_leaves_a_stream_frees_its_place(agent: VisionAgent) -> None:
    with serving(agent) as url:
        with httpx.stream("POST", f"{url}/v1/chat/completions", json={**HELLO, "stream": True, "n": 16}) as response:
            assert next(response.iter_text())
        until(lambda: metrics(url)["requests_running"] == 0)
        assert metrics(url)["requests_abandoned_total"] == 1


def test_time_is_bounded(agent: VisionAgent) -> None:
    app = Application(agent, ServeOptions(request_seconds=0.3))
    response = asked(app, "POST", "/v1/vision/generate", json=LONG)
    assert (response.status_code, error_of(response)["code"]) == (422, "request_timeout")


def test_counts_and_logs(agent: VisionAgent, data_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "vision_agent.serve")
    app = Application(agent)
    content = [{"type": "image_url", "image_url": {"url": data_url}}, {"type": "text", "text": "where is the dog?"}]
    sent = {"model": "default", "messages": [{"role": "user", "content": content}]}
    response = asked(app, "POST", "/v1/chat/completions", json=sent)
    line = json.loads(caplog.messages[-1])
    usage = response.json()["usage"]
    assert line["request"] == response.headers["x-request-id"]
    assert (line["route"], line["status"], line["images"]) == ("/v1/chat/completions", 200, 1)
    assert line["completion_tokens"] == usage["completion_tokens"]
    assert data_url[:40] not in caplog.text and "dog" not in caplog.text
    counted = asked(app, "GET", "/metrics").text
    assert 'vision_agent_requests_total{route="/v1/chat/completions",status="200"} 1' in counted
    assert f"vision_agent_prompt_tokens_total {usage['prompt_tokens']}\n" in counted
    assert 'vision_agent_request_seconds_bucket{route="/v1/chat/completions",le="+Inf"} 1' in counted
    asked(app, "GET", "/a/path/of/a/client")
    assert "a/path" not in asked(app, "GET", "/metrics").text


def test_a_fault_inside_is_told_without_its_words(agent: VisionAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*words: Any, **settings: Any) -> None:
        raise RuntimeError("the password is secret")

    monkeypatch.setattr(agent, "detect", broken)
    response = asked(Application(agent), "POST", "/v1/vision/detect", json={"phrase": "dog", "image": "data:,x"})
    assert response.status_code == 400, "the image is refused first"
    sent = {"phrase": ["dog"], "image": "data:image/png;base64,iVBORw0KGgo="}
    monkeypatch.setattr("vision_agent.serve.request_sources.Sources.image", lambda *words: None)
    response = asked(Application(agent), "POST", "/v1/vision/detect", json=sent)
    assert (response.status_code, error_of(response)["code"]) == (500, "internal_error")
    assert "secret" not in response.text


def test_a_stop_lets_requests_end(cli: CommandLine) -> None:
    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    answers: list[httpx.Response] = []

    def call() -> None:
        def up() -> bool:
            try:
                return httpx.get(f"{url}/health/ready").status_code == 200
            except httpx.TransportError:
                return False

        until(up)
        sent = {"prompt": "a red apple", "steps": 30, "seed": 1}
        asking = threading.Thread(
            target=lambda: answers.append(httpx.post(f"{url}/v1/vision/generate", json=sent, timeout=120))
        )
        asking.start()
        until(lambda: metrics(url).get("requests_running") == 1)
        os.kill(os.getpid(), signal.SIGTERM)
        asking.join()

    calling = threading.Thread(target=call)
    calling.start()
    done = cli("serve", "--port", port, "--ui")
    calling.join()
    assert done.returncode == 0
    assert answers[0].status_code == 200 and answers[0].json()["kind"] == "generated_image"
    first, second, *lines = done.stderr.splitlines()
    assert first == f"vision-agent: serving default at {url}"
    assert second == f"vision-agent: open {url}/ in a browser"
    assert json.loads(lines[-1])["route"] == "/v1/vision/generate"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--host", "0.0.0.0"), "`host` is '0.0.0.0'"),
        (("--port", "70000"), "`port` must be"),
        (("--host", "203.0.113.1", "--keys", __file__), "`keys` must be"),
        (("--keys", "nowhere"), "`keys` must be a file"),
        (("--max-images", "0"), "`max_images` must be"),
        (("--root", "nowhere"), "`roots` must be"),
    ],
)
def test_a_server_that_cannot_be_is_told_at_once(cli: CommandLine, words: tuple[str, ...], said: str) -> None:
    done = cli("serve", *words)
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1


def test_mcp_is_on_the_same_port(agent: VisionAgent) -> None:
    import mcp
    from mcp.client.streamable_http import streamable_http_client

    async def call(url: str) -> list[str]:
        async with mcp.Client(streamable_http_client(url), mode="legacy") as client:
            return [tool.name for tool in (await client.list_tools()).tools]

    with serving(agent, mcp=MCPServer(agent).mounted) as url:
        assert {"detect", "ask", "segment"} <= set(asyncio.run(call(f"{url}/mcp")))
        assert httpx.get(f"{url}/v1/models").status_code == 200
        assert httpx.post(f"{url}/mcp", json={}, headers={"host": "evil.example"}).status_code == 403
    assert asked(Application(agent), "POST", "/mcp", json={}).status_code == 404
