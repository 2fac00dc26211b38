"""`make demo`: examples/tour.py on the model that ships with the package."""

import runpy
from pathlib import Path

import pytest
from PIL import Image

PROGRAM = Path(__file__).parents[2] / "examples" / "tour.py"


def test_the_tour_prints_each_answer_and_draws_them_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(PROGRAM))["main"](str(tmp_path / "tour.png"))
    told = dict(line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert len(told) == 6
    assert told['agent.detect("red car", street, threshold=0.4)'].startswith("1 found")
    assert told['agent.segment(["dog", "frisbee"], park)'] == "dog, frisbee"
    assert told['agent.count("person", skaters)'] == "2"
    assert told['agent.ask("what colour is the bus?", coach)'] == "red"
    image = Image.open(tmp_path / "tour.png")
    assert image.size == (1440, 812)
    assert len({image.crop((x, y, x + 480, y + 406)).tobytes() for x in (0, 480, 960) for y in (0, 406)}) == 6
