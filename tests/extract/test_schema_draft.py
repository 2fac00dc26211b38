"""`extract` without a schema, and the draft of one: what is drafted from a document is read from it again."""

import asyncio
import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from reportlab.pdfgen.canvas import Canvas

from vision_agent import DocumentContents, OcrResult, VisionAgent, draft_schema
from vision_agent.cli.main import main
from vision_agent.errors import InputError

INVOICE = Path(__file__).parents[2] / "examples" / "invoice.pdf"


@pytest.fixture(scope="module")
def agent() -> VisionAgent:
    return VisionAgent()


@pytest.fixture(scope="module")
def invoice(agent: VisionAgent) -> OcrResult:
    return agent.ocr(str(INVOICE))


@pytest.fixture(scope="module")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("blank") / "blank.png"
    Image.new("RGB", (300, 200), "white").save(path)
    return path


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(each) for each in arguments])
    return int(ended.value.code or 0)


def test_without_a_schema_pairs_and_tables_come_with_their_boxes(agent: VisionAgent, invoice: OcrResult) -> None:
    found = agent.extract(invoice)
    assert isinstance(found.value, DocumentContents)
    assert ("Invoice no.", "HT-2031") in [(pair.key, pair.value) for pair in found.value.key_values]
    assert found.value.tables == tuple(invoice.tables) and found.value.tables
    assert all(field.found and field.box and 0.5 <= field.confidence <= 1 for field in found.fields.values())
    assert len(found.fields) == len(found.value.key_values)
    # The rows of its table are told once, as a table.
    assert len(found.value.tables) == 1
    assert {"Qty", "Unit price", "Cutting to size"}.isdisjoint(pair.key for pair in found.value.key_values)
    assert found.draw().size == (invoice.pages[0].width, invoice.pages[0].height)
    sure = agent.extract(invoice, min_confidence=0.9)
    assert 0 < len(sure.value.key_values) < len(found.value.key_values)
    assert asyncio.run(agent.aio.extract(invoice)) == found


def test_the_draft_of_an_invoice_is_filled_from_it(agent: VisionAgent, invoice: OcrResult) -> None:
    draft = draft_schema(invoice)
    fields = draft["properties"]
    assert fields["invoice_no"] == {"type": "string", "description": "Invoice no."}
    assert fields["due_date"] == {"type": "string", "format": "date", "description": "Due date"}
    assert fields["total"] == {"type": "number", "description": "Total"}
    assert "qty" not in fields and "cutting_to_size" not in fields, "what stands in a table is a field of its rows"
    rows = fields["rows"]["items"]["properties"]
    assert {name: part["type"] for name, part in rows.items()} == {
        "description": "string", "qty": "number", "unit_price": "number", "amount": "number",
    }  # fmt: skip
    value: Any = agent.extract(invoice, draft).value
    assert value.invoice_no == "HT-2031" and value.due_date == datetime.date(2025, 4, 13)
    assert float(value.total) == 265.13 and len(value.rows) == 3


def test_the_written_draft_is_taken_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "invoice.schema.json"
    assert run("schema", INVOICE, "--out", out) == 0
    assert run("extract", INVOICE, "--schema", out) == 0
    assert json.loads(capsys.readouterr().out)["invoice_no"] == "HT-2031"
    out.write_text("mine")
    assert run("schema", INVOICE, "--out", out) == 2
    assert "--force" in capsys.readouterr().err and out.read_text() == "mine"
    assert run("schema", INVOICE, "--out", out, "--force") == 0
    assert json.loads(out.read_text("utf-8"))["type"] == "object"
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_boxes_to_tick_are_booleans_with_names_of_their_own(agent: VisionAgent, tmp_path: Path) -> None:
    path = tmp_path / "form.pdf"
    page = Canvas(str(path), pagesize=(400, 300))
    for at, (label, ticked) in enumerate([("Married", True), ("Send me letters", False)]):
        page.drawString(50, 240 - 40 * at, label)
        page.acroForm.checkbox(name=f"b{at}", tooltip=label, x=20, y=238 - 40 * at, checked=ticked, size=12)
    page.save()
    fields = draft_schema(agent.ocr(str(path)))["properties"]
    assert {name: part["type"] for name, part in fields.items()} == {"married": "boolean", "send_me_letters": "boolean"}
    assert fields["send_me_letters"]["description"] == "Send me letters"


def test_an_empty_page_has_an_empty_draft(blank: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("schema", blank) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["properties"] == {}
    assert "no labels and no tables" in said.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--force"], "`force` goes with --out"),
        (["--out", "draft.txt"], "ends in .json"),
        (["--out", "nowhere/draft.json"], "a folder that exists"),
    ],
)
def test_wrong_arguments_of_the_command(
    arguments: list[str], said: str, blank: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("schema", blank, *arguments) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda agent, read: agent.extract(read, engine="model"), "`engine`"),
        (lambda agent, read: agent.extract(read, min_confidence=2), "`min_confidence`"),
        (lambda agent, read: agent.extract(read, {"type": "object"}), "`schema`"),
        (lambda agent, read: draft_schema(read.pages), "`document`"),
    ],
)
def test_wrong_arguments(
    call: Callable[[VisionAgent, OcrResult], Any], said: str, agent: VisionAgent, invoice: OcrResult
) -> None:
    with pytest.raises((InputError, TypeError), match=said):
        call(agent, invoice)
