"""`vision-agent bench`: the figures of a small checkpoint, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from vision_agent import RouteSpec
from vision_agent.cli.main import main
from vision_agent.model.checkpoint import load_backbone
from vision_agent.routing.adapter import new_route, save_adapter

FEW = ["--requests", "2", "--tokens", "4", "--repeats", "1", "--image-size", "64x48"]


def bench(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int | str | None, str, str]:
    with pytest.raises(SystemExit) as left:
        main(["bench", *arguments])
    said = capsys.readouterr()
    return left.value.code, said.out, said.err


def test_figures_are_those_of_one_run(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, printed, _ = bench(capsys, str(checkpoint), *FEW, "--json", "--out", str(tmp_path / "speed.json"))
    assert code == 0
    report = json.loads(printed)
    assert report == json.loads((tmp_path / "speed.json").read_text())
    assert report["options"] == {"requests": 2, "tokens": 4, "image_size": [64, 48], "repeats": 1}
    assert (report["model"], report["device"], report["threads"]) == ("tiny", "cpu", torch.get_num_threads())
    figures: dict[str, Any] = {each["name"]: (each["value"], each["unit"]) for each in report["figures"]}
    assert all(value > 0 for value, _ in figures.values())
    assert not any(name.startswith("detect") for name in figures)  # without a route
    for name in ("one request", "2 requests"):
        first, rate = figures[f"first token, {name}"], figures[f"tokens, {name}"]
        assert (first[1], rate[1]) == ("s", "tokens/s")
        assert f"tokens, {name}, transformers" in figures


def test_a_route_has_figures_of_its_own_and_a_table_says_what_was_measured(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = load_backbone(checkpoint)
    route = new_route(backbone, RouteSpec(token="[DET]", decoder="box", num_queries=2))
    save_adapter(tmp_path / "det", route, backbone)
    threads = torch.get_num_threads()
    code, printed, error = bench(
        capsys, str(checkpoint), *FEW, "--adapter", str(tmp_path / "det"), "--threads", str(threads + 1)
    )
    assert (code, error) == (0, "")
    assert torch.get_num_threads() == threads
    first, _, head, *rows = printed.splitlines()
    assert "64 x 48 pixels" in first and f"{threads + 1} threads" in first and "answers of 4 tokens" in first
    assert head == "| figure | value | unit |"
    assert any(row.startswith("| detect, ten phrases, image seen before | ") for row in rows)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--requests", "1"], "`requests` must be from 2 to 256, but got 1"),
        (["--tokens", "1"], "`tokens` must be from 2"),
        (["--repeats", "0"], "`repeats` must be from 1"),
        (["--threads", "0"], "`threads` must be from 1"),
        (["--image-size", "640"], "`image_size` must be WIDTHxHEIGHT"),
        (["--image-size", "4x4"], "`image_size` must be"),
        (["--image-size", "²0x300"], "`image_size` must be"),
        (["--out", "nowhere/speed.json"], "`out`"),
    ],
)
def test_wrong_arguments_are_told_before_a_model_is_loaded(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, printed, error = bench(capsys, "no such model", *arguments)
    assert (code, printed) == (2, "")
    assert said in error


def test_answers_that_do_not_fit_the_context_are_refused(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 80
    (checkpoint / "config.json").write_text(json.dumps(config))
    code, _, error = bench(capsys, str(checkpoint), *FEW, "--tokens", "79")
    assert code == 2 and "`tokens` must be at most " in error
