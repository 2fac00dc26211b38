"""Follow objects in front of a camera: each gets a number, and a line when it comes and when it goes.

    python examples/webcam.py PHRASE [CAMERA] [OUT.jpg]

CAMERA is /dev/video0 by default; a video file is read as if it were one. OUT.jpg always holds the newest drawn frame.
Frames that come while the model is still looking are left out. Ctrl-C ends it. Needs the extra `video`.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from threading import Thread

import av
from PIL import Image

from vision_agent import ObjectTracker, VisionAgent, stream_frames

GONE = 2.0  # seconds that an object may not be seen


def camera(device: str) -> Iterator[tuple[float, Image.Image]]:
    """Yield the newest frame, and when it came, whenever one is asked for."""
    newest: Queue[tuple[float, Image.Image] | None] = Queue(maxsize=1)

    def read() -> None:
        with av.open(device, format="v4l2" if device.startswith("/dev/") else None) as container:
            for frame in container.decode(video=0):
                while not newest.empty():
                    newest.get()
                newest.put((time.monotonic(), frame.to_image()))
        newest.put(None)

    Thread(target=read, daemon=True).start()
    yield from iter(newest.get, None)


def follow(agent: VisionAgent, phrase: str, frames: Iterator[tuple[float, Image.Image]], out: Path) -> Iterator[str]:
    """Yield a line whenever an object comes or goes, and keep `out` up to date."""
    tracker = ObjectTracker(max_gap=GONE, mean_score=0.4, history=False)
    last: dict[int, tuple[str, float]] = {}
    for seconds, frame in frames:
        objects = tracker.update(agent.detect(phrase, frame, detail="low"), seconds)
        objects.save(out, frame)
        for each in objects:
            if each.id not in last:
                yield f"{each.label} {each.id} came"
            last[each.id] = each.label, seconds
        for number in [number for number, (_, seen) in last.items() if seconds - seen > GONE]:
            yield f"{last.pop(number)[0]} {number} went"


if __name__ == "__main__":
    phrase, device, drawn, *_ = [*sys.argv[1:], *("dog", "/dev/video0", "webcam.jpg")[len(sys.argv) - 1 :]]
    is_file = Path(device).is_file()
    source = ((each.seconds, each.image) for each in stream_frames(device)) if is_file else camera(device)
    for line in follow(VisionAgent(), phrase, source, Path(drawn)):
        print(line, flush=True)
