"""What moondream's client sends, as its version 2.6.1 does, and what it reads from the answers."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from vision_agent import VisionAgent
from vision_agent.results.segmentation import Mask


@pytest.fixture(scope="module")
def http(url: str) -> httpx.Client:
    return httpx.Client(base_url=f"{url}/v1/", timeout=60, headers={"user-agent": "moondream-python/2.6.1"})


def test_places_are_shares_of_the_image(http: httpx.Client, agent: VisionAgent, photo: Path, data_url: str) -> None:
    asked = {"image_url": data_url, "object": "dog"}
    found = http.post("detect", json=asked).json()["objects"]
    boxes = [[box["x_min"] * 640, box["y_min"] * 480, box["x_max"] * 640, box["y_max"] * 480] for box in found]
    assert boxes == [pytest.approx(box, abs=0.01) for box in agent.detect("dog", photo).xyxy.tolist()]
    (point,) = http.post("point", json={**asked, "settings": {"max_objects": 1}}).json()["points"]
    own = agent.point("dog", photo)[0]
    assert (point["x"] * 640, point["y"] * 480) == pytest.approx((own.x, own.y), abs=0.01)


def test_a_path_draws_the_mask(http: httpx.Client, agent: VisionAgent, photo: Path, data_url: str) -> None:
    answer = http.post("segment", json={"image_url": data_url, "object": "frisbee", "stream": False}).json()
    box = answer["bbox"]
    left, top, right, bottom = box["x_min"] * 640, box["y_min"] * 480, box["x_max"] * 640, box["y_max"] * 480
    rings = []
    for ring in re.findall(r"M([^Z]+)Z", answer["path"]):
        corners = [tuple(map(float, corner.split())) for corner in ring.split("L")]
        rings.append([[left + x * (right - left), top + y * (bottom - top)] for x, y in corners])
    drawn = Mask.from_polygons([[ring] for ring in rings], (640, 480))
    best = max(agent.segment("frisbee", photo), key=lambda each: each.score)
    assert drawn.iou(best.mask) > 0.97
    nothing = http.post("segment", json={"image_url": data_url, "object": "zebra"}).json()
    assert nothing == {"path": "", "bbox": None}


def test_words(http: httpx.Client, agent: VisionAgent, photo: Path, data_url: str) -> None:
    asked: dict[str, Any] = {"image_url": data_url, "question": "what colour is the dog?", "stream": False}
    assert http.post("query", json=asked).json() == {"answer": "white"}
    events = http.post("query", json={**asked, "stream": True}).text.split("\n\n")
    said = [json.loads(event.removeprefix("data: ")) for event in events if event]
    assert "".join(event.get("chunk", "") for event in said) == "white" and said[-1] == {"completed": True}
    caption = http.post("caption", json={"image_url": data_url, "length": "short", "stream": False}).json()
    assert caption == {"caption": agent.caption(photo, length="short").text}


@pytest.mark.parametrize(
    ("path", "changed", "param"),
    [
        ("detect", {"object": None}, "object"),
        ("detect", {"image_url": "/etc/passwd"}, "image_url"),
        ("detect", {"spatial_refs": [[0.5, 0.5]]}, "spatial_refs"),
        ("detect", {"question": "what?"}, "question"),
        ("segment", {"stream": True}, "stream"),
        ("query", {"object": None, "question": "what is it?", "reasoning": True}, "reasoning"),
        ("caption", {"object": None, "length": "endless"}, "length"),
        ("caption", {"object": None, "settings": {"variant": "x"}}, "settings.variant"),
    ],
)
def test_what_cannot_be_done_is_named(
    http: httpx.Client, data_url: str, path: str, changed: dict[str, Any], param: str
) -> None:
    asked = {
        key: value for key, value in {"image_url": data_url, "object": "dog", **changed}.items() if value is not None
    }
    refused = http.post(path, json=asked)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param), refused.text
