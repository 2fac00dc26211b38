"""Runs over many files: whole after a kill, ordered, honest about failures. The work here is trivial; see
test_batch_documents.py for reading."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet
import pytest

from vision_agent import InputError, MissingExtraError, VisionAgentError
from vision_agent.batch import Summary, find_files, process
from vision_agent.batch.records import read_records


@dataclass(frozen=True)
class Measure:
    """Tells a text file's length, and notes each file it works on."""

    notes: str = ""
    pause: float = 0.0
    unit: str = "letters"

    def settings(self) -> dict[str, Any]:
        return {"job": "measure", "unit": self.unit}

    def start(self, threads: int) -> Any:
        if self.unit == "miles":
            raise MissingExtraError("no miles here")
        if self.unit == "light years":
            os._exit(3)

        def work(file: str) -> dict[str, Any]:
            text = Path(file).read_text("utf-8")
            if self.notes:
                with open(self.notes, "a") as stream:
                    stream.write(f"{file}\n")
            if text.startswith("die"):
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(self.pause)
            if text.startswith("bad"):
                raise ValueError(f"bad text in {Path(file).name}")
            return {"value": {"length": len(text), "text": text, "words": text.split()}}

        return work

    def rows(self, record: dict[str, Any]) -> Iterable[Mapping[str, Any]]:
        error = record["error"]
        return [{"file": record["file"], "error": error and error["message"], **record.get("value", {})}]


def texts(folder: Path, count: int, special: Mapping[int, str] | None = None) -> list[str]:
    folder.mkdir(exist_ok=True)
    files = []
    for number in range(count):
        file = folder / f"{number:03}.txt"
        file.write_text((special or {}).get(number, "x" * number), "utf-8")
        files.append(str(file))
    return files


def test_a_record_for_each_file_in_their_order(tmp_path: Path) -> None:
    files = texts(tmp_path / "in", 12, {3: "bad", 7: "Grüße\u2028\n"})[::-1]
    summary = process(files, Measure(), tmp_path / "out.jsonl", workers=3)
    assert summary == Summary(files=12, done=11, failed=1, before=0)
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().split(b"\n")[:-1]]
    assert [record["file"] for record in records] == files
    assert records[-8] == {
        "file": files[-8],
        "error": None,
        "value": {"length": 7, "text": "Grüße\u2028\n", "words": ["Grüße"]},
    }
    assert records[-4] == {"file": files[-4], "error": {"type": "ValueError", "message": "bad text in 003.txt"}}
    process(files, Measure(), tmp_path / "one.jsonl")
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()


def test_a_file_that_kills_its_worker_costs_that_file_alone(tmp_path: Path) -> None:
    files = texts(tmp_path / "in", 8, {0: "die", 5: "die"})
    summary = process(files, Measure(), tmp_path / "out.jsonl", workers=2)
    assert (summary.done, summary.failed) == (6, 2)
    records = list(read_records(tmp_path / "out.jsonl"))
    assert [record["file"] for record in records if record["error"]] == [files[0], files[5]]
    assert records[5]["error"] == {
        "type": "WorkerDied",
        "message": "the process that worked on it ended, in 3 attempts",
    }


def test_done_files_are_not_done_again_and_failed_ones_where_asked(tmp_path: Path) -> None:
    files = texts(tmp_path / "in", 4, {1: "bad"})
    out, notes = tmp_path / "out.jsonl", tmp_path / "notes"
    job = Measure(notes=str(notes))
    process([files[3], files[1]], job, out)
    summary = process(files, job, out)
    assert summary == Summary(files=4, done=3, failed=1, before=2)
    assert notes.read_text().split() == [files[3], files[1], files[0], files[2]]
    assert [record["file"] for record in read_records(out)] == files  # sorted, though written otherwise
    Path(files[1]).write_text("good now")
    assert process(files, job, out, retry=True) == Summary(files=4, done=4, failed=0, before=3)
    records = list(read_records(out))
    assert [record["file"] for record in records] == files
    assert records[1]["value"]["text"] == "good now"
    assert len(notes.read_text().split()) == 5


KILLED = """
import sys
from test_batch import Measure
from vision_agent.batch import find_files, process
from pathlib import Path

if __name__ == "__main__":
    files = sorted(str(path) for path in Path(sys.argv[1]).iterdir())
    process(files, Measure(notes=sys.argv[3], pause=0.02), sys.argv[2], workers=2)
"""


def test_after_kill_9_the_output_is_that_of_an_uninterrupted_run(tmp_path: Path) -> None:
    files = texts(tmp_path / "in", 200, {9: "bad", 133: "bad", 20: "long " * 20_000})
    program = tmp_path / "program.py"
    program.write_text(KILLED)
    out, notes = tmp_path / "out.csv", tmp_path / "notes"
    written = tmp_path / "out.csv.records.jsonl"
    command = [sys.executable, str(program), str(tmp_path / "in"), str(out), str(notes)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    running = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (written.exists() and written.read_bytes().count(b"\n") >= 60):
        time.sleep(0.01)
    running.kill()
    running.communicate()
    done = written.read_bytes().count(b"\n")
    assert 60 <= done < 200
    time.sleep(0.3)  # workers end by themselves
    with open(written, "ab") as stream:
        stream.write(b'{"file":"half a li')
    began = len(notes.read_text().split())
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert again.returncode == 0, again.stderr
    assert len(notes.read_text().split()) - began == 200 - done  # nothing twice that was written
    process(files, Measure(), tmp_path / "whole.csv")
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert written.read_bytes() == (tmp_path / "whole.csv.records.jsonl").read_bytes()
    names = {path.name for path in tmp_path.iterdir() if "out" in path.name}
    assert names == {"out.csv", "out.csv.records.jsonl", "out.csv.settings.json"}


def test_ctrl_c_stops_workers_and_keeps_what_is_done(tmp_path: Path) -> None:
    texts(tmp_path / "in", 400)
    program = tmp_path / "program.py"
    program.write_text(KILLED)
    out = tmp_path / "out.jsonl"
    command = [sys.executable, str(program), str(tmp_path / "in"), str(out), str(tmp_path / "notes")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    # A session of its own: the signal goes to the whole group, as from a terminal. What a shell runs in the background
    # ignores interrupts, and its children inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    running = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (out.exists() and out.read_bytes().count(b"\n") >= 3):
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGINT)
    _, said = running.communicate(timeout=30)
    assert running.returncode != 0
    assert said.count("Traceback") == 1  # the program's own; workers are silent
    assert 3 <= len(list(read_records(out))) < 400
    deadline = time.monotonic() + 10
    while (alive := _alive(running.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive


def _alive(group: int) -> list[psutil.Process]:
    """Processes of a group; those that only wait for someone to ask how they ended do not count."""
    found = []
    for process_ in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getpgid(process_.pid) == group and process_.status() != psutil.STATUS_ZOMBIE:
                found.append(process_)
    return found


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_records_of_other_settings_do_not_mix(tmp_path: Path, suffix: str) -> None:
    files = texts(tmp_path / "in", 2)
    out = tmp_path / f"out{suffix}"
    process(files[:1], Measure(), out)
    before = out.read_bytes()
    with pytest.raises(InputError, match="made with another unit; name another file, or delete out"):
        process(files, Measure(unit="words"), out)
    assert out.read_bytes() == before


def test_what_something_else_wrote_is_left_alone(tmp_path: Path) -> None:
    files = texts(tmp_path / "in", 2)
    out = tmp_path / "mine.csv"
    out.write_text("mine")
    with pytest.raises(InputError, match=r"must be new or an output of this command.*mine\.csv"):
        process(files, Measure(), out)
    assert out.read_text() == "mine"


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    from vision_agent.batch.records import Records

    files = texts(tmp_path / "in", 1)
    out = tmp_path / "out.jsonl"
    with Records(out, out, Measure().settings()), pytest.raises(InputError, match="no other run is writing"):
        process(files, Measure(), out)


def test_csv_and_parquet_hold_flat_rows(tmp_path: Path) -> None:
    files = texts(tmp_path / "in", 4, {0: "bad", 1: "two words", 2: "=cmd()", 3: "-12.5"})
    process(files, Measure(), tmp_path / "out.csv")
    with open(tmp_path / "out.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert rows[0] == {"file": files[0], "error": "bad text in 000.txt", "length": "", "text": "", "words": ""}
    assert (rows[1]["length"], json.loads(rows[1]["words"])) == ("9", ["two", "words"])
    assert [row["text"] for row in rows[2:]] == ["'=cmd()", "-12.5"]  # no formula for a spreadsheet to run
    process(files, Measure(), tmp_path / "out.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert {name: str(kind) for name, kind in zip(table.schema.names, table.schema.types, strict=True)} == {
        "file": "string",
        "error": "string",
        "length": "int64",
        "text": "string",
        "words": "string",
    }
    assert table.column("length").to_pylist() == [None, 9, 6, 5]
    assert table.column("text").to_pylist()[2] == "=cmd()"


@pytest.mark.parametrize(
    ("unit", "error", "words"),
    [
        ("miles", MissingExtraError, "no miles here"),
        ("light years", VisionAgentError, "exit code 3 before it began"),
    ],
)
def test_workers_that_cannot_begin_end_the_run(tmp_path: Path, unit: str, error: type[Exception], words: str) -> None:
    files = texts(tmp_path / "in", 3)
    with pytest.raises(error, match=words):
        process(files, Measure(unit=unit), tmp_path / "out.jsonl", workers=2)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]  # the next try is not bound to these settings


def test_bad_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for out, words in ((tmp_path / "out.xls", "ends in one of"), (tmp_path / "no" / "out.csv", "folder that exists")):
        with pytest.raises(InputError, match=words):
            process(["a"], Measure(), out)
    for workers in (0, True, 1.5, 1000):
        with pytest.raises(InputError, match="workers"):
            process(["a"], Measure(), tmp_path / "out.csv", workers=workers)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"internvl-vision-agent\[parquet\]"):
        process(["a"], Measure(), tmp_path / "out.parquet")


def test_files_of_folders_come_sorted_and_once(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/10.PDF", "b/a/1.tif", "b/.hidden/1.png", "b/.h.png", "b/notes.txt", "c.odd"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    found = find_files([tmp_path / "c.odd", tmp_path / "b", tmp_path / "b" / "2.png"])
    names = [os.path.relpath(file, tmp_path) for file in found]
    assert names == ["c.odd", "b/10.PDF", "b/2.png", "b/a/1.tif"]
    for paths, words in (
        ([tmp_path / "none"], "exist"),
        ([tmp_path / "b" / ".hidden" / ".."], None),
        ([], "documents"),
    ):
        if words is None:
            assert len(find_files(paths)) == 3
            continue
        with pytest.raises(InputError, match=words):
            find_files(paths)
