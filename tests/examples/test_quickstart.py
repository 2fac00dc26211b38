"""Every use in examples/quickstart.py runs on the model that ships with the package."""

import importlib.util
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import pytest

from vision_agent import VisionAgent

PROGRAM = Path(__file__).parents[2] / "examples" / "quickstart.py"


def _loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("quickstart", PROGRAM)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


quickstart = _loaded()


@pytest.mark.parametrize(
    ("name", "answers"),
    [
        ("words_only", 2),
        ("one_image", 2),
        ("several_rounds", 2),
        ("images_combined", 1),
        ("images_apart", 2),
        ("batch", 2),
        ("video", 2),
        ("streaming", 1),
        ("asynchronous", 2),
    ],
)
def test_each_use_gives_its_answers(agent: VisionAgent, name: str, answers: int) -> None:
    texts = quickstart.USES[name](agent)
    assert len(texts) == answers
    assert all(isinstance(text, str) for text in texts)
    if name == "streaming":
        assert texts[0].rstrip().endswith("tokens]")
    if name == "asynchronous":
        assert set(texts) <= {"yes", "no"}


def test_a_video_file(agent: VisionAgent, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for level in range(0, 200, 10):
            frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), level, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert len(quickstart.video(agent, path)) == 2


def test_no_use_is_left_out() -> None:
    tested = test_each_use_gives_its_answers.pytestmark[0].args[1]  # type: ignore[attr-defined]
    assert {name for name, _ in tested} == set(quickstart.USES)
