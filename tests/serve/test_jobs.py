"""Requests that are answered later: accepted, asked for, given up, and finished when the server stops."""

from typing import Any

import httpx
import pytest
from live_server import serving
from test_guard import LONG, error_of, metrics, until

from vision_agent import VisionAgent
from vision_agent.serve.options import ServeOptions

LATER = {"prefer": "respond-async"}


def ended(url: str, path: str) -> dict[str, Any]:
    """A job, once it has ended."""
    until(lambda: httpx.get(f"{url}{path}").json()["status"] not in ("queued", "running"))
    told: dict[str, Any] = httpx.get(f"{url}{path}").json()
    return told


def test_a_result_is_what_it_is_at_once(url: str, data_url: str) -> None:
    asked = {"phrase": "dog", "image": data_url}
    accepted = httpx.post(f"{url}/v1/vision/detect", json=asked, headers=LATER)
    assert (accepted.status_code, accepted.json()["status"]) == (202, "queued")
    path = accepted.headers["location"]
    assert path == f"/v1/jobs/{accepted.json()['id']}"
    job = ended(url, path)
    assert job["result"] == httpx.post(f"{url}/v1/vision/detect", json=asked).json()
    assert job["kept_seconds"] == 3600
    assert httpx.get(f"{url}{path}").json() == job, "it may be asked for again"
    assert httpx.delete(f"{url}{path}").status_code == 200
    assert error_of(httpx.get(f"{url}{path}"))["code"] == "job_not_found"


def test_a_wrong_request_is_no_job_and_a_wrong_image_a_failed_one(url: str) -> None:
    refused = httpx.post(f"{url}/v1/vision/detect", json={"phrase": "dog"}, headers=LATER)
    assert (refused.status_code, error_of(refused)["param"]) == (400, "image")
    sent = {"phrase": "dog", "image": "data:image/png;base64,AAAA"}
    job = ended(url, httpx.post(f"{url}/v1/vision/detect", json=sent, headers=LATER).headers["location"])
    assert (job["status"], job["error"]["param"]) == ("failed", "image")
    assert error_of(httpx.get(f"{url}/v1/jobs/job_x"))["code"] == "job_not_found"


def test_jobs_wait_are_given_up_and_are_bounded(agent: VisionAgent) -> None:
    with serving(agent, ServeOptions(max_running=1, max_queue=1, max_jobs=2, kept_seconds=0.2)) as url:

        def accept(sent: dict[str, Any]) -> httpx.Response:
            return httpx.post(f"{url}/v1/vision/generate", json=sent, headers=LATER)

        first, second = accept(LONG), accept({"prompt": "a bus", "steps": 1})
        until(lambda: httpx.get(f"{url}{first.headers['location']}").json()["status"] == "running")
        assert httpx.get(f"{url}{second.headers['location']}").json()["status"] == "queued"
        full = accept(LONG)
        assert (full.status_code, error_of(full)["code"]) == (429, "queue_full")
        assert httpx.delete(f"{url}{first.headers['location']}").json()["status"] == "cancelled"
        until(lambda: httpx.get(f"{url}{second.headers['location']}").status_code == 404)
        assert metrics(url)["requests_running"] == 0


def test_a_stop_finishes_jobs_or_says_that_they_are_lost(
    agent: VisionAgent, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    generate = agent.generate

    def noted(prompt: str, **settings: Any) -> Any:
        made = generate(prompt, **settings)
        ran.append(prompt)
        return made

    monkeypatch.setattr(agent, "generate", noted)
    with serving(agent, ServeOptions(max_running=1)) as url:
        for prompt in ("a bus", "a red apple"):
            sent = {"prompt": prompt, "steps": 2}
            assert httpx.post(f"{url}/v1/vision/generate", json=sent, headers=LATER).status_code == 202
    assert ran == ["a bus", "a red apple"], "both were finished after the server was told to stop"
    with serving(agent, ServeOptions(drain_seconds=1)) as url:
        lost = httpx.post(f"{url}/v1/vision/generate", json=LONG, headers=LATER).json()["id"]
        until(lambda: metrics(url).get("requests_running") == 1)
    assert any(lost in line and '"lost"' in line for line in caplog.messages) and len(ran) == 2
