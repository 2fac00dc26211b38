"""The example `document_review.py`: the graph stops for what is in doubt, and only for that."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw, ImageFont

from vision_agent import VisionAgent

FILE = Path(__file__).parents[2] / "examples" / "document_review.py"


@pytest.fixture(scope="module")
def example() -> Any:
    spec = importlib.util.spec_from_file_location("document_review", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_was_not_found_goes_to_a_person_until_it_is_valid(
    example: Any, agent: VisionAgent, tmp_path: Path
) -> None:
    image = Image.new("RGB", (420, 200), "white")
    for row, text in enumerate(("Invoice no: A-17", "Date: 14 March 2025")):
        ImageDraw.Draw(image).text((30, 30 + 50 * row), text, fill="black", font=ImageFont.load_default(24))
    image.save(tmp_path / "scan.png")
    requests = []

    def person(request: dict[str, Any]) -> dict[str, Any]:
        requests.append(request)
        return {"total": "nine" if len(requests) == 1 else "9.50"}

    state = example.checked(example.workflow(agent, sure=0.0), tmp_path / "scan.png", person)
    assert "total" in [each["field"] for each in requests[0]["check"]]
    assert "date" not in [each["field"] for each in requests[0]["check"]]
    assert requests[0]["problem"] is None
    assert requests[1]["problem"].startswith("total: ")
    assert len(requests) == 2
    assert (state["values"]["date"], state["values"]["total"]) == ("2025-03-14", "9.50")
    assert "total" in state["checked"]


def test_what_is_sure_needs_no_person(example: Any, agent: VisionAgent) -> None:
    def person(request: dict[str, Any]) -> dict[str, Any]:
        raise AssertionError(f"nobody should be asked: {request}")

    state = example.checked(example.workflow(agent, sure=0.0), example.INVOICE, person)
    assert state["values"]["invoice_number"] == "HT-2031"
    assert state["values"]["total"] == "265.13"
    assert "checked" not in state


def test_a_low_confidence_is_a_doubt_with_its_place(example: Any, agent: VisionAgent) -> None:
    requests = []

    def person(request: dict[str, Any]) -> dict[str, Any]:
        requests.append(request)
        return {}

    example.checked(example.workflow(agent, sure=1.01), example.INVOICE, person)
    (request,) = requests
    total = next(each for each in request["check"] if each["field"] == "total")
    assert "265.13" in total["read"]
    assert total["page"] == 1
    assert len(total["box"]) == 4
