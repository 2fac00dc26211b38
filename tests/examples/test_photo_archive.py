"""The example `photo_archive.py`: its report, its sheets, and what a second run reads."""

import csv
import importlib.util
import shutil
from pathlib import Path

import pytest

from vision_agent import VisionAgent

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_an_archive_is_reported_and_read_once(
    agent: VisionAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("photo_archive", EXAMPLES / "photo_archive.py")
    assert spec is not None and spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for name in ("000000423617.jpg", "000000139872.jpg"):
        shutil.copy(EXAMPLES / "photos" / name, photos)
    shutil.copy(photos / "000000423617.jpg", photos / "copy.jpg")
    (photos / "broken.jpg").write_bytes(b"")
    counts = example.report(agent, photos, out, ["bus", "dog"])
    assert counts == {"bus": 2, "dog": 1, "copies that could go": 1}
    assert "broken.jpg" in capsys.readouterr().err
    with open(out / "report.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {Path(row["file"]).name for row in rows if row["phrase"] == "bus"} == {"000000423617.jpg", "copy.jpg"}
    assert all(int(row["objects"]) >= 1 and 0 < float(row["score"]) <= 1 for row in rows)
    assert sorted(each.name for each in out.iterdir()) == [
        "bus.jpg",
        "copies.jpg",
        "dog.jpg",
        "photos.index",
        "report.csv",
    ]
    monkeypatch.setattr(agent, "detect", lambda *_, **__: pytest.fail("a photo was looked at again"))
    assert example.report(agent, photos, out, ["bus", "dog"]) == counts
