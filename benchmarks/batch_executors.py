"""One job by every executor, with files and kills that bring workers down: are the outputs equal, and how fast is each?

    python benchmarks/batch_executors.py [--files 300] [--workers 2] [--quick] [--only local ray servers]

`detect` with the default model over small copies of the example photos. Three files are poison: the model's process is
killed at one, hangs at another, and the third is damaged. Each executor does the job undisturbed, then once more while
half of its workers, and later the driver itself, are killed with `kill -9`; the run is resumed, and both outputs must
be those of the first executor, to the byte; records that differ are shown. Then all good files are done once more by
local workers and by Ray, timed from the first record to the last. With `--quick` the model looks at nothing and answers
at once: what is left is the executors' own work. Prints a Markdown table, and ends with 1 where an output is another.
"""

import argparse
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from PIL import Image

from vision_agent import Detections, load_image
from vision_agent.batch import Executor, ImageJob, LocalWorkers, RayActors, Servers, find_images, process
from vision_agent.batch.image_jobs import content_of

PHOTOS = Path(__file__).parents[1] / "examples" / "photos"
KILLS, HANGS = (61, 61), (67, 67)  # sizes of the images that bring a process down
SECONDS = float(os.environ.get("BATCH_SECONDS", "20"))


@dataclass(frozen=True)
class PoisonedJob(ImageJob):
    """`detect`, with a model that two sizes of images bring down."""

    quick: bool = False

    def start(self, threads: int) -> Callable[[str], dict[str, Any]]:
        if self.quick:
            return lambda file: content_of(quick(load_image(Path(file))))
        poison(quickly=False)
        return super().start(threads)


def poison(*, quickly: bool) -> None:
    """Let this process's model be brought down by some images; `quickly`: it looks at none."""
    from vision_agent import VisionAgent

    detect: Any = VisionAgent.detect

    @functools.wraps(detect)  # the server reads the signature
    def brought_down(agent: Any, phrase: Any, image: Any, **settings: Any) -> Any:
        if isinstance(image, list):
            return [brought_down(agent, phrase, each, **settings) for each in image]
        bring_down(image)
        return quick(image) if quickly else detect(agent, phrase, image, **settings)

    VisionAgent.detect = brought_down  # type: ignore[method-assign]


def bring_down(image: Image.Image) -> None:
    """End this process at one image, and hang at another."""
    if image.size == KILLS:
        os.kill(os.getpid(), signal.SIGKILL)
    if image.size == HANGS:
        time.sleep(10_000)


def quick(image: Image.Image) -> Detections:
    """What a model says that looks at nothing."""
    bring_down(image)
    time.sleep(0.02)
    return Detections.empty(image.size, "default")


def make_files(folder: Path, count: int) -> None:
    """Write copies of the photos, no two alike, and the three poison ones among the first."""
    folder.mkdir()
    photos = sorted(PHOTOS.glob("*.jpg"))
    for number in range(count):
        image = Image.open(photos[number % len(photos)]).convert("RGB")
        image.resize((160 + number % 40, 120 + number // 40)).save(folder / f"{number:04}.jpg", quality=90)
    Image.new("RGB", KILLS).save(folder / "0005.jpg")
    Image.new("RGB", HANGS).save(folder / "0011.jpg")
    damaged = folder / "0017.jpg"
    damaged.write_bytes(damaged.read_bytes()[:400])


class Supervised:
    """Servers of this machine, started anew where they end."""

    def __init__(self, count: int, quickly: bool) -> None:
        self._speed = "quick" if quickly else "whole"
        self.ports = [_free_port() for _ in range(count)]
        self.servers = [self._started(port) for port in self.ports]
        self._over = threading.Event()
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._keeper.start()
        for port in self.ports:
            while socket.socket().connect_ex(("127.0.0.1", port)):
                time.sleep(0.1)

    def _started(self, port: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, __file__, "--serve", str(port), self._speed], stderr=subprocess.DEVNULL
        )

    def _keep(self) -> None:
        while not self._over.wait(0.2):
            for place, server in enumerate(self.servers):
                if server.poll() is not None:
                    self.servers[place] = self._started(self.ports[place])

    def stop(self) -> None:
        self._over.set()
        self._keeper.join()
        for server in self.servers:
            server.kill()
            server.wait()


def executor(kind: str, workers: int, where: str) -> Executor:
    if kind == "ray":
        return RayActors(where or None, workers, seconds=SECONDS)
    if kind == "servers":
        return Servers(where.split(","), seconds=SECONDS)
    return LocalWorkers(workers, SECONDS)


def workers_of(kind: str, driver: int, servers: Supervised | None) -> list[psutil.Process]:
    """The processes that work for a driver."""
    if kind == "servers" and servers is not None:
        found = []
        for server in servers.servers:
            with suppress(psutil.NoSuchProcess):  # it ended just now, by its file
                found.append(psutil.Process(server.pid))
        return found
    word = "ray::_Actor" if kind == "ray" else "spawn_main"
    return [each for each in psutil.Process(driver).children(recursive=True) + _of_ray(kind) if word in _title(each)]


def _of_ray(kind: str) -> list[psutil.Process]:
    return list(psutil.process_iter()) if kind == "ray" else []


def disturbed(
    kind: str, folder: Path, out: Path, workers: int, servers: Supervised | None, count: int, quickly: bool
) -> str:
    """Run a driver, kill half of its workers at a third of the files, and the driver at two thirds."""
    where = ",".join(f"http://127.0.0.1:{port}" for port in servers.ports) if servers else ""
    command = ["--drive", kind, str(folder), str(out), str(workers), where, "quick" if quickly else "whole"]
    driver = subprocess.Popen([sys.executable, __file__, *command])
    _until(lambda: _lines(out) >= count // 3 and bool(workers_of(kind, driver.pid, servers)), driver)
    there = workers_of(kind, driver.pid, servers)
    killed = there[: max(1, len(there) // 2)]
    for each in killed:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    _until(lambda: _lines(out) >= 2 * count // 3, driver)
    at = _lines(out)
    driver.kill()
    driver.wait()
    return f"{len(killed)} of {len(there)} workers, then the driver at {at} records"


def timed(kind: str, files: list[str], out: Path, workers: int) -> float:
    """Files a second, from the first record to the last."""
    began: list[float] = []
    watcher = threading.Thread(target=lambda: (_until(lambda: _lines(out) > 0, None), began.append(time.monotonic())))
    watcher.start()
    process(files, ImageJob("detect", "dog; bus", tiles=False), out, executor=executor(kind, workers, ""))
    ended = time.monotonic()
    watcher.join()
    return (len(files) - 1) / (ended - began[0])


def _lines(out: Path) -> int:
    return out.read_bytes().count(b"\n") if out.exists() else 0


def _title(each: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(each.cmdline())
    return ""


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def _until(happens: Callable[[], bool], driver: "subprocess.Popen[bytes] | None") -> None:
    while not happens():
        if driver is not None and driver.poll() is not None:
            raise SystemExit(f"the driver ended too early, with {driver.returncode}")
        time.sleep(0.005)


def drive(kind: str, folder: str, out: str, workers: int, where: str, quickly: bool) -> None:
    """Do the job in this process."""
    job = PoisonedJob("detect", "dog; bus", tiles=False, quick=quickly)
    process(find_images([folder]), job, out, executor=executor(kind, workers, where))


def serve(port: int, quickly: bool) -> None:
    """Serve the default model, with one thread, as workers compute."""
    import torch

    from vision_agent.cli.main import main

    poison(quickly=quickly)
    torch.set_num_threads(1)
    main(["serve", "--port", str(port), "--no-mcp"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=300)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a model that answers at once")
    parser.add_argument("--only", nargs="*", default=["local", "ray", "servers"])
    parser.add_argument("--no-speed", action="store_true", help="leave out the timed runs")
    given = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "photos"
        make_files(folder, given.files)
        first: bytes | None = None
        print("| executor | files | undisturbed, s | killed | equal | errors |\n|---|---|---|---|---|---|", flush=True)
        for kind in given.only:
            servers = Supervised(given.workers, given.quick) if kind == "servers" else None
            where = ",".join(f"http://127.0.0.1:{port}" for port in servers.ports) if servers else ""
            whole, again = Path(place) / f"{kind}.jsonl", Path(place) / f"{kind}-killed.jsonl"
            began = time.monotonic()
            drive(kind, str(folder), str(whole), given.workers, where, given.quick)
            took = time.monotonic() - began
            kills = disturbed(kind, folder, again, given.workers, servers, given.files, given.quick)
            drive(kind, str(folder), str(again), given.workers, where, given.quick)
            if servers is not None:
                servers.stop()
            first = first or whole.read_bytes()
            equal = first == whole.read_bytes() == again.read_bytes()
            failed |= not equal
            lines = again.read_bytes().splitlines()
            if not equal:
                others = zip(first.splitlines(), whole.read_bytes().splitlines(), lines, strict=False)
                shown = [b"\n".join(three).decode() for three in others if len(set(three)) > 1]
                print("\n\n".join(shown[:3]), file=sys.stderr)
            records = [json.loads(line) for line in lines]
            errors = [f"{Path(each['file']).name} {each['error']['type']}" for each in records if each["error"]]
            told = f"| {kind} | {len(records)} | {took:.0f} | {kills} | {equal} | {', '.join(errors)} |"
            print(told, flush=True)
        if not given.no_speed:
            good = [file for file in find_images([folder]) if Path(file).stem not in ("0005", "0011", "0017")]
            print("\n| executor | files/s, after the first record |\n|---|---|")
            for turn in (1, 2):
                for kind in ("local", "ray"):
                    print(
                        f"| {kind} | {timed(kind, good, Path(place) / f'{kind}-{turn}.jsonl', given.workers):.2f} |",
                        flush=True,
                    )
    raise SystemExit(failed)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(int(sys.argv[2]), sys.argv[3] == "quick")
    elif sys.argv[1:2] == ["--drive"]:
        drive(sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]), sys.argv[6], sys.argv[7] == "quick")
    else:
        main()
