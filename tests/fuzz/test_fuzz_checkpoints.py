"""Broken model folders and adapters: each loads, or is refused by an error of ours, and soon."""

import os
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import tiny_backbone
from mutations import mutated, mutated_json

from vision_agent import CheckpointError, RouteSpec, VisionAgent, VisionAgentError, new_route, save_adapter
from vision_agent.model.checkpoint import load_backbone, save_backbone
from vision_agent.routing.adapter import load_adapter

LONGEST = 5.0  # seconds of computing for one folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with an adapter beside it."""
    folder = tmp_path_factory.mktemp("whole")
    backbone = tiny_backbone()
    save_backbone(backbone, folder / "model", torch.float32)
    route = new_route(backbone, RouteSpec(token="[HERE]", decoder="box", num_queries=2))
    save_adapter(folder / "adapter", route, backbone)
    return folder


def _broken_copy(folder: Path, copy: Path, chance: random.Random) -> str:
    """A copy in which one file is changed, and the name of that file; settings more often than weights."""
    copy.mkdir()
    files = sorted(path for path in folder.iterdir() if path.is_file())
    changed = chance.choice([path for path in files for _ in range(3 if path.suffix == ".json" else 1)])
    for path in files:
        if path != changed:
            os.link(path, copy / path.name)
        elif chance.random() > 0.05:  # else it is missing
            data = path.read_bytes()
            if path.suffix == ".json":
                data = mutated_json(data, chance)
            elif path.suffix == ".safetensors" and chance.random() < 0.8:  # its head says what the rest is
                data = mutated(data[:4000], chance) + data[4000:]
            else:
                data = mutated(data, chance)
            (copy / path.name).write_bytes(data)
    return changed.name


def _run(folder: Path, copies: Path, count: int, load: Callable[[Path], object]) -> Counter[str]:
    done: Counter[str] = Counter()
    for number in range(count):
        copy = copies / str(number)
        name = _broken_copy(folder, copy, random.Random(number))
        begun = time.process_time()
        try:
            load(copy)
            done["loaded"] += 1
        except VisionAgentError:
            done["refused"] += 1
        except Exception as error:
            raise AssertionError(f"copy {number} with a broken {name} raised {error!r}") from error
        assert time.process_time() - begun < LONGEST, f"copy {number} with a broken {name}"
    return done


@pytest.mark.timeout(150)
def test_120_broken_model_folders_load_or_are_refused(whole: Path, tmp_path: Path) -> None:
    done = _run(whole / "model", tmp_path, 120, VisionAgent.from_pretrained)
    assert done.total() == 120 and min(done["loaded"], done["refused"]) > 20


@pytest.mark.timeout(120)
def test_80_broken_adapters_load_or_are_refused(whole: Path, tmp_path: Path) -> None:
    backbone = load_backbone(str(whole / "model"))
    done = _run(whole / "adapter", tmp_path, 80, lambda copy: load_adapter(copy, backbone))
    assert done.total() == 80 and done["loaded"] > 5 and done["refused"] > 20


def test_a_pipe_in_a_folder_is_refused(whole: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        copy = tmp_path / name
        copy.mkdir()
        for path in (whole / "model").iterdir():
            os.link(path, copy / path.name)
        (copy / name).unlink()
        os.mkfifo(copy / name)
        with pytest.raises(CheckpointError, match=name):
            VisionAgent.from_pretrained(copy)
    copy = tmp_path / "adapter"
    copy.mkdir()
    os.link(whole / "adapter" / "adapter.safetensors", copy / "adapter.safetensors")
    os.mkfifo(copy / "adapter.json")
    with pytest.raises(CheckpointError, match=r"adapter\.json"):
        VisionAgent.from_pretrained(whole / "model", adapters=[copy])
