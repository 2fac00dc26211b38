"""A server that is killed and started again while clients ask: they get their answers, and lost jobs are told."""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import openai

CLIENTS, QUESTIONS = 4, 2


@contextmanager
def process(port: int) -> Iterator[subprocess.Popen[str]]:
    """`vision-agent serve` in a process of its own, once it answers."""
    words = [sys.executable, "-m", "vision_agent", "serve", "--port", str(port)]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        told = server.stderr.readline()
        assert f":{port}" in told, told
        threading.Thread(target=server.stderr.read).start()  # its log
        try:
            yield server
        finally:
            server.kill()


def test_clients_outlive_a_server_that_is_killed(data_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    image = {"type": "image_url", "image_url": {"url": data_url}}
    asked = [{"role": "user", "content": [image, {"type": "text", "text": "what colour is the frisbee?"}]}]
    answered = threading.Semaphore(0)

    def ask(_: int) -> list[Any]:
        # Its own retries, which wait longer each time, are what brings a client over the restart.
        with openai.OpenAI(base_url=f"{url}/v1", api_key="-", max_retries=12) as client:
            said = []
            for _ in range(QUESTIONS):
                said.append(client.chat.completions.create(model="default", messages=asked).choices[0].message.content)
                answered.release()
            return said

    later = {"Prefer": "respond-async"}
    with ThreadPoolExecutor(CLIENTS) as clients:
        with process(port) as server:
            sent = {"prompt": "a red apple", "steps": 900}
            lost = httpx.post(f"{url}/v1/vision/generate", json=sent, headers=later).raise_for_status().json()["id"]
            answers = clients.map(ask, range(CLIENTS))
            for _ in range(CLIENTS):
                assert answered.acquire(timeout=60)
            server.kill()
        with process(port):
            assert [set(said) for said in answers] == [{"red"}] * CLIENTS
            gone = httpx.get(f"{url}/v1/jobs/{lost}")
            assert (gone.status_code, gone.json()["error"]["code"]) == (410, "job_lost")
            again = httpx.post(f"{url}/v1/vision/detect", json={"image": data_url, "phrase": "dog"}, headers=later)
            assert again.status_code == 202 and httpx.get(f"{url}/v1/jobs/{again.json()['id']}").status_code == 200
