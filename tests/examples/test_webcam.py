"""The example `webcam.py`, on frames and on a file that is read as if it were a camera."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vision_agent import VisionAgent, load_image
from vision_agent.images.video_writing import write_mp4

FILE = Path(__file__).parents[2] / "examples" / "webcam.py"


@pytest.fixture(scope="module")
def example() -> Any:
    spec = importlib.util.spec_from_file_location("webcam", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_comes_and_goes_is_told_and_drawn(example: Any, agent: VisionAgent, photo: Path, tmp_path: Path) -> None:
    dog = load_image(photo).resize((256, 192))
    nothing = Image.new("RGB", dog.size, (90, 120, 80))
    frames = [(0.0, dog), (0.5, dog), (1.0, nothing), (4.0, nothing)]
    lines = list(example.follow(agent, "dog", iter(frames), tmp_path / "now.jpg"))
    assert lines == ["dog 1 came", "dog 1 went"]
    assert load_image(tmp_path / "now.jpg").size == dog.size


def test_a_camera_gives_the_newest_frame(example: Any, photo: Path, tmp_path: Path) -> None:
    write_mp4(tmp_path / "clip.mp4", [load_image(photo).resize((64, 48))] * 5, [0, 0.1, 0.2, 0.3, 0.4])
    seen = list(example.camera(str(tmp_path / "clip.mp4")))
    assert 1 <= len(seen) <= 5 and seen[-1][1].size == (64, 48)
    assert [time for time, _ in seen] == sorted(time for time, _ in seen)
