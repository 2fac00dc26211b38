"""What a second [DET] call about an image of many tiles costs: its phrases, and nothing of the image."""

from pathlib import Path
from typing import Any

import original_format as official
import pytest
import torch
from PIL import Image
from torch import Tensor

from vision_agent import RouteSpec, VisionAgent
from vision_agent.routing.adapter import new_route, save_adapter


@pytest.mark.parametrize("block", ["full", "causal"])
def test_only_the_phrases_of_a_remembered_image_are_read(
    block: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    official.write_folder(tmp_path / "original", "qwen2")
    agent = VisionAgent.from_pretrained(tmp_path / "original", device="cpu")
    spec = RouteSpec(token="[DET]", decoder="box", num_queries=4, block=block)
    save_adapter(tmp_path / "det", new_route(agent.backbone, spec), agent.backbone, torch.float32)
    agent.load_adapter(tmp_path / "det")
    image = Image.effect_mandelbrot((112, 84), (-2, -1, 1, 1), 20).convert("RGB")
    assert agent.backbone.grid_for(*image.size).tile_count == 13
    work: dict[str, int] = {}
    parts = {
        "tiles": agent.backbone.model.model.vision_tower,
        "tokens": agent.backbone.model.model.language_model,
        "proposals": agent.routes["det"].decoder.describe,
    }

    def counting(name: str, size: Any) -> Any:
        def hook(module: Any, arguments: Any, keywords: Any) -> None:
            work[name] = work.get(name, 0) + size(arguments, keywords)

        return hook

    parts["tiles"].register_forward_pre_hook(counting("tiles", lambda a, k: len(k["pixel_values"])), with_kwargs=True)
    parts["tokens"].register_forward_pre_hook(
        counting("tokens", lambda a, k: k["inputs_embeds"].shape[1]), with_kwargs=True
    )
    described = type(parts["proposals"]).hidden

    def hidden(self: Any, maps: Any, boxes_BN4: Tensor) -> Tensor:
        work["regions"] = work.get("regions", 0) + boxes_BN4.shape[1]
        seen: Tensor = described(self, maps, boxes_BN4)
        return seen

    monkeypatch.setattr(type(parts["proposals"]), "hidden", hidden)
    agent.detect("red car", image, threshold=0.0)
    first = dict(work)
    work.clear()
    again = agent.detect("dog", image, threshold=0.0)
    own = len(agent.backbone.text_ids("dog")) + 1 + 4
    assert first["tiles"] == 13 and first["regions"] > 0 and first["tokens"] > 13 * 4
    assert work == {"tokens": own + 1}  # the prompt's last token goes with them
    assert 3 * work["tokens"] < first["tokens"]
    agent.clear_cache()
    fresh = agent.detect("dog", image, threshold=0.0)
    assert [item.label for item in again] == [item.label for item in fresh] and len(fresh) > 0
    for one, other in zip(again, fresh, strict=True):
        assert abs(one.score - other.score) < 1e-4
