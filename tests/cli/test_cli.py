"""The command line, as a user runs it: real processes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PHOTOS
from PIL import Image

from vision_agent import AgentResult, Detections

BUS = str(PHOTOS / "000000274272.jpg")


def cli(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from vision_agent.cli.main import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300)


def test_json_is_the_result_and_nothing_else(tmp_path: Path) -> None:
    done = cli("detect", "bus", BUS, "--json", "--save", str(tmp_path / "out.png"))
    assert done.returncode == 0, done.stderr
    found = Detections.model_validate_json(done.stdout)
    assert found.labels[0] == "bus"
    assert Image.open(tmp_path / "out.png").size == (640, 480)


def test_lines_for_people_and_several_phrases() -> None:
    done = cli("detect", "bus; giraffe", BUS)
    assert done.returncode == 0
    label, score, box = done.stdout.splitlines()[0].split("\t")
    assert label == "bus"
    assert 0 < float(score) <= 1
    assert len(box.split(",")) == 4


def test_nothing_found_is_no_error() -> None:
    done = cli("detect", "giraffe", BUS)
    assert (done.returncode, done.stdout) == (0, "")
    assert "nothing found for 'giraffe'" in done.stderr


def test_run_prints_the_answer_and_its_routes() -> None:
    done = cli("run", "where is the bus?", BUS, "--json")
    assert AgentResult.model_validate_json(done.stdout).routes[0].phrase == "bus"


def test_info_prints_the_card() -> None:
    done = cli("info")
    assert done.returncode == 0
    assert "AP50" in done.stdout
    assert "NonCommercial" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["detect", "dog", "missing.jpg"], "missing.jpg"),
        (["detect", "", BUS], "phrase"),
        (["detect", "x" * 10_000, BUS], "300 characters"),
        (["detect", BUS, "dog"], "dog"),
        (["detect", "dog", "https://127.0.0.1/x.jpg"], "allow"),
        (["detect", "dog", BUS, "--threshold", "7"], "threshold"),
        (["detect", "dog", BUS, "--model", "no/where/at/all"], "no/where/at/all"),
        (["detect", "dog", BUS, "--device", "abacus"], "device"),
        (["detect", "dog", BUS, "--dtype", "float7"], "dtype"),
        (["detect", "dog", BUS, "--save", "no/such/folder/out.png"], "folder"),
        (["detect", "dog", BUS, "--adapter", "nowhere"], "nowhere"),
        (["info", "./nowhere"], "nowhere"),
        (["train", "missing.toml", "--data", ".", "--out", "run"], "missing.toml"),
        (["evaluate", "default", "--data", ".", "--split", "train"], "split"),
        (["evaluate", "default", "--data", "."], "not there"),
        (["evaluate", "default", "--data", ".", "--suite", "all of it"], "suite"),
    ],
)
def test_bad_input_is_one_line_and_exit_two(arguments: list[str], words: str, tmp_path: Path) -> None:
    done = cli(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert words in lines[0]


def test_a_half_written_checkpoint_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text(json.dumps({"model_type": "internvl"}))
    done = cli("detect", "dog", BUS, "--model", str(tmp_path / "broken"))
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1


def test_decoders_are_listed() -> None:
    assert "box\tvision_agent.decoders.box.BoxDecoder" in cli("decoders").stdout


def test_the_help_names_every_suite() -> None:
    from vision_agent.evaluate.suite import SUITES

    told = cli("evaluate", "--help").stdout
    assert [name for name in SUITES if name not in told] == []


def test_help_names_all_commands_without_torch() -> None:
    code = "import sys\nfrom vision_agent.cli.main import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, timeout=300)
    named = {line.split()[0] for line in done.stdout.partition("Commands:")[2].splitlines() if line.strip()}
    assert {*("detect ask run caption info decoders convert ocr extract mcp".split())} <= named
    assert {*("train calibrate evaluate train-masks train-generator train-drawing".split())} <= named
    assert done.stdout.splitlines()[-1] == "False"
