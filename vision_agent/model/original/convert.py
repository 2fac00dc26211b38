"""Writes a folder in the original format as a native one, once, so that transformers alone can load it."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vision_agent.errors import CheckpointError
from vision_agent.model.original.configuration import OriginalSettings, is_original
from vision_agent.model.original.loading import load_original, read_content
from vision_agent.model.original.tokenizers import IMAGE_TOKENS
from vision_agent.model.quiet import quiet
from vision_agent.model.weight_files import stored_dtype

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def convert(src: Path, dst: Path) -> None:
    """Write the original folder `src` as the native folder `dst`, which appears whole or not at all.

    Weights keep their number format and come in files of at most 5 GB. What the native format cannot say stands in
    `config.json` under `"vision_agent"` (see `native_extras`); transformers reads over it. For a checkpoint of
    `ps_version` v1 that matters: transformers alone orders its image tokens as v2 does.

    Raises:
        CheckpointError: `src` is not in the original format, or broken (see `load_original`); `dst` exists.
    """
    if dst.exists():
        raise CheckpointError(f"{str(dst)!r} exists; expected a folder to create")
    if not dst.absolute().parent.is_dir():
        raise CheckpointError(
            f"the folder {str(dst.absolute().parent)!r} does not exist, so {dst.name!r} cannot be made"
        )
    content = read_content(src)
    if not is_original(content):
        raise CheckpointError(
            f"{str(src)!r} holds a {content.get('model_type')!r} model; expected the original format ('internvl_chat')"
        )
    checkpoint = load_original(src, content, dtype=stored_dtype(src), attn_implementation="eager")
    partial = dst.with_name(f".{dst.name}.{os.getpid()}.partial")
    try:
        partial.mkdir()
        write_native(checkpoint.model, checkpoint.tokenizer, checkpoint, checkpoint.end_ids, partial)
        os.rename(partial, dst)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def native_extras(settings: OriginalSettings, end_ids: Sequence[int]) -> dict[str, str | int | bool | list[int] | None]:
    """Return what the native format cannot say: the value of `"vision_agent"` in a converted `config.json`."""
    return {
        "template": settings.template.name,
        "system_message": settings.template.system_message,
        "ps_version": settings.ps_version,
        "dynamic": settings.dynamic,
        "thumbnail": settings.thumbnail,
        "end_ids": list(end_ids),
    }


def write_native(model: Any, tokenizer: Any, settings: OriginalSettings, end_ids: Sequence[int], folder: Path) -> None:
    """Write a model that was loaded from the original format into an empty folder, in the native one."""
    model.config.vision_agent = native_extras(settings, end_ids)
    with quiet():
        model.save_pretrained(folder, max_shard_size="5GB")
    tokenizer.save_pretrained(folder)
    processor = {
        "image_processor_type": "GotOcr2ImageProcessor",
        "processor_class": "InternVLProcessor",
        "crop_to_patches": settings.max_tiles > 1,
        "min_patches": settings.min_tiles,
        "max_patches": settings.max_tiles,
        "size": {"height": settings.tile_size, "width": settings.tile_size},
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
    }
    _write_json(folder / "preprocessor_config.json", processor)
    joint = {"processor_class": "InternVLProcessor", "image_seq_length": model.config.image_seq_length}
    _write_json(folder / "processor_config.json", joint)
    # The native processor asks its tokenizer for the image tokens by these names. It has a place for a video token
    # of its own too, which original vocabularies lack.
    path = folder / "tokenizer_config.json"
    named = json.loads(path.read_text("utf-8"))
    named |= IMAGE_TOKENS | {"video_token": IMAGE_TOKENS["context_image_token"]}
    _write_json(path, named)


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
