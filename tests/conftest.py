"""Shared fixtures: the shipped default, tiny random checkpoints of InternVL's own format, demo photos."""

from pathlib import Path

import pytest
import torch
from command_line import cli  # noqa: F401  # a fixture
from live_server import client, data_url, url  # noqa: F401  # fixtures
from transformers import GenerationConfig, InternVLConfig, InternVLForConditionalGeneration

from vision_agent import VisionAgent
from vision_agent.model.backbone import Backbone, TilingSettings
from vision_agent.model.checkpoint import save_backbone
from vision_agent.model.prompt import IMAGE_CONTEXT
from vision_agent.train.new_model import train_tokenizer

PHOTOS = Path(__file__).parents[1] / "examples" / "photos"


@pytest.fixture(scope="session")
def agent() -> VisionAgent:
    """The model that ships with the package."""
    return VisionAgent()


@pytest.fixture(scope="session")
def photo() -> Path:
    """A dog with a frisbee on grass, 640x480."""
    return PHOTOS / "000000139872.jpg"


def tiny_backbone(seed: int = 0) -> Backbone:
    """A random InternVL with a real InternViT: tiles of 56 px, 4x4 cells, 4 tokens a tile."""
    torch.manual_seed(seed)
    texts = ["where is the red car?", "find each thing.", "a dog and a cat on the grass", "is there a bus? yes no"]
    tokenizer = train_tokenizer(texts * 5, 360)
    config = InternVLConfig(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": [56, 56],
            "patch_size": [14, 14],
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
        },
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_CONTEXT),
        image_seq_length=4,
        tie_word_embeddings=True,
    )
    model = (
        InternVLForConditionalGeneration._from_config(config, attn_implementation="sdpa").eval().requires_grad_(False)
    )
    # The initial scale of 0.02 makes all hidden states of so small a model nearly alike; parity would prove nothing.
    for parameter in model.model.language_model.parameters():
        if parameter.ndim == 2:
            parameter.mul_(5)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    tiling = TilingSettings(56, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), max_tiles=6)
    return Backbone(model, tokenizer, tiling, name="tiny")


@pytest.fixture
def backbone() -> Backbone:
    return tiny_backbone()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The tiny backbone as a native checkpoint folder."""
    save_backbone(tiny_backbone(), tmp_path / "tiny", torch.float32)
    return tmp_path / "tiny"
