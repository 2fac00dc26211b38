"""What Roboflow's client sends, as inference-sdk 1.8.3 does, and what it and supervision read from the answers."""

import base64
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import supervision
from test_guard import error_of

from vision_agent import VisionAgent
from vision_agent.results.segmentation import Mask


@pytest.fixture(scope="module")
def http(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=60)


@pytest.fixture(scope="module")
def image(photo: Path) -> dict[str, str]:
    return {"type": "base64", "value": base64.b64encode(photo.read_bytes()).decode()}


def test_boxes_are_read_by_supervision(
    http: httpx.Client, agent: VisionAgent, photo: Path, image: dict[str, str]
) -> None:
    sent = {"source": "external", "api_key": "x", "text": ["dog", "frisbee"], "confidence": 0.3, "image": image}
    answer = http.post("/yolo_world/infer", json=sent).json()
    own = agent.detect(["dog", "frisbee"], photo, threshold=0.3)
    read = supervision.Detections.from_inference(answer)
    np.testing.assert_allclose(read.xyxy, own.xyxy, atol=0.01)
    np.testing.assert_allclose(read.confidence, [each.score for each in own], atol=1e-4)
    assert read.data["class_name"].tolist() == list(own.labels) and read.class_id.tolist() == [0, 1]
    assert answer["image"] == {"width": 640, "height": 480}
    both = http.post("/yolo_world/infer", json={"text": ["dog"], "image": [image, image]}).json()
    assert [len(each["predictions"]) for each in both] == [1, 1]


@pytest.mark.parametrize("form", ["rle", "polygon"])
def test_masks_of_words(http: httpx.Client, agent: VisionAgent, photo: Path, image: dict[str, str], form: str) -> None:
    prompts = [{"type": "text", "text": "dog"}, {"type": "text", "text": "zebra", "output_prob_thresh": 0.9}]
    sent = {"model_id": "sam3/sam3_final", "prompts": prompts, "output_prob_thresh": 0.5, "format": form}
    dog, zebra = http.post("/sam3/concept_segment", json={**sent, "image": image}).json()["prompt_results"]
    assert dog["echo"] == {"prompt_index": 0, "type": "text", "text": "dog", "num_boxes": 0}
    assert (zebra["prompt_index"], zebra["predictions"]) == (1, [])
    (own,) = agent.segment("dog", photo, threshold=0.5)
    (found,) = dog["predictions"]
    assert found["confidence"] == pytest.approx(own.score, abs=1e-4) and found["format"] == form
    masks = found["masks"]
    mask = Mask(**masks) if form == "rle" else Mask.from_polygons([[ring] for ring in masks], (640, 480))
    assert mask.iou(own.mask) > 0.99


VISUAL = {"type": "visual", "boxes": [{"x": 1, "y": 2, "width": 3, "height": 4}], "box_labels": [1]}
BOXES, MASKS = "/yolo_world/infer", "/sam3/concept_segment"


@pytest.mark.parametrize(
    ("path", "changed", "param"),
    [
        (BOXES, {"text": []}, "text"),
        (BOXES, {"text": None}, "text"),
        (BOXES, {"confidence": 2}, "confidence"),
        (BOXES, {"image": {"type": "numpy", "value": "gASV"}}, "image.type"),
        (BOXES, {"image": {"type": "base64", "value": "!"}}, "image"),
        (BOXES, {"image": {"type": "url", "value": "http://169.254.169.254/"}}, "image"),
        (BOXES, {"image": {"type": "url", "value": "file:///etc/passwd"}}, "image"),
        (BOXES, {"class_agnostic_nms": True}, "class_agnostic_nms"),
        (MASKS, {"text": None, "prompts": [VISUAL]}, "prompts[0].type"),
        (MASKS, {"prompts": []}, "prompts"),
        (MASKS, {"prompts": [{"text": "dog"}], "nms_iou_threshold": 0.5}, "nms_iou_threshold"),
    ],
)
def test_what_cannot_be_done_is_named(
    http: httpx.Client, image: dict[str, str], path: str, changed: dict[str, Any], param: str
) -> None:
    sent = {"image": image, **({"text": ["dog"]} if path == BOXES else {}), **changed}
    if path == MASKS:
        sent.pop("text", None)
    response = http.post(path, json=sent)
    error = error_of(response)
    assert response.status_code == 400
    assert error["param"] == param and error["message"]
