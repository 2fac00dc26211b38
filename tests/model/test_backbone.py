"""The backbone: loading, tiling, stitched features, prompts."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vision_agent import CheckpointError, ConfigError, InputError, VisionAgent
from vision_agent.model.backbone import Backbone
from vision_agent.model.checkpoint import load_backbone
from vision_agent.model.devices import choose_dtype
from vision_agent.model.tower import PYRAMID_STRIDES, LiteTower, LiteTowerConfig


def noise(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width * height)
    return Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))


def test_the_small_tower_gives_four_maps_and_the_grid_of_the_third() -> None:
    config = LiteTowerConfig()
    tower = LiteTower(config).eval()
    with torch.no_grad():
        seen = tower(torch.randn(2, 3, 64, 96))
    shapes = [tuple(map_BCHW.shape) for map_BCHW in seen.feature_maps]
    expected = zip(config.pyramid_widths, PYRAMID_STRIDES, strict=True)
    assert shapes == [(2, width, 64 // stride, 96 // stride) for width, stride in expected]
    assert seen.last_hidden_state.shape == (2, 4 * 6, config.hidden_size)


def test_tiles_are_the_resized_image_row_by_row_with_the_thumbnail_last(backbone: Backbone) -> None:
    image = noise(300, 190)
    grid = backbone.grid_for(*image.size)
    tiles = backbone.tiles(image, grid)
    assert (grid.columns, grid.rows) == (3, 2)
    assert tiles.shape == (7, 3, 56, 56)
    canvas = np.asarray(image.resize((168, 190), Image.Resampling.BICUBIC).resize((168, 112), Image.Resampling.BICUBIC))
    mean, std = np.array(backbone.tiling.mean) * 255, np.array(backbone.tiling.std) * 255
    second_row_first = (canvas[56:112, :56] - mean) / std
    np.testing.assert_allclose(tiles[3].permute(1, 2, 0).numpy(), second_row_first, atol=1e-5)


def test_tiles_equal_transformers_own_processor(backbone: Backbone) -> None:
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    processor = GotOcr2ImageProcessorPil(
        size={"height": 56, "width": 56}, crop_to_patches=True, min_patches=1, max_patches=6
    )
    processor.image_mean, processor.image_std = list(backbone.tiling.mean), list(backbone.tiling.std)
    image = noise(310, 150)  # landscape: Pillow 13 resizes portraits in another order
    expected = torch.as_tensor(np.array(processor(image, return_tensors="np")["pixel_values"]))
    torch.testing.assert_close(backbone.tiles(image, backbone.grid_for(*image.size)), expected, atol=1e-4, rtol=0)


def test_dense_features_are_tile_features_stitched_over_the_image(backbone: Backbone) -> None:
    image = noise(300, 190)
    encoded = backbone.encode_image(image)
    (stitched,) = encoded.features.maps
    assert stitched.shape == (1, 32, 2 * 4, 3 * 4)
    tiles = backbone.tiles(image, encoded.grid)
    _, (maps,) = backbone.see(tiles[4:5])  # second row, second column
    torch.testing.assert_close(stitched[0, :, 4:8, 4:8], maps[0], atol=1e-5, rtol=1e-5)
    assert encoded.tokens_TC.shape == (7 * 4, 64)


def test_prompt_holds_a_place_for_each_image_token(backbone: Backbone) -> None:
    ids = backbone.prompt_ids("what is it?", [8, 4])
    assert ids.count(backbone.model.config.image_token_id) == 12
    text = backbone.decode_text(ids)
    assert text.index("<img>") < text.index("what is it?") < text.index("assistant")


def test_wrong_number_of_image_tokens_is_an_error(backbone: Backbone) -> None:
    ids = torch.tensor([backbone.prompt_ids("what?", [4])])
    with pytest.raises(CheckpointError, match="4 image places in the prompt for 5 tokens"):
        backbone.embed(ids, torch.zeros(5, 64))


def test_saved_checkpoint_loads_with_the_same_answers(backbone: Backbone, checkpoint: Path) -> None:
    image = noise(80, 80)
    loaded = load_backbone(checkpoint)
    torch.testing.assert_close(loaded.encode_image(image).tokens_TC, backbone.encode_image(image).tokens_TC)
    assert loaded.prompt_ids("a dog", [4]) == backbone.prompt_ids("a dog", [4])
    assert loaded.tiling == backbone.tiling


@pytest.mark.parametrize("question", [None, 5, b"what?", ["what?"]])
def test_a_question_that_is_no_text_is_said_so(question: Any, backbone: Backbone) -> None:
    with pytest.raises(InputError, match="`question`"):
        backbone.encode(question)


@pytest.mark.parametrize("turn", [("who?",), ("who?", None), (1, 2), "ab", ("a", "b", "c"), None])
def test_an_earlier_round_is_a_question_and_an_answer(turn: Any, backbone: Backbone) -> None:
    with pytest.raises(InputError, match=r"`history\[1\]`"):
        backbone.encode("what?", history=[("who?", "me"), turn])


def test_missing_and_half_written_checkpoints_are_clear_errors(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="neither a folder nor a hub name"):
        VisionAgent.from_pretrained(tmp_path / "nowhere", local_files_only=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        VisionAgent.from_pretrained(tmp_path / "empty")
    weights = checkpoint / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="could not be loaded"):
        VisionAgent.from_pretrained(checkpoint)
    weights.unlink()
    with pytest.raises(CheckpointError):
        VisionAgent.from_pretrained(checkpoint)


def test_damaged_or_foreign_config_is_a_clear_error(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text('{"model_type": ')
    with pytest.raises(CheckpointError, match=r"config\.json.*damaged"):
        VisionAgent.from_pretrained(checkpoint)
    (checkpoint / "config.json").write_text(json.dumps(config | {"model_type": "florence2"}))
    with pytest.raises(CheckpointError, match="'florence2'"):
        VisionAgent.from_pretrained(checkpoint)
    config["text_config"]["num_hidden_layers"] = 4
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"makes no sense.*layer_types"):
        VisionAgent.from_pretrained(checkpoint)
    config["text_config"]["layer_types"] = ["full_attention"] * 4
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="do not fit"):
        VisionAgent.from_pretrained(checkpoint)


@pytest.mark.parametrize(
    ("option", "named"),
    [({"device": "abacus"}, "device"), ({"dtype": "float7"}, "dtype"), ({"attn_implementation": "flash"}, "attn")],
)
def test_unknown_options_are_named(checkpoint: Path, option: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        VisionAgent.from_pretrained(checkpoint, **option)  # type: ignore[arg-type]


def test_eager_attention_gives_the_same_features(checkpoint: Path) -> None:
    first, second = (load_backbone(checkpoint, attn_implementation=kind) for kind in ("sdpa", "eager"))
    image = noise(70, 50)
    one, other = first.encode_image(image).tokens_TC, second.encode_image(image).tokens_TC
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_automatic_dtype_on_a_cpu_is_fp32_for_small_models() -> None:
    cpu = torch.device("cpu")
    assert choose_dtype(cpu, "auto", parameters=10_000_000) is torch.float32
    large = choose_dtype(cpu, "auto", parameters=2_000_000_000)
    assert large is (torch.bfloat16 if torch.cpu._is_amx_tile_supported() else torch.float32)
    assert choose_dtype(cpu, "bfloat16", parameters=1) is torch.bfloat16


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_gpu_gives_the_same_features(checkpoint: Path) -> None:
    image = noise(70, 50)
    on_gpu = load_backbone(checkpoint, device="cuda", dtype="float32").encode_image(image).tokens_TC.cpu()
    on_cpu = load_backbone(checkpoint, device="cpu").encode_image(image).tokens_TC
    torch.testing.assert_close(on_gpu, on_cpu, atol=1e-3, rtol=1e-3)
