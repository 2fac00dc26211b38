"""Many images to one file of records: `vision-agent detect "dog" photos/ --out found.jsonl` and the verbs beside it."""

import csv
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from command_line import CommandLine
from conftest import PHOTOS
from PIL import Image

from vision_agent import Answer, Count, Detections, InputError, Points, RouteError, Segmentation, VisionAgent
from vision_agent.batch import ImageJob, Summary, find_images, image_batches, process_images
from vision_agent.batch.records import read_records

NAMES = ("000000139872.jpg", "000000274272.jpg", "000000284725.jpg")
VERBS = [
    (("detect", "dog; bus"), Detections),
    (("segment", "dog"), Segmentation),
    (("count", "bus"), Count),
    (("point", "bus"), Points),
    (("ask", "is there a dog?"), Answer),
    (("caption", "--length", "short"), Answer),
]


@pytest.fixture
def album(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four files in two batches: three photos, one of them in a folder, and one that is cut off."""
    monkeypatch.setattr(image_batches, "_BATCH", 2)
    folder = tmp_path / "photos"
    (folder / "in summer").mkdir(parents=True)
    shutil.copy(PHOTOS / NAMES[0], folder / "a.jpg")
    (folder / "b.jpg").write_bytes((PHOTOS / NAMES[1]).read_bytes()[:5000])
    shutil.copy(PHOTOS / NAMES[1], folder / "c.jpg")
    shutil.copy(PHOTOS / NAMES[2], folder / "in summer" / "d.jpg")
    return folder


@pytest.mark.parametrize(("verb", "kind"), VERBS, ids=lambda value: value[0] if isinstance(value, tuple) else "")
def test_a_run_that_was_killed_ends_with_the_bytes_of_one_that_was_not(
    verb: tuple[str, ...], kind: Any, album: Path, tmp_path: Path, cli: CommandLine
) -> None:
    arguments = [*verb[:2], album] if verb[0] != "caption" else ["caption", album, *verb[1:]]
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    done = cli(*arguments, "--out", whole)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "4 files: 3 done, 1 failed\n"
    records = list(read_records(whole))
    assert [Path(record["file"]).name for record in records] == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert [record["error"] and record["error"]["type"] for record in records] == [None, "ImageError", None, None]
    for record in records:
        if record["error"] is None:
            result = kind.model_validate(record["result"])
            assert kind is not Answer or record["text"] == result.text
    # As kill -9 leaves it in the middle of the first batch: a record, and a piece of the next.
    lines = whole.read_bytes().splitlines(keepends=True)
    cut.write_bytes(lines[0] + lines[1][:20])
    shutil.copy(tmp_path / "whole.jsonl.settings.json", tmp_path / "cut.jsonl.settings.json")
    again = cli(*arguments, "--out", cut)
    assert again.stderr == "4 files: 3 done, 1 failed; 1 of them before\n"
    assert cut.read_bytes() == whole.read_bytes()


def test_kill_9_of_the_process_itself(tmp_path: Path, cli: CommandLine) -> None:
    folder, found, whole = tmp_path / "photos", tmp_path / "found.jsonl", tmp_path / "whole.jsonl"
    folder.mkdir()
    for number, name in enumerate(islice(cycle(NAMES), 10)):
        shutil.copy(PHOTOS / name, folder / f"{number:02}.jpg")
    arguments = ["detect", "dog; bus", str(folder), "--out"]
    running = subprocess.Popen([sys.executable, "-m", "vision_agent", *arguments, str(found)], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and not (found.exists() and found.read_bytes()):
        time.sleep(0.005)
    running.kill()
    _, said = running.communicate()
    assert 1 <= found.read_bytes().count(b"\n") < 10, said
    assert said == b""
    assert cli(*arguments, found).returncode == 0
    assert cli(*arguments, whole).returncode == 0
    assert found.read_bytes() == whole.read_bytes()


def test_failed_files_are_taken_again_where_asked_and_other_settings_refused(
    album: Path, tmp_path: Path, cli: CommandLine
) -> None:
    out = tmp_path / "found.csv"
    assert cli("count", "bus", album, "--out", out).returncode == 1
    with open(out, newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [(Path(row["file"]).name, row["count"].isdigit(), row["error"][:10]) for row in rows] == [
        ("a.jpg", True, ""),
        ("b.jpg", False, "ImageError"),
        ("c.jpg", True, ""),
        ("d.jpg", True, ""),
    ]
    shutil.copy(album / "c.jpg", album / "b.jpg")
    assert cli("count", "bus", album, "--out", out).stderr.startswith("4 files: 3 done, 1 failed; 4 of them")
    assert cli("count", "bus", album, "--out", out, "--retry").returncode == 0
    assert [record["error"] for record in read_records(tmp_path / "found.csv.records.jsonl")] == [None] * 4
    before = out.read_bytes()
    for other in (("count", "dog"), ("count", "bus", "--threshold", "0.3"), ("detect", "bus")):
        refused = cli(other[0], other[1], album, *other[2:], "--out", out)
        assert refused.returncode == 2
        assert "was made with another" in refused.stderr
    assert out.read_bytes() == before


def test_tables_have_a_row_for_each_object(album: Path, tmp_path: Path) -> None:
    out = tmp_path / "found.parquet"
    summary = process_images(find_images([album]), ImageJob("segment", "dog"), out)
    assert summary == Summary(files=4, done=3, failed=1, before=0)
    table = pyarrow.parquet.read_table(out).to_pylist()
    rows = {Path(row["file"]).name: row for row in reversed(table)}
    assert list(dict.fromkeys(row["file"] for row in table)) == find_images([album])
    dog, broken, without = rows["a.jpg"], rows["b.jpg"], rows["c.jpg"]
    assert (dog["label"], dog["width"], dog["height"]) == ("dog", 640, 480)
    assert dog["area"] > 1000 and 0 <= dog["x0"] < dog["x1"] <= 640
    assert broken["error"].startswith("ImageError: ") and broken["label"] is None
    assert (without["label"], without["error"], without["width"]) == (None, None, 640)
    record: dict[str, Any] = {"file": "a", "error": None, "result": Points(points=(), image_size=(8, 9), model="m")}
    record["result"] = record["result"].model_dump(mode="json")
    assert list(ImageJob("point", "dog").rows(record)) == [{"file": "a", "error": None, "width": 8, "height": 9}]


def test_an_image_that_the_model_fails_on_costs_itself_alone(
    album: Path, tmp_path: Path, agent: VisionAgent, cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    detect = agent.detect

    def fails(phrase: str, images: list[Any], **settings: Any) -> Any:
        if any(image.size == (640, 427) for image in images):
            raise MemoryError("too large")
        return detect(phrase, images, **settings)

    monkeypatch.setattr(agent, "detect", fails)
    shutil.copy(PHOTOS / NAMES[0], album / "b.jpg")
    assert cli("detect", "dog", album, "--out", tmp_path / "found.jsonl").returncode == 1
    errors = [record["error"] for record in read_records(tmp_path / "found.jsonl")]
    assert errors == [None, None, None, {"type": "MemoryError", "message": "too large"}]


def test_what_fails_for_every_image_ends_the_run_and_leaves_nothing(
    album: Path, tmp_path: Path, agent: VisionAgent, cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def has_no_route(*_: Any, **__: Any) -> None:
        raise RouteError("the model has no [SEG] route")

    monkeypatch.setattr(agent, "segment", has_no_route)
    before = sorted(tmp_path.iterdir())
    done = cli("segment", "dog", album, "--out", tmp_path / "found.jsonl")
    assert (done.returncode, done.stderr) == (2, "vision-agent: the model has no [SEG] route\n")
    assert sorted(tmp_path.iterdir()) == before


def test_images_of_a_batch_are_given_to_the_model_together_and_large_ones_in_fewer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []

    @contextmanager
    def start(total: int) -> Iterator[Any]:
        def asked(images: Any) -> Any:
            given.append(len(images))
            return [Count(count=0, phrase="x", evidence=Detections.empty(image.size, "m")) for image in images]

        yield asked

    def answered(files: list[str], left: list[str]) -> Iterator[str]:
        for each in image_batches.ask_in_batches(files, left, lambda file: photo, start):
            yield each.file

    photo = Image.new("RGB", (100, 100))
    files = [str(number) for number in range(40)]
    assert list(answered(files, files)) == files
    assert given == [8] * 5
    given.clear()
    assert list(answered(files, files[20:])) == files[20:]
    assert given == [8] * 3  # a batch is taken again as a whole
    given.clear()
    photo = Image.new("RGB", (4000, 3000))
    assert list(answered(files[:7], files)) == files[:7]
    assert given == [3, 3, 1]


def test_jobs_check_their_settings() -> None:
    for bad, words in (
        (("find", "dog"), "verb"),
        (("detect", " "), "phrase"),
        (("count", "dog; cat"), "semicolon"),
        (("caption", "endless"), "length"),
        (("ask", ""), "question"),
        (("detect", "dog", 7), "threshold"),
    ):
        with pytest.raises(InputError, match=words):
            ImageJob(*bad)  # type: ignore[arg-type]
    settings = ImageJob("detect", "dog", adapters=("a",)).settings()
    assert json.loads(json.dumps(settings)) == settings
