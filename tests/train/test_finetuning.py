"""`vision-agent finetune MODEL --data x.jsonl`: what is learned, kept, written, resumed; on tiny InternVLs."""

import json
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import original_format as official
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import InternVLForConditionalGeneration

from vision_agent import GenerationOptions, VisionAgent
from vision_agent.checkpoint_export import export_checkpoint
from vision_agent.cli.main import main
from vision_agent.data.dialogues.dialogue_sets import DialogueSet, read_dialogues
from vision_agent.data.dialogues.drawn_dialogues import KINDS, write_dialogues
from vision_agent.errors import ConfigError, InputError
from vision_agent.images.loading import load_image
from vision_agent.model.backbone import Backbone
from vision_agent.model.checkpoint import load_backbone
from vision_agent.model.lora import apply_lora
from vision_agent.train.tuning.finetuning_dialogues import TuningReport, finetune_dialogues
from vision_agent.train.tuning.tuning_loop import read_log
from vision_agent.train.tuning.tuning_settings import RECIPES, Tuning

SHORT = GenerationOptions(max_new_tokens=40)
EVERY_STEP = 1e-9


def settings(**more: Any) -> Tuning:
    usual = {"rate": 1e-2, "dropout": 0.0, "weight_decay": 0.0, "batch": 12, "micro": 12, "max_tiles": 1}
    usual |= {"min_frames": 2, "max_frames": 2, "checkpointing": False, "evaluations": 1}
    return Tuning(**(usual | more))


@dataclass(frozen=True)
class Tuned:
    """A run on two dialogues of each kind."""

    base: Path
    run: Path
    lines: tuple[dict[str, Any], ...]
    folder: Path
    report: TuningReport


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny InternVL in the original format, its context long enough for a video."""
    folder = tmp_path_factory.mktemp("base")
    official.write_folder(folder, "qwen2", llm_config__max_position_embeddings=2048)
    return folder


@pytest.fixture(scope="module")
def meta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A meta file with two dialogues of each kind."""
    folder = tmp_path_factory.mktemp("dialogues")
    sets = {}
    for kind in KINDS:
        path = write_dialogues(folder / kind, kind, 2)
        sets[kind] = {"root": str(folder / kind), "annotation": str(path), "data_augment": False, "repeat_time": 1}
    (folder / "meta.json").write_text(json.dumps(sets))
    return folder / "meta.json"


@pytest.fixture(scope="module")
def tuned(base: Path, meta: Path, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    run = tmp_path_factory.mktemp("run")
    report = finetune_dialogues(base, read_dialogues(meta), run, settings(steps=75))
    assert report is not None
    lines = [
        json.loads(line) | {"folder": str(meta.parent / kind), "kind": kind}
        for kind in KINDS
        for line in (meta.parent / kind / f"{kind}.jsonl").read_text().splitlines()
    ]
    return Tuned(base, run, tuple(lines), meta.parent, report)


def asked(agent: VisionAgent, line: dict[str, Any]) -> str:
    """Ask what a line asks, through the public verb."""
    turns = [turn["value"] for turn in line["conversations"] if turn["from"] == "human"]
    names = line.get("image", [])
    images: Any = [load_image(Path(line["folder"]) / name) for name in ([names] if isinstance(names, str) else names)]
    question = turns[0]
    if "video" in line:
        images = [load_image(path) for path in sorted((Path(line["folder"]) / line["video"]).iterdir())]
        question = question.replace("<video>", "Frame-1: <image>\nFrame-2: <image>")
    return agent.ask(question, images or None, max_tiles=1 if images else None, options=SHORT).text


def test_every_kind_is_learned_and_answered(tuned: Tuned) -> None:
    assert tuned.report.last_loss < 0.1 < tuned.report.first_loss
    assert tuned.report.apart < 1e-4 and tuned.report.dialogues == (12, 0)
    agent = VisionAgent.from_pretrained(tuned.base, lora=tuned.run / "adapters" / "lora", dtype="fp32")
    # A system turn is no argument of `ask`.
    told = [line for line in tuned.lines if line["conversations"][0]["from"] == "human"]
    for line in told:
        # The marks of boxes are no part of an answer's text.
        said = re.sub("</?(?:ref|box)>", "", line["conversations"][-1]["value"])
        assert asked(agent, line) == said, line["kind"]
    assert {line["kind"] for line in told} == set(KINDS)
    assert (tuned.run / "curve.png").is_file()


def test_the_adapter_is_pefts_and_merges_and_exports(tuned: Tuned, tmp_path: Path) -> None:
    lora = tuned.run / "adapters" / "lora"

    def load(folder: Path, **more: Any) -> Backbone:
        return load_backbone(folder, device="cpu", dtype="fp32", **more)

    shown = load(tuned.base).encode("What colour is the ground?", load_image(tuned.folder / "question/question-1.png"))
    merged = load(tuned.base, lora=lora).logits(shown.input_ids, shown.pixel_values)
    beside = load(tuned.base)
    plain = beside.logits(shown.input_ids, shown.pixel_values)
    apply_lora(beside.model, [lora], merge=False)
    torch.testing.assert_close(beside.logits(shown.input_ids, shown.pixel_values), merged, atol=1e-4, rtol=1e-5)
    assert float((merged - plain).abs().max()) > 0.1

    for format in ("native", "original"):
        export_checkpoint(tuned.base, tmp_path / format, adapters=[lora], format=format)  # type: ignore[arg-type]
        found = load(tmp_path / format).logits(shown.input_ids, shown.pixel_values)
        torch.testing.assert_close(found, merged, atol=1e-4, rtol=1e-5)

    # Others: transformers and PEFT alone, on the base as transformers loads it; and an independent reader.
    export_checkpoint(tuned.base, tmp_path / "base", format="native")
    model: Any = PeftModel.from_pretrained(
        InternVLForConditionalGeneration.from_pretrained(tmp_path / "base").float(), str(lora)
    ).eval()
    with torch.no_grad():
        theirs = model(input_ids=shown.input_ids[None], pixel_values=shown.pixel_values).logits[0]
    torch.testing.assert_close(theirs, merged, atol=1e-3, rtol=1e-4)
    content = json.loads((tmp_path / "original" / "config.json").read_text())
    context = beside.model.config.image_token_id
    state = load_file(tmp_path / "original" / "model.safetensors")
    reference = official.reference_logits(state, content, shown.input_ids.tolist(), shown.pixel_values, context)
    torch.testing.assert_close(reference, merged, atol=1e-3, rtol=1e-4)


@pytest.fixture(scope="module")
def question_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dialogues(tmp_path_factory.mktemp("questions"), "question", 6)


@pytest.fixture(scope="module")
def questions(question_file: Path) -> DialogueSet:
    """Six questions."""
    return read_dialogues(question_file)


def few(**more: Any) -> Tuning:
    """Few steps, with dropout: what a step draws counts."""
    return settings(**({"steps": 6, "batch": 3, "micro": 1, "dropout": 0.1, "save_minutes": EVERY_STEP} | more))


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "adapters" / "lora" / "adapter_model.safetensors")


def test_a_killed_run_ends_as_one_that_was_not(base: Path, questions: DialogueSet, tmp_path: Path) -> None:
    whole = finetune_dialogues(base, questions, tmp_path / "whole", few())
    expected, log = weights(tmp_path / "whole"), read_log(tmp_path / "whole")
    fork = multiprocessing.get_context("fork")
    for name, at, often in (("early", 0, 1e9), ("late", 4, EVERY_STEP)):

        def killed(step: int, loss: float, at: int = at) -> None:
            if step == at:
                os.kill(os.getpid(), signal.SIGKILL)

        run = tmp_path / name
        child = fork.Process(
            target=finetune_dialogues, args=(base, questions, run, few(save_minutes=often)), kwargs={"on_step": killed}
        )
        child.start()
        child.join(60)
        assert child.exitcode == -signal.SIGKILL and not (run / "report.json").exists()
        finetune_dialogues(base, questions, run, few())
        assert read_log(run) == log
        found = weights(run)
        assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)
    # Once more: nothing is left to do, and nothing changes. Another recipe is refused.
    again = finetune_dialogues(base, questions, tmp_path / "whole", few())
    assert whole is not None and again is not None and again.last_loss == whole.last_loss
    with pytest.raises(ConfigError, match="another recipe"):
        finetune_dialogues(base, questions, tmp_path / "whole", few(rank=4))


def test_a_run_that_is_killed_at_moments_of_chance_ends_the_same(
    base: Path, questions: DialogueSet, tmp_path: Path
) -> None:
    """Wherever it is: while it loads, between steps, in a step, while it saves, or while it writes the adapter."""
    began = time.monotonic()
    finetune_dialogues(base, questions, tmp_path / "whole", few(steps=30))
    whole = time.monotonic() - began
    fork, moments = multiprocessing.get_context("fork"), random.Random(23)
    killed = []
    for _ in range(5):
        child = fork.Process(target=finetune_dialogues, args=(base, questions, tmp_path / "run", few(steps=30)))
        child.start()
        child.join(moments.uniform(0.1, 0.6) * whole)
        child.kill()
        child.join(60)
        killed.append(child.exitcode)
    assert killed.count(-signal.SIGKILL) >= 2, "the moments come too late"
    finetune_dialogues(base, questions, tmp_path / "run", few(steps=30))
    assert read_log(tmp_path / "run") == read_log(tmp_path / "whole")
    found, expected = weights(tmp_path / "run"), weights(tmp_path / "whole")
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


def test_packs_and_small_passes_give_the_same_steps(base: Path, meta: Path, tmp_path: Path) -> None:
    data = read_dialogues(meta)
    losses = {}
    ways: dict[str, dict[str, Any]] = {
        "padded": {},
        "packed": {"pack": True, "max_length": 300},
        "one by one": {"micro": 1},
    }
    ways["checkpointed"] = {"checkpointing": True}
    for name, way in ways.items():
        if name != "padded":
            way["seed"] = 0
        finetune_dialogues(base, data, tmp_path / name, settings(steps=3, **({"max_length": 300} | way)))
        losses[name] = [line["loss"] for line in read_log(tmp_path / name)]
    for name, found in losses.items():
        assert found == pytest.approx(losses["padded"], abs=1e-4), name


def test_two_processes_give_the_loss_of_one(base: Path, question_file: Path, tmp_path: Path) -> None:
    options = [
        "--data",
        str(question_file),
        "--steps",
        "3",
        "--batch",
        "3",
        "--micro",
        "1",
        "--rate",
        "0.01",
        "--max-tiles",
        "1",
    ]
    command = ["finetune", str(base), *options, "--validation", "0.4", "--device", "cpu"]
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "-m", "vision_agent"]
    subprocess.run([*launch, *command, "--out", str(tmp_path / "two")], check=True, capture_output=True, timeout=200)
    with pytest.raises(SystemExit) as left:
        main([*command, "--out", str(tmp_path / "one")])
    assert left.value.code == 0
    one, two = (read_log(tmp_path / name) for name in ("one", "two"))
    assert [line.keys() for line in one] == [line.keys() for line in two] and len(one) == 7
    for mine, theirs in zip(one, two, strict=True):
        assert theirs == pytest.approx(mine, abs=2e-5)
    found, expected = weights(tmp_path / "two"), weights(tmp_path / "one")
    for key, each in expected.items():
        torch.testing.assert_close(found[key], each, atol=1e-4, rtol=1e-3)


def test_whole_weights_and_the_projector(base: Path, questions: DialogueSet, tmp_path: Path) -> None:
    before = load_backbone(base, device="cpu", dtype="fp32").model.state_dict()
    changed = {}
    for method in ("full", "projector"):
        run = tmp_path / method
        report = finetune_dialogues(base, questions, run, few(method=method, rate=1e-3, steps=2), export="original")
        assert report is not None and report.checkpoint == str(run / "checkpoint") and report.apart < 1e-4
        after = load_backbone(run / "checkpoint", device="cpu", dtype="fp32").model.state_dict()
        changed[method] = {key.split(".")[1] for key in before if not torch.equal(after[key], before[key])}
        assert json.loads((run / "checkpoint" / "config.json").read_text())["model_type"] == "internvl_chat"
    assert changed["projector"] == {"multi_modal_projector"}
    assert changed["full"] == {"multi_modal_projector", "language_model", "weight"}  # "weight": of lm_head


def test_bfloat16_and_the_tower(base: Path, questions: DialogueSet, tmp_path: Path) -> None:
    report = finetune_dialogues(
        base, questions, tmp_path / "run", few(dtype="bfloat16", tower=True, steps=2, checkpointing=True)
    )
    assert report is not None and report.apart == 0.0
    names = weights(tmp_path / "run")
    assert any("vision_tower" in name for name in names) and any("language_model" in name for name in names)
    assert all(each.dtype == torch.float32 for each in names.values())


def test_too_little_memory_is_told_before_the_first_step(
    base: Path, questions: DialogueSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vision_agent.train.tuning import tuning_memory

    monkeypatch.setattr(tuning_memory, "free_memory", lambda: 100 * 2**20)
    with pytest.raises(InputError, match=r"needs about 0\.\d GiB; you have 0\.1 GiB: use --checkpointing, --micro 1"):
        finetune_dialogues(base, questions, tmp_path / "run", few(micro=3))
    assert not (tmp_path / "run" / "state.pt").exists()


def test_recipes_are_those_of_the_scripts() -> None:
    # Of internvl_chat/shell/internvl2.0, 2.5 and 3.0, as published.
    facts: dict[str, dict[str, Any]] = {
        "internvl2-lora": {"rank": 16, "rate": 4e-5, "weight_decay": 0.01, "micro": 4, "max_length": 4096},
        "internvl2-26b-lora": {"rate": 2e-5, "weight_decay": 0.05, "micro": 2, "batch": 16},
        "internvl2_5-8b-lora": {"rate": 4e-5, "weight_decay": 0.05, "max_length": 8192, "max_tiles": 6},
        "internvl2_5-lora-coco": {"rank": 128, "batch": 512},
        "internvl2_5-78b-full": {"method": "full", "micro": 1, "batch": 128, "rate": 2e-5},
        "internvl3-1b-full": {"rate": 1e-5, "max_tiles": 12, "max_length": 16384, "weight_decay": 0.05},
        "internvl3-8b-full": {"rate": 2e-5, "micro": 4},
    }
    for name, expected in facts.items():
        found = Tuning.of(name).model_dump()
        assert {key: found[key] for key in expected} == expected, name
    assert len(RECIPES) == 50
    assert Tuning.of("internvl2-lora", rank=8, micro=None).rank == 8


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--recipe", "internvl9"], "`recipe` must be one of internvl2-"),
        (["--rank", "0"], "`rank` must be greater than or equal to 1, but got 0"),
        (["--quantization", "4bit", "--device", "cpu"], "'4bit' runs on CUDA only"),
        (["--method", "full", "--quantization", "4bit"], "`quantization` must be left out unless `method` is 'lora'"),
        (["--keep", "x"], "`keep` must be left out for dialogues"),
        (["--max-frames", "4"], "`max_frames` must be at least 8, but got 4"),
        (["--max-length", "8"], "fault"),
    ],
)
def test_what_makes_no_sense_is_said(
    base: Path, meta: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["finetune", str(base), "--data", str(meta), "--out", str(tmp_path / "run"), *arguments])
    assert left.value.code == 2 and said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_options_of_dialogues_are_no_options_of_boxes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["finetune", "default", "--coco", "x.json", "--recipe", "internvl2-lora", "--out", str(tmp_path / "run")])
    assert left.value.code == 2 and "`recipe` must be left out for boxes" in capsys.readouterr().err


def test_a_missing_package_is_told_with_its_line(
    base: Path, questions: DialogueSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    from vision_agent.errors import MissingExtraError

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "peft" else find(name, *more))
    with pytest.raises(MissingExtraError, match=r'peft.*pip install "internvl-vision-agent\[finetune\]"'):
        finetune_dialogues(base, questions, tmp_path / "run", few())
