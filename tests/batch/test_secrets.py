"""Passwords of documents stay out of everything a run writes or says."""

import json
import logging
import pickle
import pprint
import traceback
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from reportlab.lib.pdfencrypt import StandardEncryption
from reportlab.pdfgen import canvas

from vision_agent.batch import ExtractJob, process
from vision_agent.batch import jobs as jobs_module
from vision_agent.documents.options import OcrOptions

PASSWORD = "hunter2-kestrel"


class Receipt(BaseModel):
    total: float


def jobs() -> list[Any]:
    """One of every job, with a value for all that may be secret."""
    kinds = [kind for name, kind in vars(jobs_module).items() if name.endswith("Job") and name != "Job"]
    assert {kind.__name__ for kind in kinds} >= {"OcrJob", "ExtractJob"}
    required: dict[type, tuple[Any, ...]] = {ExtractJob: (Receipt,)}
    made = []
    for kind in kinds:
        secret = {each.name: PASSWORD for each in fields(kind) if "password" in each.name or "key" in each.name}
        assert secret
        made.append(kind(*required.get(kind, ()), **secret))
    return made


@pytest.mark.parametrize("job", jobs(), ids=lambda job: type(job).__name__)
def test_what_a_job_says_of_itself_has_no_password(job: Any, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger(__name__).warning("%s %r", job, job)
    said = [str(job), repr(job), f"{job}", pprint.pformat(job), json.dumps(job.settings()), caplog.text]
    assert not [text for text in said if PASSWORD in text]
    assert PASSWORD in str(vars(pickle.loads(pickle.dumps(job))))  # the workers need it


def test_what_settings_of_reading_say_has_no_password() -> None:
    assert PASSWORD not in repr(OcrOptions(password=PASSWORD))


def locked(file: Path, password: str) -> None:
    page = canvas.Canvas(str(file), encrypt=StandardEncryption(password, strength=128))
    page.drawString(72, 720, "Total: 12.50 EUR")
    page.save()


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
@pytest.mark.parametrize("job", jobs(), ids=lambda job: type(job).__name__)
def test_no_file_of_a_run_has_the_password(
    job: Any, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of the document that it opens, and of one that it does not."""
    monkeypatch.chdir(tmp_path)
    locked(tmp_path / "open.pdf", PASSWORD)
    locked(tmp_path / "shut.pdf", "another")
    # The work is done here instead of in a new process: what is looked at is what is written.
    work = job.start(1)
    records = []
    for name in ("open.pdf", "shut.pdf"):
        try:
            records.append({"file": name, "error": None} | work(name))
        except Exception as error:
            assert PASSWORD not in "".join(traceback.format_exception(error))
            records.append({"file": name, "error": {"type": type(error).__name__, "message": str(error)}})
    assert [record["error"] and record["error"]["type"] for record in records] == [None, "PasswordError"]
    rows = [dict(row) for record in records for row in job.rows(record)]
    assert process([], job, f"out{suffix}").files == 0
    written = [path for path in tmp_path.iterdir() if path.suffix != ".pdf"]
    assert any("settings" in path.name for path in written)
    said = [path.read_text("utf-8") for path in written] + [str(records), str(rows), *capfd.readouterr()]
    assert not [text for text in said if PASSWORD in text]
