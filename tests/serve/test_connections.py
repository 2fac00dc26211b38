"""HTTP connections: idle ones can be used again, silent ones are closed, and a refusal is read by who still sends."""

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
from live_server import serving

from vision_agent import VisionAgent
from vision_agent.serve import http_protocol
from vision_agent.serve.options import ServeOptions

HELLO = json.dumps({"model": "default", "messages": [{"role": "user", "content": "hello"}]}).encode()
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def host(agent: VisionAgent) -> Iterator[str]:
    """A server with a key, as host:port."""
    with serving(agent, ServeOptions(keys=("k",), max_body_bytes=2**20)) as url:
        yield url.removeprefix("http://")


def opened(host: str) -> socket.socket:
    name, port = host.split(":")
    return socket.create_connection((name, int(port)), timeout=30)


def answered(connection: http.client.HTTPConnection, key: str, body: bytes = HELLO) -> int:
    headers = {**JSON, "authorization": f"Bearer {key}"}
    connection.request("POST", "/v1/chat/completions", body=body, headers=headers)
    response = connection.getresponse()
    json.loads(response.read())
    return response.status


def test_an_idle_connection_can_be_used_when_clients_still_keep_theirs(host: str) -> None:
    """httpx, and with it OpenAI's client, keeps connections for five seconds; a server must not be the first."""
    connection = http.client.HTTPConnection(host, timeout=30)
    assert answered(connection, "k") == 200
    used = connection.sock
    time.sleep(5.5)
    assert answered(connection, "k") == 200 and connection.sock is used
    assert http_protocol.IDLE_SECONDS > 60  # as long as nginx and cloud balancers keep connections to a server


@pytest.mark.parametrize("length", ["told", "chunked"])
def test_who_sends_too_much_reads_why(host: str, length: str) -> None:
    # Clients of http.client, and so of requests, read the answer when the whole body is sent.
    piece = b"x" * 2**16
    for _ in range(5):
        connection = http.client.HTTPConnection(host, timeout=30)
        headers = {**JSON, "authorization": "Bearer k"}
        body = piece * 480 if length == "told" else iter([piece] * 480)
        connection.request("POST", "/v1/chat/completions", body=body, headers=headers, encode_chunked=True)
        response = connection.getresponse()
        assert (response.status, response.getheader("connection")) == (413, "close")
        assert json.loads(response.read())["error"]["code"] == "body_too_large"
        connection.close()


def test_a_connection_lives_on_after_a_refusal_before_the_body(host: str) -> None:
    connection = http.client.HTTPConnection(host, timeout=30)
    assert answered(connection, "wrong", HELLO + b" " * 900_000) == 401
    used = connection.sock
    for key, status in (("k", 200), ("wrong", 401), ("k", 200)):
        assert answered(connection, key) == status
    assert connection.sock is used
    # The same in one write: the next request stands behind a body that nobody read.
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    with opened(host) as raw:
        big = HELLO + b" " * 500_000
        first = f"{head}content-length: {len(big)}\r\nauthorization: Bearer wrong\r\n\r\n".encode() + big
        second = f"{head}content-length: {len(HELLO)}\r\nauthorization: Bearer k\r\nconnection: close\r\n\r\n".encode()
        sender = threading.Thread(target=raw.sendall, args=(first + second + HELLO,))
        sender.start()
        said = b""
        while piece := raw.recv(2**16):
            said += piece
        sender.join()
    assert re.findall(rb"HTTP/1.1 (\d+)", said) == [b"401", b"200"]


def test_connections_that_say_nothing_are_closed(agent: VisionAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "SILENT_SECONDS", 0.5)
    with serving(agent) as url:
        host = url.removeprefix("http://")
        silent = [opened(host) for _ in range(200)]
        assert httpx.get(f"{url}/health/live").status_code == 200
        assert [connection.recv(1) for connection in silent] == [b""] * 200
        live = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n"
        for before in (b"", live):  # a head that comes byte by byte, also after a request that was answered
            with opened(host) as slow:
                slow.sendall(before)
                if before:
                    assert slow.recv(2**16).startswith(b"HTTP/1.1 200")
                began = time.monotonic()
                with pytest.raises(OSError):  # a pipe or a connection, as the system has it
                    for number in range(450):
                        slow.sendall(b"GET / HTTP/1.1\r\nx: " if number == 0 else b"y")
                        time.sleep(0.02)
                assert time.monotonic() - began < 10


def test_a_body_without_end_is_not_taken_for_ever(agent: VisionAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "LINGER_SECONDS", 0.5)
    with serving(agent, ServeOptions(max_body_bytes=1000)) as url, opened(url.removeprefix("http://")) as raw:
        raw.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n")
        raw.sendall(b"content-length: 1000000000\r\n\r\n")
        began = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() - began < 20:
                raw.sendall(b"x" * 1000)
                time.sleep(0.005)
        assert time.monotonic() - began < 15
