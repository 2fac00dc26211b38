"""`vision-agent train-route`: a frozen InternVL gets boxes and masks, and writes their token by itself."""

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import original_format as official
import pytest
import torch
from PIL import Image
from refcoco_files import published
from safetensors.torch import load_file

from vision_agent import Detections, VisionAgent
from vision_agent.cli.main import main
from vision_agent.data.annotations.annotated import AnnotatedImage, AnnotatedObject, AnnotationSet
from vision_agent.data.annotations.annotation_sets import read_annotations
from vision_agent.decoders.own_images import route_training
from vision_agent.decoders.own_images.measuring import expressions_found
from vision_agent.decoders.own_images.route_training import RouteReport, RouteTraining, train_route
from vision_agent.errors import InputError, RouteError
from vision_agent.train.adapter_training import AdapterSample

EXAMPLE = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "own_images.py"))


def settings(**more: Any) -> RouteTraining:
    return RouteTraining(**({"steps": 2, "batch": 2, "queries": 2, "writing": 6, "rate": 1e-3} | more))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny InternVL in the original format, with a head that is a table of its own."""
    folder = tmp_path_factory.mktemp("base")
    official.write_folder(folder, "qwen2", max_dynamic_patch=2)
    return folder


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = EXAMPLE["draw_set"](tmp_path_factory.mktemp("set"), 8)
    return path


@pytest.fixture(scope="module")
def marked(drawn: Path) -> AnnotationSet:
    return read_annotations(drawn, validation=0.3)


@pytest.fixture(scope="module")
def trained(
    base: Path, marked: AnnotationSet, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, RouteReport, VisionAgent]:
    run, agent = tmp_path_factory.mktemp("run"), VisionAgent.from_pretrained(base, dtype="fp32", device="cpu")
    return run, train_route("det", agent, marked, run, settings()), agent


def weights(run: Path, name: str = "det") -> dict[str, torch.Tensor]:
    return load_file(run / "adapters" / name / "adapter.safetensors")


def test_the_token_is_written_where_it_is_wanted_and_nowhere_else(
    base: Path, trained: tuple[Path, RouteReport, VisionAgent]
) -> None:
    run, report, agent = trained
    assert report.texts_same == 1.0 and report.astray is not None and report.astray < 0.05
    assert report.written is not None and report.written > 0  # in words that it did not learn from; noise has few ways
    assert report.figures is not None and len(list((run / "seen").glob("*.safetensors"))) == 8
    # The adapter alone carries it: loaded anew, both rows are there, and all other rows are the checkpoint's.
    plain = VisionAgent.from_pretrained(base, dtype="fp32", device="cpu").backbone
    again = VisionAgent.from_pretrained(base, dtype="fp32", device="cpu", adapters=[run])
    token = again.routes["det"].token_id
    for before, after, live in (
        (
            plain.model.get_input_embeddings(),
            again.backbone.model.get_input_embeddings(),
            agent.backbone.model.get_input_embeddings(),
        ),
        (
            plain.model.get_output_embeddings(),
            again.backbone.model.get_output_embeddings(),
            agent.backbone.model.get_output_embeddings(),
        ),
    ):
        rows = len(before.weight)
        assert torch.equal(after.weight[: min(rows, token)], before.weight[: min(rows, token)])
        torch.testing.assert_close(after.weight[token], live.weight[token], atol=1e-2, rtol=1e-2)


def test_kept_prompts_give_what_read_ones_give(
    base: Path, marked: AnnotationSet, trained: tuple[Path, RouteReport, VisionAgent], tmp_path: Path
) -> None:
    agent = VisionAgent.from_pretrained(base, dtype="fp32", device="cpu")
    train_route("det", agent, marked, tmp_path / "run", settings(prompts=True), seen=tmp_path / "seen")
    expected, found = weights(trained[0]), weights(tmp_path / "run")
    for name, each in expected.items():
        torch.testing.assert_close(found[name].float(), each.float(), atol=2e-3, rtol=1e-2)
    kept = load_file(next((tmp_path / "seen").iterdir()))
    assert sum(name.startswith("prompt.") for name in kept) == 4  # keys and values of two layers


def test_masks_of_a_fresh_adapter(base: Path, marked: AnnotationSet, tmp_path: Path) -> None:
    agent = VisionAgent.from_pretrained(base, dtype="fp32", device="cpu")
    losses: list[float] = []
    report = train_route(
        "seg", agent, marked, tmp_path, settings(writing=0, steps=3), on_step=lambda step, loss: losses.append(loss)
    )
    assert report.mask_iou is not None and report.written is None and len(losses) == 3
    assert agent.run_route("seg", "ladder", marked.train[0].load()).decoder == "mask"


def test_the_command_and_what_it_refuses(
    base: Path,
    drawn: Path,
    marked: AnnotationSet,
    tmp_path: Path,
    agent: VisionAgent,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = [
        "--steps",
        "1",
        "--batch",
        "2",
        "--writing",
        "0",
        "--queries",
        "2",
        "--validation",
        "0.3",
        "--device",
        "cpu",
    ]
    with pytest.raises(SystemExit) as left:
        main(["train-route", "det", str(base), "--data", str(drawn), "--out", str(tmp_path / "run"), *options])
    assert left.value.code == 0 and "AP50\t" in capsys.readouterr().out
    with pytest.raises(RouteError, match="has the route 'det' already; `vision-agent finetune` goes on from it"):
        train_route("det", agent, marked, tmp_path / "other")
    with pytest.raises(InputError, match="`kind` must be 'det' or 'seg', but got 'box'"):
        train_route("box", agent, marked, tmp_path / "other")  # type: ignore[arg-type]
    assert not (tmp_path / "other").exists()


def test_an_expression_is_found_by_its_surest_box_at_half_overlap(tmp_path: Path) -> None:
    Image.new("RGB", (100, 100)).save(tmp_path / "a.png")
    objects = (AnnotatedObject("left dog", (0, 0, 10, 10)), AnnotatedObject("right dog", (50, 0, 60, 10)))
    annotated = AnnotatedImage("a.png", tmp_path / "a.png", (100, 100), objects)

    def find(*boxes: tuple[float, float, float, float]) -> Any:
        def found(image: Image.Image, phrases: list[str]) -> Detections:
            scores = [0.9 - 0.1 * place for place in range(len(boxes))]
            xyxy = np.array([box for _ in phrases for box in boxes], dtype=np.float32)
            labels = [phrase for phrase in phrases for _ in boxes]
            return Detections.from_arrays(
                xyxy, scores * len(phrases), labels, image_size=image.size, model="", phrases=phrases
            )

        return found

    assert expressions_found(find((0, 0, 10, 6), (80, 80, 90, 90)), [annotated]) == 0.5  # "left dog", at 0.6
    assert expressions_found(find((0, 0, 10, 4)), [annotated]) == 0.0
    assert expressions_found(find((0, 0, 10, 10)), []) is None


@pytest.mark.parametrize("kind", ["det", "seg"])
def test_expressions_are_asked_of_their_own_image_alone(
    kind: Any, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RefCOCO's files: what an expression means in another image was never said."""
    annotations = read_annotations(published(tmp_path / "refcoco"))
    asked: set[tuple[str, ...]] = set()

    def sample(image: Any, phrases: tuple[str, ...], *more: Any, **named: Any) -> AdapterSample:
        asked.add(tuple(sorted(phrases)))
        return AdapterSample(image, phrases, *more, **named)

    monkeypatch.setattr(route_training, "AdapterSample", sample)
    agent = VisionAgent.from_pretrained(base, dtype="fp32", device="cpu")
    report = train_route(kind, agent, annotations, tmp_path / "run", settings(writing=0))
    assert asked == {("dog in front", "left dog", "right dog", "the dog on the left")}
    if kind == "det":
        assert report.figures is None and report.expressions in (0, 1)  # of one expression
    else:
        assert report.mask_iou is not None


def test_names_are_not_learned_from_expressions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = published(tmp_path / "refcoco")
    with pytest.raises(SystemExit, match="2"):
        main(["finetune", "default", "--data", str(folder), "--out", str(tmp_path / "run")])
    assert "expressions such as RefCOCO's are for `train-route`" in capsys.readouterr().err
