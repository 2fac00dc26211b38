"""`/v1/vision/...`: each verb by JSON and by a form gives what the SDK gives, and fits `/openapi.json`."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import numpy as np
import pytest
from PIL import Image, ImageChops

from vision_agent import (
    Answer,
    Classification,
    Count,
    Detections,
    GeneratedImage,
    OcrResult,
    Points,
    Segmentation,
    Tracks,
    VisionAgent,
)
from vision_agent.images.video_writing import write_mp4
from vision_agent.planning.result import AgentResult

INVOICE = Path(__file__).parents[2] / "examples" / "invoice.pdf"
SCHEMA = {"title": "Invoice", "type": "object", "properties": {"total": {"type": "number"}}, "required": ["total"]}


@pytest.fixture(scope="module")
def described(url: str) -> dict[str, Any]:
    """`/openapi.json`."""
    return httpx.get(f"{url}/openapi.json").json()


@pytest.fixture(scope="module")
def http(url: str) -> httpx.Client:
    return httpx.Client(base_url=f"{url}/v1/vision/", timeout=120)


def fits(content: Any, described: dict[str, Any], path: str, method: str = "post") -> Any:
    """See that a response is what `/openapi.json` says."""
    answers = described["paths"][path][method]["responses"]["200"]["content"]["application/json"]["schema"]
    jsonschema.Draft202012Validator({**answers, "components": described["components"]}).validate(content)
    return content


def test_the_description_is_one_of_openapi(described: dict[str, Any]) -> None:
    assert described["openapi"] == "3.1.0"
    verbs = {path.rpartition("/")[2] for path in described["paths"] if path.startswith("/v1/vision/")}
    assert verbs == set("detect segment point count track classify ocr extract caption ask run generate edit".split())
    for schema in described["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    for path in described["paths"].values():
        for method in (part for name, part in path.items() if name != "parameters"):
            for content in method.get("requestBody", {}).get("content", {}).values():
                name = content["schema"]["$ref"].rpartition("/")[2]
                assert "description" in json.dumps(described["components"]["schemas"][name])


def test_finding(http: httpx.Client, agent: VisionAgent, photo: Path, data_url: str, described: dict[str, Any]) -> None:
    asked = {"phrase": ["dog", "frisbee"], "image": data_url, "threshold": 0.4}
    own = agent.detect(["dog", "frisbee"], photo, threshold=0.4)
    answer = fits(http.post("detect", json=asked).json(), described, "/v1/vision/detect")
    assert Detections.model_validate(answer) == own
    form = {"phrase": ["dog", "frisbee"], "threshold": "0.4"}
    sent = http.post("detect", data=form, files={"image": photo.read_bytes()})
    assert Detections.model_validate(sent.json()) == own
    pointed = fits(http.post("point", json={"phrase": "dog", "image": data_url}).json(), described, "/v1/vision/point")
    assert Points.model_validate(pointed) == agent.point("dog", photo)
    counted = fits(http.post("count", json={"phrase": "dog", "image": data_url}).json(), described, "/v1/vision/count")
    assert Count.model_validate(counted) == agent.count("dog", photo)


def test_labels(http: httpx.Client, agent: VisionAgent, photo: Path, data_url: str, described: dict[str, Any]) -> None:
    asked: dict[str, Any] = {"labels": ["dog", "bus", "pizza"], "image": data_url}
    own = agent.classify(photo, asked["labels"])
    answer = fits(http.post("classify", json=asked).json(), described, "/v1/vision/classify")
    assert Classification.model_validate(answer) == own and own.label == "dog"
    form = http.post("classify", data={"labels": asked["labels"]}, files={"image": photo.read_bytes()})
    assert form.json() == answer
    both = http.post("classify", json={**asked, "image": [data_url, data_url]})
    assert fits(both.json(), described, "/v1/vision/classify") == [answer, answer]
    nothing = http.post("classify", json={**asked, "labels": ["pizza"], "templates": "a {}."}).json()
    assert nothing["none_of_these"] is True
    for wrong, param in (
        ({"labels": []}, "labels"),
        ({"labels": "dog"}, "labels"),
        ({"labels": ["dog", " "]}, "labels[1]"),
        ({"labels": None}, "labels"),
        ({"templates": ["a photo"]}, "templates[0]"),
        ({"image": "data:image/png;base64,AAAA"}, "image"),
        ({"embedder": "/tmp"}, "embedder"),
    ):
        refused = http.post("classify", json=asked | wrong)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param), refused.text


def test_what_was_found_is_looked_at_again(
    http: httpx.Client, agent: VisionAgent, photo: Path, data_url: str, described: dict[str, Any]
) -> None:
    asked = {"phrase": ["cat", "dog"], "image": data_url, "detail": "low", "verify": True}
    answer = fits(http.post("detect", json=asked).json(), described, "/v1/vision/detect")
    own = agent.detect(["cat", "dog"], photo, detail="low", verify=True)
    assert Detections.model_validate(answer) == own and {each.label for each in own} == {"dog"}
    form = {"phrase": ["cat", "dog"], "detail": "low", "verify": "true"}
    assert http.post("detect", data=form, files={"image": photo.read_bytes()}).json() == answer
    ran = http.post("run", json={"request": "find the cat and crop it", "image": data_url, "verify": True})
    result = AgentResult.model_validate(fits(ran.json(), described, "/v1/vision/run"))
    assert "verify" in [step.tool for step in result.steps]
    refused = http.post("detect", json=asked | {"verify": "perhaps"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "verify")


def test_tracking(
    http: httpx.Client, agent: VisionAgent, photo: Path, tmp_path: Path, described: dict[str, Any]
) -> None:
    """A dog that moves to the right: by JSON, by a form, and as the SDK tells it."""
    frames = [ImageChops.offset(Image.open(photo).convert("RGB").resize((320, 240)), 12 * step, 0) for step in range(4)]
    write_mp4(tmp_path / "dog.mp4", iter(frames), [each / 10 for each in range(4)])
    data = (tmp_path / "dog.mp4").read_bytes()
    asked = {"phrase": "dog", "video": f"data:video/mp4;base64,{base64.b64encode(data).decode()}", "detail": "low"}
    own = agent.track("dog", data, detail="low")
    assert [track.label for track in own] == ["dog"]
    answer = fits(http.post("track", json=asked).json(), described, "/v1/vision/track")
    assert Tracks.model_validate(answer) == own
    form = {"phrase": "dog", "detail": "low"}
    assert http.post("track", data=form, files={"video": data}).json() == answer
    for wrong, param in (
        ({"video": "data:video/mp4;base64,AAAA"}, "video"),
        ({"bounds": [2, 1]}, "bounds"),
        ({"fps": 0}, "fps"),
        ({"tracker": "magic"}, "tracker"),
        ({"phrase": ""}, "phrase"),
        ({"video": str(tmp_path / "dog.mp4")}, "video"),  # no path of the server
    ):
        refused = http.post("track", json=asked | wrong)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param), refused.text


def test_a_list_of_images_gives_a_list(
    http: httpx.Client, photo: Path, data_url: str, described: dict[str, Any]
) -> None:
    asked = {"phrase": "dog", "image": [data_url, data_url]}
    answer = fits(http.post("detect", json=asked).json(), described, "/v1/vision/detect")
    assert isinstance(answer, list) and len(answer) == 2 and answer[0] == answer[1]
    files = [("image", photo.read_bytes()), ("image", photo.read_bytes())]
    assert http.post("detect", data={"phrase": "dog"}, files=files).json() == answer
    broken = http.post("detect", json={"phrase": "dog", "image": [data_url, "data:image/png;base64,AAAA"]})
    assert (broken.status_code, broken.json()["error"]["param"]) == (400, "image[1]")


def test_masks_in_each_form(
    http: httpx.Client, agent: VisionAgent, photo: Path, data_url: str, described: dict[str, Any]
) -> None:
    own = agent.segment("frisbee", photo)
    asked = {"phrase": "frisbee", "image": data_url}
    answers = {form: http.post("segment", json={**asked, "masks": form}).json() for form in ("rle", "polygon", "png")}
    for answer in answers.values():
        fits(answer, described, "/v1/vision/segment")
    assert Segmentation.model_validate(answers["rle"]) == own
    assert http.post("segment", json=asked).json() == answers["rle"]
    mask = own.segments[0].mask
    drawn = answers["png"]["segments"][0]["mask"]
    image = Image.open(io.BytesIO(base64.b64decode(drawn["png"])))
    assert np.array_equal(np.array(image).astype(bool), mask.to_array()) and tuple(drawn["size"]) == mask.size
    rings = answers["polygon"]["segments"][0]["mask"]["polygons"]
    assert type(mask).from_polygons(rings, own.image_size).iou(mask) == 1.0
    boxed = http.post("segment", json={"boxes": [[406, 318, 549, 452]], "image": data_url}).json()
    assert Segmentation.model_validate(boxed) == agent.segment(image=photo, boxes=[[406, 318, 549, 452]])


def test_words(http: httpx.Client, agent: VisionAgent, photo: Path, data_url: str, described: dict[str, Any]) -> None:
    asked: dict[str, Any] = {"question": "what colour is the dog?", "image": data_url, "choices": ["red", "white"]}
    answer = fits(http.post("ask", json=asked).json(), described, "/v1/vision/ask")
    assert Answer.model_validate(answer) == agent.ask(asked["question"], photo, choices=["red", "white"])
    assert answer["value"] == "white"
    both = http.post("ask", json={**asked, "question": ["what colour is the dog?", "is there a dog?"], "choices": None})
    assert [each["text"] for each in fits(both.json(), described, "/v1/vision/ask")] == ["white", "yes"]
    form = http.post(
        "ask",
        data={"question": asked["question"], "options": '{"max_new_tokens": 9}'},
        files={"image": photo.read_bytes()},
    )
    assert form.json()["text"] == "white"
    short = fits(
        http.post("caption", json={"image": data_url, "length": "short"}).json(), described, "/v1/vision/caption"
    )
    assert Answer.model_validate(short) == agent.caption(photo, length="short")


def test_a_plan(http: httpx.Client, agent: VisionAgent, photo: Path, data_url: str, described: dict[str, Any]) -> None:
    request = "find the dog and crop it"
    answer = fits(http.post("run", json={"request": request, "image": data_url}).json(), described, "/v1/vision/run")
    own = agent.run(request, photo)
    result = AgentResult.model_validate(answer)
    assert (result.text, [step.tool for step in result.steps]) == (own.text, [step.tool for step in own.steps])
    routed = http.post("run", json={"request": "segment the frisbee", "image": data_url, "masks": "png"}).json()
    assert set(routed["routes"][0]["result"]["segments"][0]["mask"]) == {"size", "png"}


def test_images_are_made(http: httpx.Client, agent: VisionAgent, photo: Path, described: dict[str, Any]) -> None:
    made = fits(
        http.post("generate", json={"prompt": "two red apples", "seed": 3, "steps": 4}).json(),
        described,
        "/v1/vision/generate",
    )
    assert GeneratedImage.model_validate(made).png == agent.generate("two red apples", seed=3, steps=4).png
    several = http.post("generate", json={"prompt": ["a red apple", "a bus"], "seed": 1, "steps": 2}).json()
    assert [each["seed"] for each in fits(several, described, "/v1/vision/generate")["images"]] == [1, 2]
    form = {"prompt": "make the dog blue", "seed": "1", "steps": "2"}
    edited = http.post("edit", data=form, files={"image": photo.read_bytes()}).json()
    assert GeneratedImage.model_validate(fits(edited, described, "/v1/vision/edit")).size == (640, 480)


def test_documents(http: httpx.Client, agent: VisionAgent, described: dict[str, Any]) -> None:
    data = INVOICE.read_bytes()
    address = f"data:application/pdf;base64,{base64.b64encode(data).decode()}"
    read = fits(http.post("ocr", json={"document": address, "text_layer": "only"}).json(), described, "/v1/vision/ocr")
    assert OcrResult.model_validate(read) == agent.ocr(data, text_layer="only")
    assert http.post("ocr", data={"text_layer": "only"}, files={"document": data}).json() == read
    found = http.post("extract", json={"document": address, "schema": SCHEMA})
    own = agent.extract(data, SCHEMA)
    assert fits(found.json(), described, "/v1/vision/extract")["value"] == own.value.model_dump(mode="json")
    form = http.post("extract", data={"schema": json.dumps(SCHEMA)}, files={"document": data})
    assert form.json() == found.json()
    missing = {**SCHEMA, "properties": {"blood_group": {"enum": ["0", "A"]}}, "required": ["blood_group"]}
    refused = http.post("extract", json={"document": address, "schema": missing})
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "fields_missing")
    answered = http.post("ask", json={"question": "what is the total?", "image": address}).json()
    assert fits(answered, described, "/v1/vision/ask")["kind"] == "document_answer" and answered["page"] == 1


@pytest.mark.parametrize(
    ("verb", "changed", "param"),
    [
        ("detect", {"phrase": None}, "phrase"),
        ("detect", {"phrase": ""}, "phrase"),
        ("detect", {"threshold": 2}, "threshold"),
        ("detect", {"threshold": "high"}, "threshold"),
        ("detect", {"tresholds": 0.5}, "tresholds"),
        ("detect", {"image": "file:///etc/passwd"}, "image"),
        ("detect", {"image": "https://example.org/a.jpg"}, "image"),
        ("detect", {"image": []}, "image"),
        ("detect", {"image": ["data:"] * 17}, "image"),
        ("detect", {"detail": "extreme"}, "detail"),
        ("segment", {"masks": "jpeg"}, "masks"),
        ("segment", {"phrase": None, "boxes": [[1, 2]]}, "boxes"),
        ("segment", {"segmenter": "/tmp/sam.pth"}, "segmenter"),
        ("caption", {"phrase": None, "length": "endless"}, "length"),
        ("run", {"phrase": None, "request": "hello", "max_new_tokens": 10**6}, "max_new_tokens"),
        ("run", {"phrase": None, "request": "hello", "options": {"temperature": -1}}, "options"),
        ("edit", {"phrase": None, "prompt": "make it blue", "image": "", "steps": 1}, "image"),
    ],
)
def test_what_is_wrong_is_named(
    http: httpx.Client, data_url: str, verb: str, changed: dict[str, Any], param: str
) -> None:
    asked = {key: value for key, value in {"phrase": "dog", "image": data_url, **changed}.items() if value is not None}
    refused = http.post(verb, json=asked)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param), refused.text
    assert refused.json()["error"]["message"]


def test_chat_fits_its_description(url: str, described: dict[str, Any], data_url: str) -> None:
    content = [{"type": "image_url", "image_url": {"url": data_url}}, {"type": "text", "text": "segment the frisbee"}]
    asked = {"model": "default", "messages": [{"role": "user", "content": content}]}
    answer = httpx.post(f"{url}/v1/chat/completions", json=asked, timeout=60).json()
    fits(answer, described, "/v1/chat/completions")
    streamed = httpx.post(f"{url}/v1/chat/completions", json={**asked, "stream": True}, timeout=60).text
    chunk = described["components"]["schemas"]["ChatChunk"]
    for event in streamed.split("\n\n")[:-2]:
        validator = jsonschema.Draft202012Validator({**chunk, "components": described["components"]})
        validator.validate(json.loads(event.removeprefix("data: ")))
    fits(httpx.get(f"{url}/v1/models").json(), described, "/v1/models", "get")
