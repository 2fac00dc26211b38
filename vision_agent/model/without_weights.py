"""A checkpoint without its weights: tokenizer, prompts and tiling, for a model that another engine runs."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, GenerationConfig, InternVLForConditionalGeneration

from vision_agent.errors import CheckpointError, first_line, last_line
from vision_agent.model.backbone import Backbone, TilingSettings
from vision_agent.model.checkpoint import (
    IMAGENET,
    model_config,
    own_prompts,
    own_settings,
)
from vision_agent.model.checkpoint_files import check_folder, check_settings, processor_template
from vision_agent.model.checkpoint_source import CheckpointFiles
from vision_agent.model.hub import check_source
from vision_agent.model.image_settings import image_settings, tiling_settings
from vision_agent.model.original import is_original, native_config, read_settings
from vision_agent.model.original.loading import check_vocabulary
from vision_agent.model.original.tokenizers import IMAGE_TOKENS, load_tokenizer
from vision_agent.model.quiet import quiet

_IDS = ("eos_token_id", "bos_token_id", "pad_token_id")


def load_without_weights(name_or_path: str | Path, *, local_files_only: bool = False) -> tuple[Backbone, str | None]:
    """Load everything of a checkpoint but its weights, which need not be there.

    Args:
        name_or_path: a folder or a hub name, native or in the original format.
        local_files_only: never touch the network.

    Returns:
        the backbone, whose model lies on the device "meta", and the system message that its prompts begin with; None
        where they have none, or where only its chat template says it.

    Raises:
        CheckpointError: missing or damaged files, or another architecture.
    """
    source = str(name_or_path)
    offline = check_source(source, None, local_files_only)
    files = CheckpointFiles(source, {"cache_dir": None, "local_files_only": offline})
    content = files.json("config.json")
    check_settings(content)
    try:
        backbone, system = _original(files, content) if is_original(content) else _native(files, content)
    except CheckpointError:
        raise
    except Exception as error:  # transformers raises many kinds for a damaged folder
        raise CheckpointError(f"the checkpoint {source!r} could not be loaded: {first_line(error)}") from error
    backbone.is_remote = True
    return backbone, system


def _native(files: CheckpointFiles, content: dict[str, Any]) -> tuple[Backbone, str | None]:
    source = files.source
    if content.get("model_type") != "internvl":
        raise CheckpointError(
            f"the checkpoint {source!r} is a {content.get('model_type')!r} model; expected 'internvl' (native) or "
            "'internvl_chat' (the original format)"
        )
    check_folder(files.weights_folder(), source)
    model = _empty(model_config(content), source)
    tiling = tiling_settings(image_settings(source, files.optional_json), model.config)
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(source, **files.hub)
    tokenizer.chat_template = processor_template(files.optional_json) or tokenizer.chat_template
    said = files.optional_json("generation_config.json") or {}
    model.generation_config = GenerationConfig(do_sample=False, **{name: said.get(name) for name in _IDS})
    settings = own_settings(content)
    extras = content.get("vision_agent")
    system = extras.get("system_message") if isinstance(extras, dict) and settings else None
    return Backbone(model, tokenizer, tiling, name=Path(source).name, **settings), system


def _original(files: CheckpointFiles, content: dict[str, Any]) -> tuple[Backbone, str | None]:
    folder = files.folder()
    check_folder(folder, str(folder))
    settings = read_settings(content)
    tokenizer = load_tokenizer(folder)
    vocabulary = tokenizer.get_vocab()
    check_vocabulary(folder, vocabulary, content, settings)
    tokenizer.chat_template = settings.template.chat_template()
    ends = own_prompts(content, folder, tokenizer)
    image_token = vocabulary[IMAGE_TOKENS["context_image_token"]]
    model = _empty(native_config(content, image_token_id=image_token), files.source)
    backbone = Backbone(
        model,
        tokenizer,
        TilingSettings(
            settings.tile_size,
            **IMAGENET,
            min_tiles=settings.min_tiles,
            max_tiles=settings.max_tiles,
            thumbnail=settings.thumbnail,
        ),
        name=Path(files.source).name,
        render=settings.template.render if ends is None else None,
        end_ids=[vocabulary[settings.template.stop]] if ends is None else ends,
        transposed=settings.ps_version == "v1",
    )
    return backbone, settings.template.system_message if ends is None else None


def _empty(config: Any, source: str) -> Any:
    try:
        with quiet(), torch.device("meta"):
            model: Any = InternVLForConditionalGeneration(config)
    except Exception as error:  # transformers raises many kinds for settings that contradict each other
        raise CheckpointError(f"config.json of {source!r} makes no sense: {last_line(error)}") from error
    return model.eval().requires_grad_(False)
