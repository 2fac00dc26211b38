"""Adapters: saved and loaded as folders, onto their own base model alone."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import tiny_backbone
from PIL import Image

from vision_agent import AdapterMismatchError, CheckpointError, RouteSpec, UnknownDecoderError, VisionAgent
from vision_agent.errors import RouteError
from vision_agent.model.checkpoint import load_backbone, save_backbone
from vision_agent.routing.adapter import new_route, save_adapter

DET = RouteSpec(token="[DET]", decoder="box", num_queries=4)
IMAGE = Image.new("RGB", (90, 60), "green")


@pytest.fixture
def adapter(checkpoint: Path, tmp_path: Path) -> Path:
    backbone = load_backbone(checkpoint)
    route = new_route(backbone, DET, torch.Generator().manual_seed(1))
    save_adapter(tmp_path / "det", route, backbone, torch.float32)
    return tmp_path / "det"


def test_round_trip_gives_the_same_detections(checkpoint: Path, tmp_path: Path) -> None:
    backbone = load_backbone(checkpoint)
    route = new_route(backbone, DET, torch.Generator().manual_seed(1))
    save_adapter(tmp_path / "det", route, backbone, torch.float32)
    agent = VisionAgent.from_pretrained(checkpoint, adapters=[tmp_path / "det"])
    loaded = agent.routes["det"]
    assert loaded.spec == DET
    for name, tensor in route.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    row = backbone.model.get_input_embeddings().weight[route.token_id]
    assert torch.equal(agent.backbone.model.get_input_embeddings().weight[loaded.token_id], row)
    first = agent.detect("a dog", IMAGE, threshold=0)
    again = VisionAgent.from_pretrained(checkpoint, adapters=[tmp_path / "det"]).detect("a dog", IMAGE, threshold=0)
    assert len(first) > 0
    assert first == again


def test_adapters_inside_a_checkpoint_load_by_themselves(checkpoint: Path, adapter: Path) -> None:
    shutil.copytree(adapter, checkpoint / "adapters" / "det")
    assert list(VisionAgent.from_pretrained(checkpoint).routes) == ["det"]


def test_loading_a_second_adapter_leaves_the_first_alone(checkpoint: Path, adapter: Path, tmp_path: Path) -> None:
    backbone = load_backbone(checkpoint)
    spec = DET.model_copy(update={"token": "[OTHER]"})
    save_adapter(tmp_path / "other", new_route(backbone, spec), backbone, torch.float32)
    agent = VisionAgent.from_pretrained(checkpoint, adapters=[adapter])
    before = agent.detect("a dog", IMAGE, threshold=0)
    agent.load_adapter(tmp_path / "other")
    assert sorted(agent.routes) == ["det", "other"]
    assert agent.routes["det"].token_id != agent.routes["other"].token_id
    assert agent.detect("a dog", IMAGE, threshold=0) == before


def test_adapter_of_another_base_is_refused(adapter: Path, tmp_path: Path) -> None:
    save_backbone(tiny_backbone(seed=5), tmp_path / "stranger", torch.float32)
    with pytest.raises(AdapterMismatchError, match=r"'tiny'.*not on 'stranger'"):
        VisionAgent.from_pretrained(tmp_path / "stranger", adapters=[adapter])


def test_half_written_adapter_is_refused(checkpoint: Path, adapter: Path) -> None:
    weights = adapter / "adapter.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        VisionAgent.from_pretrained(checkpoint, adapters=[adapter])
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"no adapter\.safetensors"):
        VisionAgent.from_pretrained(checkpoint, adapters=[adapter])


def test_unknown_decoder_is_named(checkpoint: Path, adapter: Path) -> None:
    info = json.loads((adapter / "adapter.json").read_text())
    info["route"]["decoder"] = "telepathy"
    (adapter / "adapter.json").write_text(json.dumps(info))
    with pytest.raises(UnknownDecoderError, match=r"'telepathy'.*box"):
        VisionAgent.from_pretrained(checkpoint, adapters=[adapter])


def test_settings_the_decoder_does_not_take_are_named(checkpoint: Path, adapter: Path) -> None:
    info = json.loads((adapter / "adapter.json").read_text())
    info["decoder_settings"]["colour"] = "blue"
    (adapter / "adapter.json").write_text(json.dumps(info))
    with pytest.raises(CheckpointError, match="colour"):
        VisionAgent.from_pretrained(checkpoint, adapters=[adapter])


def test_an_agent_without_the_route_says_what_to_do(checkpoint: Path) -> None:
    with pytest.raises(RouteError, match="load_adapter"):
        VisionAgent.from_pretrained(checkpoint).run_route("det", "dog", IMAGE)
