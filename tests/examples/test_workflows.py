"""The programs of docs/workflows.md, each run as its user would: short, and with the output that they promise."""

import importlib.util
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw, ImageFont
from reportlab.pdfgen.canvas import Canvas

from vision_agent import VisionAgent, load_image

EXAMPLES = Path(__file__).parents[2] / "examples"
PHOTOS = EXAMPLES / "photos"
NAMES = ("catalogue", "document_inbox", "photo_archive", "inspection", "read_aloud", "medical_image", "webcam")


def program(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", NAMES)
def test_a_program_is_short(name: str) -> None:
    assert len((EXAMPLES / f"{name}.py").read_text("utf-8").splitlines()) <= 60


def test_a_catalogue_has_products_cut_outs_and_no_copies(agent: VisionAgent, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for name in ("000000423617.jpg", "000000139872.jpg"):
        with Image.open(PHOTOS / name) as photo:
            photo.resize((320, 240)).save(photos / name)
    shutil.copy(photos / "000000423617.jpg", photos / "copy.jpg")
    (photos / "broken.jpg").write_bytes(b"")
    example = program("catalogue")
    (car,) = example.catalogue(agent, photos, out, ["car", "pizza"], 0.5)
    assert (car.file, car.category) == ("000000423617.jpg", "car") and car.confidence >= 0.5
    assert json.loads((out / "catalogue.json").read_text("utf-8")) == [car.model_dump()]
    alone = Image.open(out / car.cutout)
    assert alone.mode == "RGBA" and alone.getchannel("A").getextrema() == (0, 255)
    told = json.loads((out / "check.json").read_text("utf-8"))
    assert [Path(each).name for each in told["copies"]] == ["copy.jpg"]
    assert [Path(each).name for each in told["look"]] == ["000000139872.jpg"]
    assert [Path(each).name for each in told["broken"]] == ["broken.jpg"]


def test_an_inbox_asks_a_person_and_takes_the_corrections(agent: VisionAgent, tmp_path: Path) -> None:
    inbox, out = tmp_path / "in", tmp_path / "out"
    inbox.mkdir()
    shutil.copy(EXAMPLES / "invoice.pdf", inbox)
    scan = Image.new("RGB", (420, 200), "white")
    for row, text in enumerate(("CASH RECEIPT", "Date: 14 March 2025", "Total 9.50")):
        ImageDraw.Draw(scan).text((30, 20 + 50 * row), text, fill="black", font=ImageFont.load_default(24))
    scan.save(inbox / "scan.png")
    example = program("document_inbox")
    invoice, receipt = example.inbox(agent, inbox, out, {})
    assert (invoice["sort"], receipt["sort"]) == ("invoice", "receipt")
    assert (invoice["invoice_number"], receipt["total"]) == ("HT-2031", "9.50")
    asked = re.findall(r"<input name='([^']*)' value='([^']*)'>", (out / "review.html").read_text("utf-8"))
    assert ("scan.png/invoice_number", "") in asked
    assert not [key for key, _ in asked if key.startswith("invoice.pdf/invoice_number")]
    example.inbox(agent, inbox, out, {key: value or "<R-1>" for key, value in asked})
    assert json.loads((out / "export.json").read_text("utf-8"))[1]["invoice_number"] == "<R-1>"
    assert "<input" not in (out / "review.html").read_text("utf-8")
    example.SURE = 1.01  # everything goes to a person, beside the piece of the page that it was read from
    example.inbox(agent, inbox, out, {})
    assert (out / "review.html").read_text("utf-8").count("data:image/") >= 4


def test_an_inspection_finds_what_is_missing_and_what_has_no_name(agent: VisionAgent, tmp_path: Path) -> None:
    example = program("inspection")
    golden = load_image(PHOTOS / "000000423617.jpg").resize((320, 240))
    (car, *_) = agent.detect("car", golden)
    photo = Image.new("RGB", golden.size, "gray")
    photo.paste(golden, (6, -3))
    pen = ImageDraw.Draw(photo)
    x0, y0, x1, y1 = car.box.xyxy
    pen.rectangle((x0 + 6, y0 - 3, x1 + 6, y1 - 3), fill=(50, 60, 55))
    pen.ellipse((150, 20, 185, 55), fill="yellow")
    shifted = example.aligned(golden, photo)
    wrong = example.parts(agent, golden, shifted, ["car"])
    assert ("missing car", car.box) in wrong
    differ = example.cells(golden, shifted)
    assert any(box.x0 < 165 < box.x1 and box.y0 < 40 < box.y1 for box in differ)
    assert example.parts(agent, golden, example.aligned(golden, golden), ["car"]) == []
    assert example.cells(golden, example.aligned(golden, golden)) == []


def test_a_page_is_read_aloud_with_its_formula_and_figure(agent: VisionAgent, tmp_path: Path) -> None:
    canvas = Canvas(str(tmp_path / "lesson.pdf"), pagesize=(420, 400))
    canvas.setFont("Helvetica-Bold", 20)
    canvas.drawString(40, 350, "Energy and mass")
    canvas.setFont("Helvetica", 11)
    canvas.drawString(40, 325, "A body at rest has an energy of its own, which follows from its mass.")
    canvas.setFont("Helvetica-Oblique", 13)
    canvas.drawString(150, 290, "E = m c\u00b2 + 3.5 \u00d7 10")
    canvas.drawImage(str(PHOTOS / "000000139872.jpg"), 60, 90, 240, 180)
    canvas.setFont("Helvetica", 10)
    canvas.drawString(60, 75, "Figure 1: A dog that has energy.")
    canvas.save()
    example = program("read_aloud")
    (page,) = agent.ocr(tmp_path / "lesson.pdf").pages
    lines = list(example.script(agent, page, tmp_path / "lesson.pdf"))
    assert lines[0] == "Heading: Energy and mass"
    assert "Formula: capital E equals m c squared plus 3.5 times 10." in lines
    assert any(line.startswith("Figure: ") and "dog" in line for line in lines)
    assert lines[-1] == "Figure 1: A dog that has energy."
    table = list(example.script(agent, agent.ocr(EXAMPLES / "invoice.pdf").pages[0], EXAMPLES / "invoice.pdf"))
    assert "Description: Cutting to size, Qty: 3, Unit price: 15.00, Amount: 45.00" in table


def test_formulas_in_words() -> None:
    spoken = program("read_aloud").spoken
    assert spoken("sin(2\u03b1) \u2264 \u221a3") == "sin open bracket 2 alpha close bracket is at most the root of 3"
    assert spoken("\u2211 x^10 \u2248 5%") == "summation x to the power of 10 almost equal to 5 percent"


def test_a_medical_image_needs_a_model_for_it_and_has_its_caution(
    agent: VisionAgent, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = program("medical_image")
    with pytest.raises(ValueError, match="million parameters: not for medical images"):
        example.report(agent, str(photo))
    monkeypatch.setattr(example, "LEAST", 0)  # the default, to see the form of a report
    report = example.report(agent, str(photo))
    assert "does not replace professional medical diagnosis" in report.caution
    assert report.seen.keys() == report.confidence.keys() == example.QUESTIONS.keys()
    assert all(report.seen.values()), "what the default does not answer, it says"
    assert not [name for name in type(report).model_fields if "diagnos" in name]
