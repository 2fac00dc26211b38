"""`vision-agent classify`, as a user runs it: lines, JSON, records, an embedder, and what is wrong."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from command_line import CommandLine
from conftest import PHOTOS
from dual_encoders import make_dual_encoder

from vision_agent import Classification, VisionAgent

DOG, BUS = "000000139872.jpg", "000000423617.jpg"


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    shutil.copy(PHOTOS / DOG, folder / "a.jpg")
    shutil.copy(PHOTOS / BUS, folder / "b.jpg")
    (folder / "c.jpg").write_bytes(b"no image")
    return folder


def test_labels_are_told_best_first_and_also_that_none_fits(cli: CommandLine, agent: VisionAgent, photo: Path) -> None:
    done = cli("classify", "bus; dog ;pizza", photo)
    assert (done.returncode, done.stderr) == (0, "")
    own = agent.classify(photo, ["dog", "bus", "pizza"])
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == [each.label for each in own] and lines[0][0] == "dog"
    assert [float(line[1]) for line in lines] == pytest.approx([each.score for each in own], abs=6e-3)
    assert Classification.model_validate_json(cli("classify", "dog;bus;pizza", photo, "--json").stdout) == own
    nothing = cli("classify", "pizza; toaster", photo)
    assert nothing.returncode == 0 and "none of these" in nothing.stdout + nothing.stderr
    unknown = cli("classify", "dog; qwrtzpl", photo)
    assert "qwrtzpl" in unknown.stderr and unknown.stdout.startswith("dog\t")


def test_several_images_are_records(cli: CommandLine, agent: VisionAgent, album: Path, tmp_path: Path) -> None:
    done = cli("classify", "dog; bus", album, "--json")
    assert done.returncode == 1
    first, second, broken = map(json.loads, done.stdout.splitlines())
    assert Path(first["file"]).name == "a.jpg" and first["result"]["scores"][0]["label"] == "dog"
    assert second["result"]["scores"][0]["label"] == "bus" and broken["error"]["type"] == "ImageError"
    out = tmp_path / "labels.csv"
    done = cli("classify", "dog; bus", album, "--out", out)
    assert (done.returncode, done.stderr) == (1, "3 files: 2 done, 1 failed\n")
    with open(out, newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [(Path(row["file"]).name, row["label"]) for row in rows] == [
        ("a.jpg", "dog"),
        ("a.jpg", "bus"),
        ("b.jpg", "bus"),
        ("b.jpg", "dog"),
        ("c.jpg", ""),
    ]
    assert all(row["none"] == "False" for row in rows[:4]) and rows[4]["error"].startswith("ImageError")


def test_an_embedder_and_templates(cli: CommandLine, photo: Path, tmp_path: Path) -> None:
    folder = make_dual_encoder("siglip", tmp_path / "siglip")
    asked = ["classify", "dog; bus", photo, "--embedder", folder, "--json"]
    by_one = json.loads(cli(*asked, "--template", "a {}.").stdout)
    by_two = json.loads(cli(*asked, "--template", "a {}.", "--template", "the {} on the grass").stdout)
    assert by_one["method"] == by_two["method"] == "embedder"
    assert by_one["scores"] != by_two["scores"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["classify", " ; ", "a.jpg"], "`labels` must be at least one label"),
        (["classify", "dog; ?", "a.jpg"], "`labels[1]` must be some words, but got '?'"),
        (["classify", "dog", "gone.jpg"], "gone.jpg"),
        (["classify", "dog", "a.jpg", "--template", "a photo"], "`templates[0]` must be a text with {} for the label"),
        (["classify", "dog", "a.jpg", "--embedder", "no/folder"], "embedder"),
        (["classify", "dog", "a.jpg", "--out", "labels.txt"], "must be a file that ends in one of"),
        (["batch", "classify", "dog; ?", "a.jpg", "--out", "labels.csv"], "`labels[1]` must be some words"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(
    arguments: list[str], says: str, cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(PHOTOS / DOG, "a.jpg")
    done = cli(*arguments)
    assert (done.returncode, done.stdout) == (2, "") and says in done.stderr and done.stderr.count("\n") == 1
    assert [each.name for each in tmp_path.iterdir()] == ["a.jpg"]
