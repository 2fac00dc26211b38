"""The cache of images: its bound goes with the model and is settable; maps are kept where a route reads them."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import tiny_backbone
from PIL import Image

from vision_agent import ConfigError, RouteSpec, VisionAgent
from vision_agent.inference import image_cache
from vision_agent.inference.image_cache import default_cache_bytes
from vision_agent.model.backbone import TilingSettings
from vision_agent.model.checkpoint import save_backbone
from vision_agent.model.devices import device_memory
from vision_agent.routing.adapter import new_route, save_adapter

SETTINGS = Path(__file__).parents[1] / "published" / "settings"
IMAGE = Image.effect_noise((120, 90), 60).convert("RGB")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cache") / "tiny"
    save_backbone(tiny_backbone(), path, torch.float32)
    return path


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> Callable[[VisionAgent], list[Any]]:
    """Note each image that an agent encodes."""

    def watch(agent: VisionAgent) -> list[Any]:
        calls: list[Any] = []
        encode = agent.backbone.encode_image

        def noted(image: Image.Image, max_tiles: int | None = None) -> Any:
            calls.append(image.size)
            return encode(image, max_tiles)

        monkeypatch.setattr(agent.backbone, "encode_image", noted)
        return calls

    return watch


def adapter(folder: Path, agent: VisionAgent, spec: RouteSpec) -> Path:
    save_adapter(folder, new_route(agent.backbone, spec, torch.Generator().manual_seed(0)), agent.backbone)
    return folder


def test_maps_are_kept_only_where_a_route_reads_them(folder: Path, tmp_path: Path, encoded: Any) -> None:
    agent = VisionAgent.from_pretrained(folder, device="cpu")
    calls = encoded(agent)
    expected = agent.ask("what is it?", IMAGE, max_new_tokens=3)
    entry = agent._engine.encode_image(IMAGE)
    assert not entry.encoded.features.maps and len(calls) == 1
    plain = agent.backbone.encode_image(IMAGE)
    assert torch.equal(entry.encoded.tokens_TC, plain.tokens_TC)
    assert entry.encoded.nbytes < plain.nbytes
    # One that reads the pixels does not need them either.
    agent.load_adapter(adapter(tmp_path / "ocr", agent, RouteSpec(token="[OCR]", decoder="ocr", num_queries=1)))
    assert not agent._engine.encode_image(IMAGE).encoded.features.maps
    # An image that is held by a chat, while a route is loaded, is encoded once more.
    held = agent._engine.encode_image(IMAGE)
    agent.load_adapter(adapter(tmp_path / "det", agent, RouteSpec(token="[DET]", decoder="box", num_queries=2)))
    for found, kept in zip(held.features().maps, plain.features.maps, strict=True):
        assert torch.equal(found, kept)
    assert agent._engine.encode_image(IMAGE).encoded.features.maps
    del calls[:]
    assert agent.detect("dog", IMAGE, threshold=0) == agent.detect("dog", IMAGE, threshold=0)
    assert not calls
    assert agent.ask("what is it?", IMAGE, max_new_tokens=3).text == expected.text


@pytest.mark.parametrize(("bound", "times"), [(0, 2), (None, 1), (10**6, 1), (1000, 2)])
def test_the_bound_is_settable(folder: Path, bound: int | None, times: int, encoded: Any) -> None:
    agent = VisionAgent.from_pretrained(folder, device="cpu", image_cache_bytes=bound)
    calls = encoded(agent)
    answers = {agent.ask(question, IMAGE, max_new_tokens=2).text for question in ("what?", "what?")}
    assert len(calls) == times and len(answers) == 1


@pytest.mark.parametrize("bound", [-1, True, 1.5, "1GiB"])
def test_a_bound_that_is_none_is_refused_before_loading(bound: Any, tmp_path: Path) -> None:
    for make in (VisionAgent, lambda **settings: VisionAgent.from_pretrained(tmp_path / "nothing", **settings)):
        with pytest.raises(ConfigError, match="image_cache_bytes"):
            make(image_cache_bytes=bound)


def published(name: str, hidden: int, width: int) -> Any:
    """What the bound is made of, for a published size."""
    size = json.loads((SETTINGS / f"{name}.json").read_text("utf-8"))["config.json"]["vision_config"]["image_size"]
    vision = SimpleNamespace(image_size=size, patch_size=[14, 14])
    return SimpleNamespace(
        model=SimpleNamespace(config=SimpleNamespace(vision_config=vision)),
        tiling=TilingSettings(448, (0, 0, 0), (1, 1, 1)),
        tokens_per_tile=256,
        hidden_size=hidden,
        feature_widths=(width,),
        dtype=torch.bfloat16,
        device=torch.device("cpu"),
    )


def test_the_default_bound_goes_with_the_model_and_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_cache, "device_memory", lambda device: 141 * 2**30)
    largest = published("InternVL3-38B-hf", 5120, 3200)
    # One image of 13 tiles: tokens and maps, as much again of what decoders make of them, and the pixels.
    one = 13 * (2 * 2 * (256 * 5120 + 1024 * 3200) + 3 * 448 * 448)
    assert default_cache_bytes(largest) == 8 * one > 2**30
    assert default_cache_bytes(published("InternVL3-2B-hf", 1536, 1024)) == pytest.approx(8 * one * 0.33, rel=0.05)
    assert default_cache_bytes(tiny_backbone()) == 256 * 2**20
    monkeypatch.setattr(image_cache, "device_memory", lambda device: 8 * 2**30)
    assert default_cache_bytes(largest) == 2**29
    assert device_memory(torch.device("cpu")) > 2**30
