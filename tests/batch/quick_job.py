"""A job that is quick, three files that bring down what works on them, and a program that does it by any executor.

Run as a program it is a server of the same (`serve PORT NOTES`), or a driver (`drive KIND FOLDER OUT NOTES WHERE`).
"""

import base64
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from PIL import Image

from vision_agent import Detections, load_image
from vision_agent.batch import Executor, ImageJob, LocalWorkers, RayActors, Servers, find_items, process
from vision_agent.batch.image_jobs import content_of

KILLS, HANGS, DAMAGED = 3, 6, 9  # numbers of files
COUNT = 30
SECONDS = 1.5  # that a file may take
KINDS = ("local", "ray", "servers")


@dataclass(frozen=True)
class QuickJob(ImageJob):
    """`detect`, by a model that finds nothing, but at once."""

    notes: str = ""

    def start(self, threads: int) -> Callable[[str], dict[str, Any]]:
        return lambda file: content_of(looked_at(Path(file), self.notes))


def looked_at(data: Path | bytes, notes: str) -> Detections:
    """What the model says; it notes the width of the image, which tells files apart."""
    image = load_image(data)
    with open(notes, "a") as stream:
        stream.write(f"{image.width}\n")
    if image.width == KILLS + 10:
        os.kill(os.getpid(), signal.SIGKILL)
    if image.width == HANGS + 10:
        time.sleep(1000)
    time.sleep(0.02)
    return Detections.empty(image.size, "default")


def files_in(folder: Path) -> list[str]:
    """Make small images, of which one is damaged."""
    folder.mkdir()
    for number in range(COUNT):
        Image.new("RGB", (number + 10, 10)).save(folder / f"{number:02}.png")
    damaged = folder / f"{DAMAGED:02}.png"
    damaged.write_bytes(damaged.read_bytes()[:50])
    return find_items([folder], [".png"], "images")


def executor(kind: str, where: str) -> Executor:
    """`where`: the address of a Ray cluster, or of servers."""
    if kind == "ray":
        return RayActors(where, 2, seconds=SECONDS)
    if kind == "servers":
        return Servers(where.split(","), seconds=SECONDS)
    return LocalWorkers(2, SECONDS)


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._send({"data": [{"id": "default"}]} if self.path == "/v1/models" else {"status": "ready"})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        data = base64.b64decode(asked["image"].partition(",")[2])
        self._send(looked_at(data, sys.argv[3]).model_dump(mode="json"))

    def _send(self, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


if __name__ == "__main__":
    from quick_job import QuickJob as Job  # by its own module's name, which workers import

    if sys.argv[1] == "serve":
        ThreadingHTTPServer.allow_reuse_address = True
        ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), _Handler).serve_forever()
    _, _, kind_, folder_, out_, notes_, where_ = sys.argv
    found = find_items([folder_], [".png"], "images")
    process(found, Job("detect", "dog", notes=notes_), out_, executor=executor(kind_, where_))
