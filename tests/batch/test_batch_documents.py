"""`vision-agent ocr` and `vision-agent extract` over many files, as a user runs them, and the schemas they take."""

import csv
import datetime
import json
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from command_line import CommandLine
from PIL import Image, ImageDraw, ImageFont
from pydantic import BaseModel

from vision_agent import InputError, OcrResult
from vision_agent.batch import ExtractJob, OcrJob
from vision_agent.batch.records import read_records
from vision_agent.extract.schema_loading import load_schema

COMMAND = [sys.executable, "-c", "from vision_agent.cli.main import main; main()"]


class Receipt(BaseModel):
    """What the tests extract."""

    date: datetime.date | None = None
    total: Decimal | None = None


def scan(file: Path, *lines: str) -> None:
    image = Image.new("RGB", (260, 200), "white")  # the reader enlarges the shorter side, so a strip would cost more
    for row, text in enumerate(lines):
        ImageDraw.Draw(image).text((14, 12 + 36 * row), text, fill="black", font=ImageFont.load_default(20))
    image.save(file)


def run(*arguments: object, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=cwd)


def test_ocr_killed_in_the_middle_ends_as_if_it_were_not(tmp_path: Path, cli: CommandLine) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    for number in range(10):
        scan(folder / f"{number:02}.png", f"Page {number:02}")
    (folder / "07.pdf").write_bytes(b"%PDF-1.7 broken")
    out = tmp_path / "out.jsonl"
    command = [*COMMAND, "ocr", str(folder), "--out", str(out), "--workers", "2"]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and not (out.exists() and out.read_bytes().count(b"\n") >= 2):
        time.sleep(0.02)
    running.kill()
    _, said = running.communicate()
    before = out.read_bytes().splitlines()
    assert 2 <= len(before) < 11, said
    again = cli("ocr", folder, "--out", out)
    assert again.returncode == 1  # one file failed
    assert again.stderr.splitlines()[-1].startswith("11 files: 10 done, 1 failed; ")
    assert set(before) <= set(out.read_bytes().splitlines())  # not redone, not changed
    records = list(read_records(out))
    assert [Path(record["file"]).name for record in records] == sorted(path.name for path in folder.iterdir())
    assert [record["error"] and record["error"]["type"] for record in records].count("DocumentError") == 1
    for record in records:
        if record["error"] is None:
            read = OcrResult.model_validate(record["result"])
            assert read.text == record["text"] == f"Page {Path(record['file']).stem}"
            assert read.words[0].box.x0 == pytest.approx(14, abs=8)
    whole = cli("ocr", folder, "--out", tmp_path / "whole.jsonl")
    assert whole.returncode == 1
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_extract_without_a_schema_gives_a_row_for_each_pair(tmp_path: Path, cli: CommandLine) -> None:
    Image.new("RGB", (300, 200), "white").save(tmp_path / "blank.png")
    invoice = Path(__file__).parents[2] / "examples" / "invoice.pdf"
    cli("extract", invoice, tmp_path / "blank.png", "--out", tmp_path / "pairs.csv")
    with (tmp_path / "pairs.csv").open(encoding="utf-8", newline="") as table:
        rows = list(csv.DictReader(table))
    assert ("Invoice no.", "HT-2031", "1") in [(row["key"], row["value"], row["page"]) for row in rows]
    assert [row["key"] for row in rows if row["file"].endswith("blank.png")] == [""]
    printed = json.loads(cli("extract", invoice).stdout)
    assert [pair["key"] for pair in printed["key_values"]] == [row["key"] for row in rows if row["key"]]
    refused = cli("extract", invoice, "--engine", "model")
    assert refused.returncode != 0 and "engine" in refused.stderr


def test_extract_to_a_table_by_a_class_and_refuses_another_schema(tmp_path: Path) -> None:
    scan(tmp_path / "a.png", "Date: 14 March 2025", "Total: 12.50")
    scan(tmp_path / "b.png", "Hello")
    (tmp_path / "mine.py").write_text(
        "from decimal import Decimal\nimport datetime\nfrom pydantic import BaseModel\n"
        "class Receipt(BaseModel):\n    date: datetime.date | None = None\n    total: Decimal | None = None\n"
        "class Other(BaseModel):\n    total: Decimal | None = None\n"
    )
    arguments = ("a.png", "b.png", "--out", "out.csv")
    done = run("extract", *arguments, "--schema", "mine:Receipt", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    with open(tmp_path / "out.csv", newline="", encoding="utf-8") as stream:
        first, second = csv.DictReader(stream)
    assert (first["file"], first["error"], first["date"], first["total"]) == ("a.png", "", "2025-03-14", "12.50")
    assert float(first["total (confidence)"]) > 0
    assert first["total (page)"] == "1"
    x0, y0, _, y1 = json.loads(first["total (box)"])
    assert 14 < x0 < 130
    assert 40 < y0 < y1 < 90
    assert (second["date"], second["total"], second["total (box)"]) == ("", "", "")
    other = run("extract", *arguments, "--schema", "mine:Other", cwd=tmp_path)
    assert other.returncode == 2
    assert "was made with another schema" in other.stderr
    assert len(other.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ocr", "missing.png", "--out", "out.jsonl"], "missing.png"),
        (["ocr", ".", "--out", "out.txt"], ".parquet"),
        (["extract", ".", "--schema", "nowhere:Model", "--out", "out.jsonl"], "nowhere"),
        (["ocr", ".", "--retry"], "--out"),
        (["ocr", "-", "--out", "out.jsonl"], "--out"),
        (["ocr", "-"], "stdin"),
    ],
)
def test_bad_input_is_one_line_before_any_work(
    tmp_path: Path, arguments: list[str], words: str, cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan(tmp_path / "a.png", "x")
    monkeypatch.chdir(tmp_path)
    done = cli(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_without_out_results_are_printed_also_of_stdin(tmp_path: Path, cli: CommandLine) -> None:
    scan(tmp_path / "a.png", "Total: 12.50")
    (tmp_path / "b.pdf").write_bytes(b"%PDF-1.7 broken")
    schema = {"title": "Bill", "properties": {"total": {"type": "number"}}}
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    read = (tmp_path / "a.png").read_bytes()
    assert cli("ocr", "-", stdin=read).stdout == "Total: 12.50\n"
    printed = cli("extract", "-", "--schema", tmp_path / "schema.json", stdin=read)
    assert float(json.loads(printed.stdout)["total"]) == 12.5
    sure = cli("extract", "-", "--schema", tmp_path / "schema.json", "--min-confidence", "1", stdin=read)
    assert (json.loads(sure.stdout)["total"], sure.stderr) == (None, "")
    refused = cli("extract", "-", "--schema", tmp_path / "schema.json", "--min-confidence", "nan", stdin=read)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "vision-agent: `min_confidence` must be a number from 0 to 1, but got nan\n"
    both = cli("ocr", tmp_path)
    assert (both.returncode, both.stdout) == (1, f"==> {tmp_path / 'a.png'} <==\nTotal: 12.50\n\n")
    assert both.stderr.startswith("vision-agent: ") and len(both.stderr.splitlines()) == 1
    alone = cli("ocr", tmp_path / "b.pdf", "--json")
    assert (alone.returncode, alone.stdout) == (2, "")
    record = json.loads(cli("ocr", tmp_path / "a.png", "--json").stdout)
    assert OcrResult.model_validate(record["result"]).text == record["text"] == "Total: 12.50"


def test_jobs_check_their_settings() -> None:
    for bad in ({"pages": "x"}, {"text_layer": "always"}, {"model": "some/model"}):
        with pytest.raises(InputError, match=next(iter(bad)) if "model" not in bad else "engine"):
            OcrJob(**bad)  # type: ignore[arg-type]
    wrong = ({"pages": "0"}, {"engine": "magic"}, {"date_order": "ymd"}, {"decimal_mark": ";"}, {"min_confidence": 1.5})
    for bad in wrong:
        with pytest.raises(InputError, match=next(iter(bad))):
            ExtractJob(Receipt, **bad)  # type: ignore[arg-type]
    assert "secret" not in json.dumps(ExtractJob(Receipt, password="secret").settings())
    assert OcrJob(pages="7-").settings()["pages"] == "7-"


def test_a_missing_required_value_keeps_what_was_found(tmp_path: Path) -> None:
    schema = {"properties": {"total": {"type": "number"}, "iban": {"type": "string"}}, "required": ["iban"]}
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    scan(tmp_path / "a.png", "Total: 12.50")
    job = ExtractJob(str(tmp_path / "schema.json"))
    record: dict[str, Any] = {"file": "a.png", "error": None} | job.start(1)(str(tmp_path / "a.png"))
    assert (record["error"]["type"], record["error"]["missing"]) == ("ExtractionError", ["iban"])
    assert record["value"]["total"] == "12.50"
    (row,) = job.rows(record)
    assert row["error"].startswith("ExtractionError: the document does not state")
    assert row["total (page)"] == 1


def test_a_json_schema_becomes_a_model(tmp_path: Path) -> None:
    class Line(BaseModel):
        text: str
        amount: float | None = None

    class Bill(BaseModel):
        number: str
        when: datetime.date | None = None
        lines: list[Line] = []
        kind: str = "bill"

    schema = Bill.model_json_schema()
    schema["properties"] |= {
        "currency": {"enum": ["EUR", "USD"]},
        "Grand Total": {"type": ["number", "null"], "description": "what is to be paid"},
        "copy": {"type": "boolean"},
    }
    (tmp_path / "bill.json").write_text(json.dumps(schema))
    model = load_schema(str(tmp_path / "bill.json"))
    data = {"number": "7", "lines": [{"text": "a"}], "when": "2024-02-29", "Grand Total": "1.10", "copy": True}
    value = model.model_validate(data).model_dump(by_alias=True)
    assert value == {
        "number": "7",
        "when": datetime.date(2024, 2, 29),
        "lines": [{"text": "a", "amount": None}],
        "kind": "bill",
        "currency": None,
        "Grand Total": Decimal("1.10"),
        "copy": True,
    }
    with pytest.raises(ValueError, match="number"):
        model.model_validate({})


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ("{", "schema.json"),
        ("[]", "object"),
        ('{"type": "object"}', "properties"),
        ('{"properties": {"a": {"$ref": "other.json#/a"}}}', "references into itself"),
        ('{"properties": {"a": {"$ref": "#"}}}', "without end"),
        ('{"properties": {"a": {"type": "decimal"}}}', "at Document.a"),
    ],
)
def test_json_schemas_that_cannot_be_read(tmp_path: Path, schema: str, words: str) -> None:
    (tmp_path / "schema.json").write_text(schema)
    with pytest.raises(InputError, match=words):
        load_schema(str(tmp_path / "schema.json"))


def test_names_that_are_no_model() -> None:
    for name in ("pathlib", "pathlib:Path", "pathlib:Nothing", ":Model"):
        with pytest.raises(InputError, match="schema"):
            load_schema(name)
