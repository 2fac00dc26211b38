"""The command line: what commands print, and how they end."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import CommandLine
from conftest import PHOTOS
from PIL import Image

from vision_agent import AgentResult, Detections, VisionAgent, __version__
from vision_agent.cli.main import main

BUS = str(PHOTOS / "000000274272.jpg")


def test_json_is_the_result_and_nothing_else(cli: CommandLine, tmp_path: Path) -> None:
    done = cli("detect", "bus", BUS, "--json", "--save", tmp_path / "out.png")
    assert done.returncode == 0, done.stderr
    found = Detections.model_validate_json(done.stdout)
    assert found.labels[0] == "bus"
    assert Image.open(tmp_path / "out.png").size == (640, 480)


def test_lines_for_people_and_several_phrases(cli: CommandLine) -> None:
    done = cli("detect", "bus; giraffe", BUS)
    assert (done.returncode, done.stderr) == (0, "")
    label, score, box = done.stdout.splitlines()[0].split("\t")
    assert label == "bus"
    assert 0 < float(score) <= 1
    assert len(box.split(",")) == 4


def test_nothing_found_is_no_error(cli: CommandLine) -> None:
    done = cli("detect", "giraffe", BUS)
    assert (done.returncode, done.stdout) == (0, "")
    assert "nothing found for 'giraffe'" in done.stderr


def test_run_prints_the_answer_and_its_routes(cli: CommandLine) -> None:
    done = cli("run", "where is the bus?", BUS, "--json")
    assert AgentResult.model_validate_json(done.stdout).routes[0].phrase == "bus"


def test_info_prints_the_card(cli: CommandLine) -> None:
    done = cli("info")
    assert done.returncode == 0
    assert "AP50" in done.stdout
    assert "NonCommercial" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["detect", "dog", "missing.jpg"], "missing.jpg"),
        (["detect", "dog", "*.nothing"], "*.nothing"),
        (["detect", "dog", "."], "folders with images"),
        (["detect", "dog"], "images"),
        (["detect", "", BUS], "phrase"),
        (["detect", "x" * 10_000, BUS], "300 characters"),
        (["detect", BUS, "dog"], "dog"),
        (["detect", "dog", "https://127.0.0.1/x.jpg"], "allow"),
        (["detect", "dog", BUS, "--threshold", "7"], "threshold"),
        (["detect", "dog", BUS, "--tiles", "many"], "tiles"),
        (["detect", "dog", BUS, "--tiles", "-3"], "tiles"),
        (["detect", "dog", BUS, "--threshold", "high"], "--threshold"),
        (["detect", "dog", BUS, "--colour", "red"], "--colour"),
        (["detct", "dog", BUS], "detct"),
        (["detect", "dog", "-", "-"], "once"),
        (["detect", "dog", "-"], "stdin"),
        (["detect", "dog", BUS, "--model", "no/where/at/all"], "no/where/at/all"),
        (["detect", "dog", BUS, "--device", "abacus"], "device"),
        (["detect", "dog", BUS, "--dtype", "float7"], "dtype"),
        (["detect", "dog", BUS, "--save", "no/such/folder/out.png"], "folder"),
        (["detect", "dog", BUS, "--save", "out.xyz"], ".png"),
        (["detect", "dog", BUS, "--save", "out"], ".png"),
        (["detect", "dog", BUS, BUS, "--save", "out.png"], "folder"),
        (["detect", "dog", BUS, "--out", "out.txt"], ".parquet"),
        (["detect", "dog", BUS, "--out", "no/such/folder/out.csv"], "folder"),
        (["detect", "dog", BUS, "--out", "out.csv", "--json"], "json"),
        (["detect", "dog", BUS, "--out", "out.csv", "--save", "out.png"], "save"),
        (["detect", "dog", "-", "--out", "out.csv"], "--out"),
        (["detect", "dog", BUS, "--retry"], "--out"),
        (["detect", "dog", BUS, "--adapter", "nowhere"], "nowhere"),
        (["count", "dog; cat", BUS], "semicolon"),
        (["ask", "", BUS], "question"),
        (["caption", BUS, "--length", "endless"], "endless"),
        (["segment", "bus", BUS, "--save", "out.xyz"], ".png"),
        (["generate", "two green apples"], "save"),
        (["generate", "two green apples", "--save", "apples"], ".png"),
        (["generate", "two green apples", "--save", "apples.png", "--size", "big"], "WIDTHxHEIGHT"),
        (["generate", "  ", "--save", "apples.png"], "words"),
        (["generate", "an apple", "a pear", "--save", "apples.png"], "folder"),
        (["edit", "make it blue", "missing.jpg", "--save", "out.png"], "missing.jpg"),
        (["edit", "make it blue", BUS, "--save", "out.png", "--mask", "missing.png"], "mask"),
        (["edit", "make it blue", BUS], "save"),
        (["run", "outline the bus", BUS, "--save", "out.xyz"], ".png"),
        (["completion", "tcsh"], "fish"),
        (["info", "./nowhere"], "nowhere"),
        (["train", "missing.toml", "--data", ".", "--out", "run"], "missing.toml"),
        (["evaluate", "default", "--data", ".", "--split", "train"], "split"),
        (["evaluate", "default", "--data", "."], "not there"),
        (["evaluate", "default", "--data", ".", "--suite", "all of it"], "suite"),
    ],
)
def test_bad_input_is_one_line_and_exit_two(
    arguments: list[str], words: str, cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is written."""
    monkeypatch.chdir(tmp_path)
    done = cli(*arguments)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("vision-agent: ")
    assert words in line
    assert list(tmp_path.iterdir()) == []


def test_a_half_written_checkpoint_is_one_line(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text(json.dumps({"model_type": "internvl"}))
    done = cli("detect", "dog", BUS, "--model", tmp_path / "broken")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1


def test_decoders_are_listed(cli: CommandLine) -> None:
    assert "box\tvision_agent.decoders.box.BoxDecoder" in cli("decoders").stdout


def test_the_help_names_every_suite(cli: CommandLine) -> None:
    from vision_agent.evaluate.suite import SUITES

    told = cli("evaluate", "--help").stdout
    assert [name for name in SUITES if name not in told] == []


def test_the_version_is_told_and_no_arguments_are_helped(cli: CommandLine) -> None:
    assert cli("--version").stdout == f"vision-agent {__version__}\n"
    assert cli("-h").stdout == cli("--help").stdout
    done = cli()
    assert (done.returncode, done.stdout) == (2, "")
    assert "Commands:" in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_and_options(shell: str, cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    script = cli("completion", shell).stdout
    assert f"_VISION_AGENT_COMPLETE=complete_{shell}" in script and "vision-agent" in script
    for typed, expected in (("vision-agent se", "segment"), ("vision-agent detect --thr", "--threshold")):
        words = {"COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
        words |= {"_TYPER_COMPLETE_ARGS": typed, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
        with monkeypatch.context() as during:
            for name, value in {**words, "_VISION_AGENT_COMPLETE": f"complete_{shell}"}.items():
                during.setenv(name, value)
            done = cli()
        assert done.returncode == 0
        assert expected in done.stdout


def test_ctrl_c_is_one_line_and_exit_130(
    cli: CommandLine, agent: VisionAgent, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(agent, "detect", interrupted)
    done = cli("detect", "bus", BUS)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "vision-agent: stopped\n")
    done = cli("detect", "bus", BUS, "--out", tmp_path / "out.jsonl")
    assert list(tmp_path.iterdir()) == []
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "vision-agent: stopped; run the same command again to resume\n"


def test_a_reader_that_has_gone_is_no_error_to_tell(
    agent: VisionAgent, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """`vision-agent info | head -1`, where head has gone before all is written."""

    class Gone:
        encoding = "utf-8"

        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

        def flush(self) -> None:
            raise BrokenPipeError(32, "Broken pipe")

        def fileno(self) -> int:
            raise OSError("no file")

        def isatty(self) -> bool:
            return False

    monkeypatch.setattr(sys, "stderr", sys.stderr)  # typer wraps both
    monkeypatch.setattr(sys, "stdout", Gone())
    with pytest.raises(SystemExit) as ended:
        main(["info"])
    assert ended.value.code == 141
    assert capfd.readouterr().err == ""


def test_help_names_all_commands_without_torch() -> None:
    """In a process of its own, by `python -m`, since this one has torch."""
    code = "import sys, runpy\ntry: runpy.run_module('vision_agent', run_name='__main__')\n"
    code += "finally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, timeout=300)
    assert done.stderr == ""
    named = {line.split()[0] for line in done.stdout.partition("Commands:")[2].splitlines() if line.strip()}
    assert {*("detect segment count point ask run caption generate edit ocr extract".split())} <= named
    assert {*("info decoders convert completion mcp".split())} <= named
    assert {*("train calibrate evaluate train-masks train-generator train-drawing".split())} <= named
    assert done.stdout.splitlines()[-1] == "False"
