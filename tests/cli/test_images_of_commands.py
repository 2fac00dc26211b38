"""What commands do with their images: several, folders, patterns, stdin, unusual names; and what they write."""

import json
import os
import shutil
from pathlib import Path

import pytest
from command_line import CommandLine
from conftest import PHOTOS
from PIL import Image

from vision_agent import (
    AgentResult,
    Answer,
    Count,
    Detections,
    GeneratedImage,
    Points,
    Segmentation,
    VisionAgent,
)

DOG, BUS = PHOTOS / "000000139872.jpg", PHOTOS / "000000274272.jpg"


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Two photos under names that shells and encodings trip over, one that is broken, and what is no image."""
    folder = tmp_path / "my photos"
    (folder / "夏 2024").mkdir(parents=True)
    shutil.copy(DOG, folder / "a dog.jpg")
    shutil.copy(BUS, folder / "夏 2024" / "автобус.JPG")
    (folder / "broken.png").write_bytes(DOG.read_bytes()[:2000])
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.jpg").write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("command", "kind", "line"),
    [
        (("detect", "bus"), Detections, r"bus\t0"),
        (("segment", "bus"), Segmentation, r" px"),
        (("count", "bus"), Count, "2"),
        (("point", "bus"), Points, r"bus\t0"),
        (("ask", "is there a bus?"), Answer, "yes"),
        (("caption",), Answer, "bus"),
    ],
)
def test_every_verb_takes_stdin_and_prints_lines_or_json(
    command: tuple[str, ...], kind: type, line: str, cli: CommandLine
) -> None:
    done = cli(*command, "-", stdin=BUS.read_bytes())
    assert (done.returncode, done.stderr) == (0, "")
    assert line.replace(r"\t", "\t") in done.stdout.lower()
    printed = cli(*command, BUS, "--json")
    assert (printed.returncode, printed.stderr) == (0, "")
    result = kind.model_validate_json(printed.stdout)
    if kind is Count:
        assert done.stdout == f"{result.count}\n"


def test_a_folder_has_a_line_for_each_object_and_one_for_what_failed(album: Path, cli: CommandLine) -> None:
    done = cli("detect", "bus; dog", album)
    assert done.returncode == 1
    assert {line.split("\t")[0]: line.split("\t")[1] for line in done.stdout.splitlines()} == {
        str(album / "a dog.jpg"): "dog",
        str(album / "夏 2024" / "автобус.JPG"): "bus",
    }
    failed, summary = done.stderr.splitlines()
    assert failed.startswith("vision-agent: ") and "broken.png" in failed
    assert summary == "vision-agent: 1 of 3 images failed"


def test_patterns_and_several_names_are_what_shells_make_of_them(album: Path, cli: CommandLine) -> None:
    done = cli("count", "bus", album / "**" / "*.JPG", album / "a dog.jpg", album / "a dog.jpg")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{album}/夏 2024/автобус.JPG\t2\n{album}/a dog.jpg\t0\n"
    odd = album / "a[1]*.jpg"
    shutil.copy(BUS, odd)
    assert cli("count", "bus", odd).stdout == "2\n"  # a name is no pattern where the file is there


def test_json_of_several_is_a_record_a_line(album: Path, cli: CommandLine) -> None:
    done = cli("ask", "is there a dog?", album, "--json")
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(Path(each["file"]).name, each["error"] and each["error"]["type"]) for each in records] == [
        ("a dog.jpg", None),
        ("broken.png", "ImageError"),
        ("автобус.JPG", None),
    ]
    answers = [Answer.model_validate(each["result"]).text for each in records if "result" in each]
    assert [answer[:2] for answer in answers] == ["ye", "no"]


def test_names_that_are_no_text_are_printed_with_escapes(tmp_path: Path, cli: CommandLine) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
    shutil.copy(BUS, name)
    done = cli("count", "bus", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{tmp_path}/caf\\udce9.jpg\t2\n"


def test_drawings_of_several_go_to_a_folder_each_under_its_name(album: Path, tmp_path: Path, cli: CommandLine) -> None:
    shutil.copy(BUS, album / "夏 2024" / "a dog.jpg")
    done = cli("segment", "bus", album, "--save", tmp_path / "drawn")
    assert done.returncode == 1
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["a dog-2.png", "a dog.png", "автобус.png"]
    assert {Image.open(path).size for path in (tmp_path / "drawn").iterdir()} == {(640, 480)}
    assert cli("count", "bus", BUS, "--save", tmp_path / "one.webp").returncode == 0
    assert Image.open(tmp_path / "one.webp").format == "WEBP"


def test_an_image_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    done = cli("detect", "bus", BUS, "--save", tmp_path / "out.png")
    assert (done.returncode, done.stderr) == (2, "vision-agent: No space left on device\n")
    assert list(tmp_path.iterdir()) == []


def test_images_are_made_and_changed(tmp_path: Path, cli: CommandLine) -> None:
    done = cli("generate", "two green apples", "--seed", 1, "--steps", 2, "--save", tmp_path / "made.png")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"saved {tmp_path}/made.png (seed 1)\n"
    many = cli("generate", "an apple", "a car", "--seed", 1, "--steps", 2, "--size", "64x48", "--json")
    assert [GeneratedImage.model_validate_json(line).size for line in many.stdout.splitlines()] == [(64, 48)] * 2
    mask = tmp_path / "mask.png"
    Image.new("L", Image.open(tmp_path / "made.png").size, 255).save(mask)
    changed = cli("edit", "make it red", "-", "--steps", 2, "--mask", mask, "--save", tmp_path / "red.jpg",
                  stdin=(tmp_path / "made.png").read_bytes())  # fmt: skip
    assert changed.returncode == 0, changed.stderr
    assert Image.open(tmp_path / "red.jpg").format == "JPEG"


def test_run_is_about_each_image_or_about_all_together(
    cli: CommandLine, agent: VisionAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = cli("run", "where is the bus?", DOG, BUS)
    assert done.returncode == 0
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == [str(DOG), str(BUS)]
    one = agent.run("where is the bus?", BUS)
    shown: list[list[Image.Image]] = []

    def note(request: str, images: list[Image.Image], verify: bool) -> AgentResult:
        shown.append(images)
        return one

    monkeypatch.setattr(agent, "run", note)
    together = cli("run", "compare the two", DOG, BUS, "--together")
    assert (together.returncode, together.stdout) == (0, f"{one.summary}\n")
    assert [len(images) for images in shown] == [2]
