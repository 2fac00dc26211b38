"""One job by any executor: the same acceptance tests for local workers, Ray's actors and servers."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image
from quick_job import COUNT, DAMAGED, HANGS, KILLS, KINDS, QuickJob, executor, files_in

from vision_agent import AnswerError, EngineError, ImageError, InputError, load_image
from vision_agent.batch import (
    ImageJob,
    Job,
    LocalWorkers,
    RayActors,
    Servers,
    Summary,
    merge,
    process,
    process_images,
)
from vision_agent.batch import run as batch_run
from vision_agent.batch.records import read_records
from vision_agent.batch.workers import answered

HERE = Path(__file__).parent
QUICK = str(HERE / "quick_job.py")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("executors")


@pytest.fixture(scope="module")
def files(place: Path) -> list[str]:
    return files_in(place / "in")


@pytest.fixture(scope="module")
def whole(place: Path, files: list[str]) -> Path:
    """The output of a run that nobody disturbed, but the files themselves."""
    out, notes = place / "whole.jsonl", place / "whole.notes"
    summary = process(files, QuickJob("detect", "dog", notes=str(notes)), out, executor=executor("local", ""))
    assert summary == Summary(files=COUNT, done=COUNT - 3, failed=3, before=0)
    tries = Counter(notes.read_text().split())
    assert (tries.pop(str(KILLS + 10)), tries.pop(str(HANGS + 10))) == (3, 3)
    assert len(tries) == COUNT - 3  # the damaged one is not looked at
    return out


class _Here:
    """An executor of one's own: this process. It needs no more than `work`."""

    def work(self, job: Job, files: Sequence[str]) -> Generator[tuple[str, bytes, bool], None, None]:
        work = job.start(1)
        for file in files[::-1]:
            _, line, well = answered(work, file)
            yield file, line, well


class _Kept:
    """Two servers on ports of their own; one that ends is started anew, as a supervisor does."""

    def __init__(self, notes: Path) -> None:
        self.ports = [_free_port(), _free_port()]
        self._notes = str(notes)
        self._over = threading.Event()
        self.servers = [self._started(port) for port in self.ports]
        self._keeper = threading.Thread(target=self._keep)
        self._keeper.start()

    def _started(self, port: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, QUICK, "serve", str(port), self._notes], env=_environment())

    def _keep(self) -> None:
        while not self._over.wait(0.05):
            for place, server in enumerate(self.servers):
                if server.poll() is not None:
                    self.servers[place] = self._started(self.ports[place])

    def stop(self) -> None:
        self._over.set()
        self._keeper.join()
        for server in self.servers:
            server.kill()
            server.wait()


@pytest.fixture(scope="module")
def servers(place: Path) -> Iterator[_Kept]:
    kept = _Kept(place / "servers.notes")
    for port in kept.ports:
        _until(lambda port=port: socket.socket().connect_ex(("127.0.0.1", port)) == 0)  # type: ignore[misc]
    yield kept
    kept.stop()


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    started = ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=2**27, logging_level="error"
    )
    yield started.address_info["gcs_address"]
    ray.shutdown()


@pytest.fixture
def where(request: pytest.FixtureRequest) -> str:
    """Where an executor's workers are, for its kind."""
    kind = request.node.callspec.params["kind"]
    if kind == "ray":
        return str(request.getfixturevalue("cluster"))
    if kind == "servers":
        return ",".join(f"http://127.0.0.1:{port}" for port in request.getfixturevalue("servers").ports)
    return ""


@pytest.mark.parametrize("kind", KINDS)
def test_kills_of_workers_and_of_the_driver_change_nothing(
    kind: str, where: str, place: Path, files: list[str], whole: Path, request: pytest.FixtureRequest
) -> None:
    out, notes = place / f"{kind}.jsonl", place / f"{kind}.notes"
    command = [sys.executable, QUICK, "drive", kind, str(place / "in"), str(out), str(notes), where]
    driver = subprocess.Popen(command, env=_environment(), stderr=subprocess.PIPE)
    _until(lambda: _lines(out) >= 3 or driver.poll() is not None)
    assert driver.poll() is None, driver.communicate()
    _until(lambda: len(_workers(kind, driver.pid, request)) > 0)
    victims = _workers(kind, driver.pid, request)
    for victim in victims[: len(victims) // 2 or 1]:
        with suppress(psutil.NoSuchProcess):
            victim.kill()
    _until(lambda: _lines(out) >= 12)
    assert driver.poll() is None, driver.communicate()
    driver.kill()
    driver.communicate()
    assert 12 <= _lines(out) < COUNT
    left = [each for each in victims[1:] if kind == "local"]
    _until(lambda: not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in left))
    job = QuickJob("detect", "dog", notes=str(notes))
    summary = process(files, job, out, executor=executor(kind, where))
    assert (summary.files, summary.done, summary.failed) == (COUNT, COUNT - 3, 3)
    assert out.read_bytes() == whole.read_bytes()
    assert (place / f"{kind}.jsonl.settings.json").read_bytes() == (place / "whole.jsonl.settings.json").read_bytes()
    errors = {Path(record["file"]).stem: record["error"] for record in read_records(out) if record["error"]}
    assert {name: error["type"] for name, error in errors.items()} == {
        f"{KILLS:02}": "WorkerDied",
        f"{HANGS:02}": "TimedOut",
        f"{DAMAGED:02}": "ImageError",
    }
    assert all(error["message"].endswith(", in 3 attempts") for error in errors.values()), errors


class _Reads:
    """A job whose files cannot be read until they were opened so often."""

    def __init__(self, error: Exception, bad: int) -> None:
        self.error, self.bad, self.reads = error, bad, 0

    def __call__(self, file: str) -> dict[str, Any]:
        self.reads += 1
        if self.reads <= self.bad:
            raise self.error
        return {"text": "read"}


@pytest.mark.parametrize(
    ("error", "bad", "reads", "said"),
    [
        (OSError("stale file handle"), 2, 3, None),  # a disk of the network was away for a moment
        (OSError("stale file handle"), 9, 3, "stale file handle, in 3 attempts"),
        (ImageError("it is cut off"), 9, 3, "it is cut off, in 3 attempts"),
        (AnswerError("no such object", ""), 9, 1, "no such object"),  # what a model says is final
        (ValueError("bad text"), 9, 1, "bad text"),
    ],
)
def test_files_that_cannot_be_read_are_tried_three_times(
    error: Exception, bad: int, reads: int, said: str | None
) -> None:
    work = _Reads(error, bad)
    kind, line, well = answered(work, "a.jpg")
    record = json.loads(line)
    assert (kind, well, work.reads) == ("done", said is None, reads)
    assert record["error"] == (said and {"type": type(error).__name__, "message": said})


def test_images_of_a_run_in_this_process_are_read_three_times_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = load_image
    opened: Counter[str] = Counter()

    def fails(file: Path, **settings: Any) -> Image.Image:
        opened[file.name] += 1
        if (file.name, opened[file.name]) in {("healed.png", 1), ("healed.png", 2)}:
            raise OSError("stale file handle")
        return read(file, **settings)

    monkeypatch.setattr(batch_run, "load_image", fails)
    Image.new("RGB", (40, 40)).save(tmp_path / "healed.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "healed.png").read_bytes()[:40])
    files = [str(tmp_path / name) for name in ("cut.png", "healed.png")]
    assert process_images(files, ImageJob("count", "dog"), tmp_path / "out.jsonl").failed == 1
    cut, healed = read_records(tmp_path / "out.jsonl")
    assert opened == {"cut.png": 3, "healed.png": 3}
    assert cut["error"]["message"].endswith(", in 3 attempts") and healed["error"] is None


def test_shards_merge_to_the_bytes_of_the_whole(place: Path, files: list[str], whole: Path) -> None:
    notes = place / "shards.notes"
    job, out = QuickJob("detect", "dog", notes=str(notes)), place / "parted.jsonl"
    good = [file for file in files if Path(file).stem not in (f"{KILLS:02}", f"{HANGS:02}")]
    with pytest.raises(InputError, match="of which there are shards"):
        merge(out)
    summaries = [process(good, job, out, executor=_Here(), shard=f"{number}/2") for number in (1, 2)]
    assert sum(summary.files for summary in summaries) == len(good)
    assert min(summary.files for summary in summaries) > 0
    assert merge(out) == Summary(files=len(good), done=len(good) - 1, failed=1, before=0)
    alone = place / "alone.csv"
    process(good, job, alone, executor=_Here())
    assert out.read_bytes() == (place / "alone.csv.records.jsonl").read_bytes()
    assert len(notes.read_text().split()) == 2 * (len(good) - 1)
    merge(out)  # again
    assert out.read_bytes() == (place / "alone.csv.records.jsonl").read_bytes()
    for number in (1, 2):
        for end in ("", ".settings.json", ".places.json"):
            part = f".shard-{number}-of-2.jsonl{end}"
            shutil.copy(place / f"parted.jsonl{part}", place / f"table.csv{part}")
    merge(place / "table.csv")
    assert (place / "table.csv").read_bytes() == alone.read_bytes()
    process(good[:5], job, out, executor=_Here())  # what was merged is an output as any other
    assert len(list(read_records(out))) == len(good)


def test_what_shards_lack_is_told(place: Path, tmp_path: Path, files: list[str]) -> None:
    job, out = QuickJob("detect", "dog", notes=str(tmp_path / "notes")), tmp_path / "out.jsonl"
    good = files[10:20]
    process(good, job, out, shard="1/2", executor=_Here())
    with pytest.raises(InputError, match="lacks shards: 2/2 were not run"):
        merge(out)
    process(good[1:], job, out, shard="2/2", executor=_Here())
    with pytest.raises(InputError, match="shards of other files"):
        merge(out)
    process(good, job, out, shard="2/2", executor=_Here())
    part = tmp_path / "out.jsonl.shard-2-of-2.jsonl"
    kept = part.read_bytes()
    part.write_bytes(kept[: kept.rindex(b"\n", 0, -1) + 1])  # as a run that was stopped leaves it
    with pytest.raises(InputError, match="lacks 1 files; run it again"):
        merge(out)
    process(good, job, out, shard="2/2", executor=_Here())
    assert part.read_bytes() == kept
    assert merge(out).files == 10
    for bad in ("0/2", "3/2", "1", "1/2/3", "a/b", "-1/2"):
        with pytest.raises(InputError, match="shard"):
            process(good, job, out, shard=bad)


def test_executors_check_what_they_are_given(tmp_path: Path, place: Path, files: list[str]) -> None:
    for wrong, words in (
        (lambda: LocalWorkers(0), "workers"),
        (lambda: LocalWorkers(1, -1), "seconds"),
        (lambda: LocalWorkers(1, float("nan")), "seconds"),
        (lambda: RayActors(count=True), "workers"),
        (lambda: RayActors(gpus=1.5), "gpus"),
        (lambda: RayActors(gpus=-1), "gpus"),
        (lambda: Servers([]), "servers"),
        (lambda: Servers(["http://a", "http://a/v1"]), "servers"),
        (lambda: Servers(["ftp://a"]), "url"),
        (
            lambda: process(files, QuickJob("detect", "x"), tmp_path / "o.jsonl", workers=2, executor=LocalWorkers()),
            "workers",
        ),
    ):
        with pytest.raises(InputError, match=words):
            wrong()
    nobody = Servers([f"http://127.0.0.1:{_free_port()}"])
    with pytest.raises(EngineError, match="cannot be reached"):
        process(files, QuickJob("detect", "dog"), tmp_path / "out.jsonl", executor=nobody)
    assert list(tmp_path.iterdir()) == []


def test_servers_of_another_model_are_refused(servers: _Kept, tmp_path: Path, files: list[str]) -> None:
    served = Servers([f"http://127.0.0.1:{port}" for port in servers.ports])
    assert served.model() is None
    job: Job = QuickJob("detect", "dog", model="OpenGVLab/InternVL3-1B")
    with pytest.raises(InputError, match=r"must serve 'OpenGVLab/InternVL3-1B'.*but they serve 'default'"):
        process(files, job, tmp_path / "out.jsonl", executor=served)
    job = QuickJob("embed")
    with pytest.raises(InputError, match="where servers do it"):
        process(files, job, tmp_path / "out.jsonl", executor=served)


def _workers(kind: str, driver: int, request: pytest.FixtureRequest) -> list[psutil.Process]:
    """The processes that work for a driver at this moment; one that was just killed is replaced soon."""
    if kind == "local":
        return [each for each in psutil.Process(driver).children() if "spawn_main" in _title(each)]
    if kind == "ray":
        return [each for each in psutil.process_iter() if _title(each).startswith("ray::_Actor")]
    found = []
    for server in request.getfixturevalue("servers").servers:
        with suppress(psutil.NoSuchProcess):  # it ended just now, by its file
            found.append(psutil.Process(server.pid))
    return found


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(HERE)}  # with the key of the cluster, which Ray writes there


def _lines(out: Path) -> int:
    return out.read_bytes().count(b"\n") if out.exists() else 0


def _title(process_: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process_.cmdline())
    return ""


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def _until(happens: object, seconds: float = 60) -> None:
    assert callable(happens)
    deadline = time.monotonic() + seconds
    while not happens() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert happens()
