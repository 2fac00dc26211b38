"""`vision-agent finetune`: new names are found, old ones still are, and a killed run ends as if it was not."""

import json
import random
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from vision_agent import VisionAgent
from vision_agent.cli.main import main
from vision_agent.data.annotations.annotated import AnnotationSet
from vision_agent.data.annotations.annotation_sets import read_annotations
from vision_agent.decoders.own_images.finetuning import Report, finetune_boxes
from vision_agent.decoders.own_images.free_memory import check_memory
from vision_agent.decoders.own_images.settings import OwnImagesTraining
from vision_agent.decoders.own_images.views import wordings
from vision_agent.errors import ConfigError, InputError
from vision_agent.model.machine_memory import free_memory

EXAMPLE = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "own_images.py"))
EVERY_STEP, AT_THE_END = 1e-9, 1e9


def settings(save_minutes: float = AT_THE_END, **more: Any) -> OwnImagesTraining:
    few = {"steps": 2, "name_steps": 2, "mask_steps": 2, "batch": 2, "evaluations": 2, "flip": False}
    few |= {"phrase_steps": 2, "kept_names": 8}
    return OwnImagesTraining(**(few | more), save_minutes=save_minutes)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report, VisionAgent]:
    """The example, with few images and steps: a run that is not killed, and the agent that it taught."""
    folder = tmp_path_factory.mktemp("straight")
    return folder / "run", *EXAMPLE["teach"](folder, 5, settings())


@pytest.fixture(scope="module")
def drawn(straight: tuple[Path, Report, VisionAgent]) -> Path:
    """Its images, of three things; ladders have an outline."""
    return straight[0].parent / "set" / "annotations.json"


@pytest.fixture(scope="module")
def marked(drawn: Path) -> AnnotationSet:
    return read_annotations(drawn)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": each
        for name in ("det", "seg")
        for key, each in load_file(folder / "adapters" / name / "adapter.safetensors").items()
    }


class Stopped(BaseException):
    pass


def test_a_run_that_is_killed_twice_ends_as_if_it_was_not(
    straight: tuple[Path, Report, VisionAgent], marked: AnnotationSet, tmp_path: Path
) -> None:
    agent, folder = VisionAgent(), tmp_path / "run"
    for stage in ("boxes", "masks"):

        def die(name: str, number: int, loss: float, stage: str = stage) -> None:
            if (name, number) == (stage, 0):
                raise Stopped

        with pytest.raises(Stopped):
            finetune_boxes(agent, marked, folder, settings(EVERY_STEP), on_step=die, tell=lambda _: None)
        assert not (folder / "report.json").exists()
        random.seed(9)
        torch.manual_seed(9)
    report = finetune_boxes(agent, marked, folder, settings(), tell=lambda _: None)
    wanted, got = weights(straight[0]), weights(folder)
    assert wanted.keys() == got.keys()
    assert not [name for name in wanted if not torch.equal(wanted[name], got[name])]
    for figures in ("before", "after", "best_step", "agreement", "masks_after"):
        assert getattr(report, figures) == getattr(straight[1], figures)
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]
    taken = [(line["stage"], line["step"]) for line in lines if "ap50" not in line]
    assert taken == [(stage, step) for stage in ("names", "boxes", "phrases", "masks") for step in (0, 1)]


def test_the_model_and_the_other_routes_stay_and_the_adapters_load(
    straight: tuple[Path, Report, VisionAgent], drawn: Path, agent: VisionAgent
) -> None:
    folder, _, taught = straight
    loaded = VisionAgent.from_pretrained("default", adapters=[folder])
    pairs = zip(agent.backbone.model.parameters(), loaded.backbone.model.parameters(), strict=True)
    assert all(torch.equal(mine, theirs) for mine, theirs in pairs)
    image = drawn.parent / "000.jpg"
    for each in (taught, loaded):
        found = each.detect("zorb", image, threshold=0.01)
        assert found.unknown_words == () and len(found)
    assert loaded.detect("zorb", image, threshold=0.01) == taught.detect("zorb", image, threshold=0.01)
    assert len(loaded.segment("zorb", image, threshold=0.01))
    assert agent.detect("zorb", image).unknown_words == ("zorb",)
    card = (folder / "CARD.md").read_text("utf-8")
    assert "| zorb |" in card and "AP50 before" in card and "'default'" in card


def test_a_run_tells_what_it_learned_from(straight: tuple[Path, Report, VisionAgent], marked: AnnotationSet) -> None:
    folder, report, _ = straight
    assert report.images == (len(marked.train), len(marked.validation))
    assert set(report.names) == {"zorb", "plink", "trell"}
    assert report == Report.model_validate_json((folder / "report.json").read_text("utf-8"))
    assert not list(folder.rglob("*.partial"))


def test_another_set_or_other_settings_are_another_run(
    straight: tuple[Path, Report, VisionAgent], marked: AnnotationSet, drawn: Path, agent: VisionAgent
) -> None:
    folder = straight[0]
    with pytest.raises(ConfigError, match="its settings is"):
        finetune_boxes(agent, marked, folder, settings(rate=1e-2), tell=lambda _: None)
    with pytest.raises(ConfigError, match="its data is"):
        other = read_annotations(drawn, validation=0.7)
        finetune_boxes(agent, other, folder, settings(), tell=lambda _: None)


def test_memory_is_forecast_and_a_batch_that_fits_is_named(tmp_path: Path) -> None:
    assert "GiB are free" in check_memory(3_000_000, 700_000, 8, 40, 8 * 2**30)
    with pytest.raises(InputError, match=r"`batch` 64 needs about .* free: use a batch of \d+"):
        check_memory(3_000_000, 700_000, 64, 40, 2 * 2**30)
    with pytest.raises(InputError, match="no batch fits"):
        check_memory(3_000_000, 700_000, 8, 40, 2**20)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:     2048 kB\n", "utf-8")
    assert free_memory(tmp_path) == 2048 * 1024
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("1000000\n", "utf-8")
    (tmp_path / "sys/fs/cgroup/memory.current").write_text("400000\n", "utf-8")
    assert free_memory(tmp_path) == 600_000


def test_a_name_is_asked_for_in_plain_words() -> None:
    assert wordings("Traffic_Light") == ("traffic light", "Traffic_Light", "a traffic light", "traffic lights")


def told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code, capsys.readouterr().err


def test_the_command_tells_faults_line_by_line_before_anything_is_made(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(drawn.read_text("utf-8"))
    content["annotations"][0]["bbox"] = [1, 2, 3]
    content["annotations"][1]["category_id"] = 44
    bad, out = tmp_path / "bad.json", tmp_path / "run"
    bad.write_text(json.dumps(content), "utf-8")
    code, err = told(
        ["finetune", "default", "--coco", str(bad), "--images", str(drawn.parent), "--out", str(out)], capsys
    )
    assert code == 2 and not out.exists()
    assert "box not of four numbers: " in err and "unknown category id: " in err and "2 faults" in err
    assert "annotation 0 of 000.jpg" in err


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ([], "`data` must be one of --data, --coco"),
        (["--data", "a", "--yolo", "b"], "`data` must be one of --data, --coco"),
        (["--data", "no/such"], "`data` must be a file or a folder that exists"),
        (["--coco", "DRAWN", "--steps", "0"], "`steps` must be at least 1"),
        (["--coco", "DRAWN", "--batch", "0"], "`batch` must be at least 1"),
        (["--coco", "DRAWN", "--validation", "2"], "`validation` must be a share"),
        (["--coco", "DRAWN", "--keep", "no/such"], "`data` must be a file or a folder that exists"),
    ],
)
def test_arguments_of_the_command_are_checked(
    arguments: list[str], wanted: str, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(drawn) if each == "DRAWN" else each for each in arguments]
    code, err = told(["finetune", "default", "--out", str(tmp_path / "run"), *given], capsys)
    assert code == 2 and wanted in err and not (tmp_path / "run").exists()
