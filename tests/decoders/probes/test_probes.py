"""Heads on the frozen tower: both kinds learn on real sets, resume, and tell what is wrong with data."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
from command_line import CommandLine
from PIL import Image

from vision_agent import CheckpointError, ConfigError, VisionAgent
from vision_agent.decoders.probes.fitting import ProbeTraining, train_head
from vision_agent.decoders.probes.heads import ClassifyHead, SemanticHead, load_head
from vision_agent.decoders.probes.labelled_folders import read_classes, read_maps
from vision_agent.errors import AdapterMismatchError, AnnotationError

DIGITS = (0, 1, 4, 7)


def digit(number: int) -> Image.Image:
    """A handwritten digit of the UCI set that scikit-learn brings, dark on light."""
    pixels = sklearn.datasets.load_digits().images[number]
    return Image.fromarray((255 - pixels * 15).astype(np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 handwritten zeros, ones, fours and sevens each, a folder a digit."""
    folder = tmp_path_factory.mktemp("digits")
    target = sklearn.datasets.load_digits().target
    for label in DIGITS:
        (folder / str(label)).mkdir()
        for number in np.flatnonzero(target == label)[:20]:
            digit(int(number)).save(folder / str(label) / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def strokes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 zeros and ones as ADE20K is laid out: paper, the stroke of a zero, the stroke of a one; 0 is unlabelled."""
    folder = tmp_path_factory.mktemp("strokes")
    (folder / "classes.txt").write_text("paper\nzero\none\n")
    target = sklearn.datasets.load_digits().target
    for place, number in enumerate(np.flatnonzero(target < 2)[:40]):
        part = "validation" if place % 4 == 0 else "training"
        for kind in ("images", "annotations"):
            (folder / kind / part).mkdir(parents=True, exist_ok=True)
        image = digit(int(number))
        image.save(folder / "images" / part / f"{number}.png")
        ink = np.asarray(image) < 128
        values = np.where(ink, 2 + target[number], 1).astype(np.uint8)
        values[:2] = 0
        Image.fromarray(values).save(folder / "annotations" / part / f"{number}.png")
    return folder


def test_a_linear_probe_learns_handwritten_digits(
    agent: VisionAgent, digits: Path, tmp_path: Path, cli: CommandLine
) -> None:
    out = tmp_path / "probe"
    done = cli("train-route", "classify", "default", "--data", digits, "--out", out)
    assert done.returncode == 0, done.stderr
    figures = dict(line.split("\t") for line in done.stdout.splitlines())
    assert float(figures["accuracy"]) >= 0.9
    assert float(figures["majority"]) <= 0.3
    head = load_head(out)
    assert isinstance(head, ClassifyHead)
    found = head.classify(agent, digits / "0" / "0.png")
    assert (found[0].label, found.method) == ("0", "probe")
    assert sum(each.score for each in found) == pytest.approx(1)
    weights = (out / "head.safetensors").read_bytes()
    (out / "head.safetensors").unlink()
    train_head(agent.backbone, read_classes(digits), out, ProbeTraining())
    assert (out / "head.safetensors").read_bytes() == weights
    with pytest.raises(ConfigError, match="another recipe"):
        train_head(agent.backbone, read_classes(digits), out, ProbeTraining(seed=1))
    said = cli("probe", out, digits / "1" / "1.png", "--json")
    assert json.loads(said.stdout)["scores"][0]["label"] == "1"


@pytest.mark.parametrize("kind", ["linear", "pyramid"])
def test_segmentation_learns_strokes_of_digits(
    kind: str, agent: VisionAgent, strokes: Path, tmp_path: Path, cli: CommandLine
) -> None:
    out = tmp_path / "head"
    done = cli(
        "train-route", "semseg", "default", "--data", strokes, "--out", out, "--head", kind, "--steps", 40, "--batch", 4
    )
    assert done.returncode == 0, done.stderr
    figures = dict(line.split("\t") for line in done.stdout.splitlines())
    assert float(figures["mean_iou"]) >= 0.6
    assert float(figures["accuracy"]) > float(figures["majority"]) + 0.05
    head = load_head(out)
    assert isinstance(head, SemanticHead)
    file = sorted((strokes / "images" / "validation").iterdir())[0]
    found = head.segment(agent, file)
    assert found[0].label == "paper"
    assert sum(each.mask.area for each in found) == 64 * 64
    assert cli("probe", out, file, "--save", tmp_path / "maps").returncode == 0
    values = np.asarray(Image.open(tmp_path / "maps" / f"{file.stem}.png"))
    assert values.shape == (64, 64) and set(np.unique(values)) <= {0, 1, 2}


def test_faults_of_data_are_told_together_before_anything_is_trained(
    digits: Path, strokes: Path, tmp_path: Path, cli: CommandLine
) -> None:
    classes, maps = tmp_path / "classes", tmp_path / "maps"
    shutil.copytree(digits, classes)
    (classes / "0" / "cut.png").write_bytes((classes / "0" / "0.png").read_bytes()[:60])
    (classes / "empty").mkdir()
    with pytest.raises(AnnotationError, match="2 faults") as caught:
        read_classes(classes)
    assert "empty: 0 images" in caught.value.faults[0] and "cut.png" in caught.value.faults[1]
    shutil.copytree(strokes, maps)
    training = sorted((maps / "annotations" / "training").iterdir())
    training[0].unlink()
    Image.new("RGB", (64, 64)).save(training[1])
    Image.new("L", (32, 64)).save(training[2])
    Image.new("L", (64, 64), 9).save(training[3])
    training[4].write_bytes(b"no image")
    with pytest.raises(AnnotationError, match="5 faults") as caught:
        read_maps(maps)
    for fault, words in zip(
        caught.value.faults, ("no index map", "mode 'RGB'", "is of", "has the value 9", "identify"), strict=True
    ):
        assert words in fault
    for data in (tmp_path / "none", tmp_path):
        done = cli("train-route", "semseg", "default", "--data", data, "--out", tmp_path / "out")
        assert done.returncode == 2 and "images/ and annotations/" in done.stderr
    assert not (tmp_path / "out").exists()


def test_heads_refuse_other_models_and_damaged_files(agent: VisionAgent, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no head"):
        load_head(tmp_path)
    ClassifyHead(["a", "b"], "another", 1, 8).save(tmp_path)
    with pytest.raises(AdapterMismatchError, match="another model"):
        load_head(tmp_path).features(agent.backbone)
    (tmp_path / "head.json").write_text('{"kind": "classify"}')
    with pytest.raises(CheckpointError, match="damaged"):
        load_head(tmp_path)
    ClassifyHead(["a", "b"], "another", 1, 8).save(tmp_path)
    (tmp_path / "head.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(CheckpointError, match="damaged"):
        load_head(tmp_path)
