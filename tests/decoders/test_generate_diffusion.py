"""Images by diffusers pipelines: tiny random ones, written and read as the published folders are."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_backbone
from PIL import Image

from vision_agent import VisionAgent
from vision_agent.decoders.image.diffusion import DiffusionDecoder, encode_prompts
from vision_agent.errors import CheckpointError, ConfigError, MissingExtraError
from vision_agent.model.checkpoint import load_backbone, save_backbone
from vision_agent.plugins.route import RouteSpec
from vision_agent.routing.adapter import new_route, save_adapter

diffusers = pytest.importorskip("diffusers")
import transformers  # noqa: E402  (after the check for diffusers, which needs it)

GEN = RouteSpec(token="[GEN]", decoder="diffusion", num_queries=4)
EDIT = RouteSpec(token="[EDIT]", decoder="diffusion-editor", num_queries=4)
SIDE = 32


def clip_tokenizer(folder: Path) -> Any:
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=12)


def clip_text(width: int, kind: Any = transformers.CLIPTextModel) -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=54,
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=12,
        projection_dim=width,
        bos_token_id=52,
        eos_token_id=53,
    )
    return kind(config)


def vae(latents: int, **more: Any) -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=latents,
        norm_num_groups=4,
        sample_size=SIDE,
        **more,
    )


def stable_diffusion(folder: Path) -> Path:
    """A tiny Stable Diffusion with a UNet."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=SIDE // 2,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    pipeline = diffusers.StableDiffusionPipeline(
        vae=vae(4),
        text_encoder=clip_text(16),
        tokenizer=clip_tokenizer(folder / "words"),
        unet=unet,
        scheduler=diffusers.DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder / "pipeline")
    return folder / "pipeline"


def stable_diffusion_3(folder: Path) -> Path:
    """A tiny Stable Diffusion 3: a transformer, a rectified flow, a pooled condition, no third text encoder."""
    torch.manual_seed(0)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=SIDE // 2,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=32,
        pos_embed_max_size=24,
    )
    words = clip_tokenizer(folder / "words")
    pipeline = diffusers.StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=vae(16, shift_factor=0.06),
        text_encoder=clip_text(16, transformers.CLIPTextModelWithProjection),
        tokenizer=words,
        text_encoder_2=clip_text(16, transformers.CLIPTextModelWithProjection),
        tokenizer_2=words,
        text_encoder_3=None,
        tokenizer_3=None,
    )
    pipeline.save_pretrained(folder / "pipeline")
    return folder / "pipeline"


MAKERS = {"unet": stable_diffusion, "transformer": stable_diffusion_3}


@pytest.fixture(scope="module", params=list(MAKERS))
def pipeline(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MAKERS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def artist(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> VisionAgent:
    """A tiny checkpoint whose routes draw with the pipeline."""
    folder = tmp_path_factory.mktemp("artist") / "tiny"
    save_backbone(tiny_backbone(), folder, torch.float32)
    backbone = load_backbone(folder)
    for spec in (GEN, EDIT):
        route = new_route(backbone, spec, torch.Generator().manual_seed(1), pipeline=str(pipeline), inner=32)
        with torch.no_grad():
            route.queries.weight.mul_(20)
        save_adapter(folder / "adapters" / spec.name, route, backbone, torch.float32)
    return VisionAgent.from_pretrained(folder)


def test_the_pipeline_draws(artist: VisionAgent) -> None:
    previews: list[tuple[int, int]] = []
    made = artist.generate(
        "a dog", seed=3, steps=2, size=SIDE, progress=lambda step, steps, _: previews.append((step, steps))
    )
    assert made.size == (SIDE, SIDE)
    assert (made.decoder, made.steps, made.guidance) == ("diffusion", 2, 7.5)
    assert previews == [(1, 2), (2, 2)]
    assert artist.generate("a dog", seed=3, steps=2, size=SIDE) == made
    other = artist.generate("a dog", seed=4, steps=2, size=SIDE)
    assert np.abs(other.to_array().astype(int) - made.to_array()).mean() > 1


def test_the_pipeline_stays_out_of_the_adapter(artist: VisionAgent, pipeline: Path) -> None:
    decoder = artist.routes["gen"].decoder
    assert isinstance(decoder, DiffusionDecoder)
    assert {name.split(".")[0] for name in decoder.state_dict()} <= {"mapper", "pooler"}
    assert decoder.settings["pipeline"] == str(pipeline)


def test_the_condition_has_the_shape_of_the_encoders(artist: VisionAgent) -> None:
    decoder = artist.routes["gen"].decoder
    condition, pooled = decoder.condition(torch.randn(2, 4, 64))
    taught, taught_pooled = encode_prompts(decoder.pipeline, ["a dog", "a cat"])
    assert condition.shape == taught.shape
    assert (pooled is None) == (taught_pooled is None)
    assert pooled is None or pooled.shape == taught_pooled.shape


def test_edits_keep_the_size_and_what_is_masked(artist: VisionAgent) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    mask = np.zeros((40, 50), dtype=bool)
    mask[10:30, 10:40] = True
    whole = artist.edit("a dog", pixels, seed=1, steps=3)
    assert whole.size == (50, 40)
    part = artist.edit("a dog", pixels, mask=mask, seed=1, steps=3)
    assert part.edited
    changed = (part.to_array() != pixels).any(axis=2)
    assert not changed[~mask].any()
    assert changed[mask].mean() > 0.5


def test_a_mapper_learns_the_encoders_condition(artist: VisionAgent) -> None:
    """Noise loss plus distillation goes down, and reaches the mapper alone."""
    decoder = artist.routes["gen"].decoder
    torch.manual_seed(0)
    mapper = [*decoder.mapper.parameters(), *([] if decoder.pooler is None else decoder.pooler.parameters())]
    for parameter in mapper:
        parameter.requires_grad_(True)
    prompts = ["a dog", "a cat"]
    states = torch.randn(2, 4, 64)
    targets = [(prompt, torch.rand(3, SIDE, SIDE)) for prompt in prompts]

    def distance() -> float:
        with torch.no_grad():
            return float((decoder.condition(states)[0] - encode_prompts(decoder.pipeline, prompts)[0]).square().mean())

    before = distance()
    optimiser = torch.optim.Adam(mapper, lr=3e-3)
    for _ in range(40):
        optimiser.zero_grad()
        loss = decoder.loss(states, [0, 1], None, targets)
        torch.autograd.backward(loss)
        optimiser.step()
    assert torch.isfinite(loss)
    assert distance() < 0.7 * before
    pipeline = decoder.pipeline
    core = pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer
    assert all(parameter.grad is None for parameter in core.parameters())


def test_what_is_no_pipeline_is_refused(tmp_path: Path) -> None:
    backbone = tiny_backbone()
    with pytest.raises(CheckpointError, match=r"it has no model_index\.json"):
        new_route(backbone, GEN, pipeline=str(tmp_path))
    with pytest.raises(ConfigError, match="needs `pipeline=`"):
        new_route(backbone, GEN)


def test_without_diffusers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingExtraError, match=r'pip install "internvl-vision-agent\[diffusers\]"'):
        new_route(tiny_backbone(), GEN, pipeline=str(tmp_path))


def test_an_array_is_a_image(artist: VisionAgent) -> None:
    assert isinstance(artist.generate("a dog", seed=1, steps=1, size=SIDE).image, Image.Image)
