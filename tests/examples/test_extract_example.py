"""The invoice program of the examples, on the PDF that the repository makes."""

import ast
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_pdf_is_what_its_script_makes(tmp_path: Path) -> None:
    pytest.importorskip("reportlab")
    pytest.importorskip("pypdfium2")
    from vision_agent.documents.source import page_images

    runpy.run_path(str(EXAMPLES / "make_invoice.py"))["make"](tmp_path / "made.pdf")
    (made,), (kept,) = (list(page_images(file)) for file in (tmp_path / "made.pdf", EXAMPLES / "invoice.pdf"))
    assert made.image.tobytes() == kept.image.tobytes()


def test_the_program_is_short_and_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = EXAMPLES / "invoice.py"
    assert len(program.read_text().splitlines()) <= 30
    ast.parse(program.read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["invoice.py"])
    names = runpy.run_path(str(program))
    found = names["found"].value
    assert (found.seller, found.invoice_number, str(found.date)) == ("Harbour Timber Ltd", "HT-2031", "2025-03-14")
    assert [(line.description, line.quantity, str(line.amount)) for line in found.lines] == [
        ("Birch plywood 12 mm", 4, "154.00"),
        ("Wood screws 4 x 40, box", 2, "23.80"),
        ("Cutting to size", 3, "45.00"),
    ]
    assert str(found.total) == "265.13" and '"total": "265.13"' in capsys.readouterr().out
    image = Image.open(tmp_path / "invoice.png").convert("RGB")
    box = names["found"].fields["total"].box
    left = round(box.x0)
    colours = {image.getpixel((x, y)) for y in range(round(box.y0), round(box.y1)) for x in range(left - 6, left + 1)}
    assert any(max(colour) - min(colour) > 60 for colour in colours)  # a coloured edge on a black and white page
