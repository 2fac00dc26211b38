"""Writes a checkpoint with its adapters merged as one folder that other engines load without code.

LoRA adapters are folded into the weights. Of a route's adapter the rows of its token are written into the tables of
words, and the adapter itself goes along in `adapters/`, tied to the new weights: this package finds it there, and other
engines read over it.
"""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import InternVLForConditionalGeneration

from vision_agent.errors import CheckpointError, InputError, bad_argument, first_line, require_extra
from vision_agent.model.backbone import Backbone
from vision_agent.model.chat_templates import OFFICIAL_TEMPLATES
from vision_agent.model.checkpoint import adapter_folders, load_backbone
from vision_agent.model.checkpoint_files import read_object
from vision_agent.model.fingerprint import native_fingerprint
from vision_agent.model.lora import CONFIG_FILE as LORA_FILE
from vision_agent.model.original import is_original, native_config, read_settings
from vision_agent.model.original.configuration import OriginalSettings, language_architecture
from vision_agent.model.original.convert import IMAGENET_MEAN, IMAGENET_STD, write_native
from vision_agent.model.original.inverse import original_fingerprint, original_tensors
from vision_agent.model.original.original_config import FAMILY_TEMPLATES, original_config
from vision_agent.model.original.token_files import add_tokens
from vision_agent.model.original.tokenizers import load_tokenizer
from vision_agent.model.quiet import quiet
from vision_agent.model.tensor_files import save_file
from vision_agent.model.weight_files import open_weights, stored_dtype
from vision_agent.model.xtuner_files import is_xtuner
from vision_agent.routing.adapter import load_adapter, rebase_adapter

Format = Literal["native", "original"]

_ROUTE_FILES = ("adapter.json", "adapter.safetensors")
_SHARD_BYTES = 5 * 10**9
# What a folder holds beside its weights, its config.json and its adapters, and what of it another folder gets.
_COPIED = (".json", ".jinja", ".txt", ".model", ".py", ".md")
_NOT_COPIED = ("config.json", "model.safetensors.index.json", "pytorch_model.bin.index.json", ".gitattributes")
_LARGEST_COPY = 100_000_000
_DOWNLOADED = ["*.json", "*.jinja", "*.txt", "*.model", "*.py", "*.md", "*.safetensors", "*.bin", "LICENSE*"]
_TALKS: tuple[list[tuple[str, str | None]], ...] = (
    [("What is it?", None)],
    [("What is it?", "A dog."), ("Why?", None)],
)


def export_checkpoint(
    source: str | Path,
    target: str | Path,
    *,
    adapters: Sequence[str | Path] = (),
    format: Format = "native",
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """Write a checkpoint with adapters merged as one folder, which appears whole or not at all.

    Weights keep their number format and come in files of at most 5 GB with an index; tokenizer, chat template and
    generation settings go along. The adapters in the checkpoint's own `adapters/` count as given.

    Args:
        source: an InternVL checkpoint, native or in the original format: a folder or a hub name.
        target: the folder to write: a new one, or one that is empty.
        adapters: folders of LoRA (as PEFT saves them) and of routes, or of runs, in any order.
        format: `"native"` for transformers' own InternVL format; `"original"` for that of `InternVLChatModel`, with
            its names, its fused tensors and its `config.json`.
        cache_dir, local_files_only: of downloads, as for `VisionAgent.from_pretrained`.

    Returns:
        the folder.

    Raises:
        InputError: another format, or a target that is not empty.
        CheckpointError: a checkpoint or an adapter that cannot be loaded or does not fit, or a model that the format
            has no place for, such as the one in the package: its vision tower is no InternViT.
        MissingExtraError: LoRA without the extra "lora".
    """
    if format not in ("native", "original"):
        raise InputError(bad_argument("format", "'native' or 'original'", format))
    target = Path(target)
    _check_target(target)
    folder = _folder(source, cache_dir, local_files_only)
    given = (each for path in map(Path, adapters) for each in adapter_folders(path) or [path])
    loras, routes = _sorted_out([*adapter_folders(folder), *given])
    content = read_object(folder / "config.json", str(source))
    _check_kind(content, format, str(source))
    if not all(is_xtuner(Path(path)) for path in loras):
        require_extra("peft", "lora", "LoRA adapters are")
    dtype = stored_dtype(folder, exact=False)
    backbone = load_backbone(folder, local_files_only=True, device="cpu", dtype=dtype, lora=loras)
    backbone.name = Path(str(source)).name
    known = backbone.tokenizer.get_vocab()
    for route in routes:
        load_adapter(route, backbone)
    added = {token: index for token, index in backbone.tokenizer.get_vocab().items() if token not in known}
    _write(backbone, content, folder, added, routes, target, format)
    return target


def write_changed(backbone: Backbone, source: str | Path, target: str | Path, format: Format = "native") -> Path:
    """Write a loaded checkpoint whose weights were changed, in their number format, with all that goes along.

    Args:
        source: what it was loaded from, a folder or a hub name.
        target: the folder to write: a new one, or one that is empty. It appears whole or not at all.

    Raises:
        InputError, CheckpointError: as for `export_checkpoint`.
    """
    target = Path(target)
    _check_target(target)
    folder = _folder(source, None, False)
    content = read_object(folder / "config.json", str(source))
    _check_kind(content, format, str(source))
    _write(backbone, content, folder, {}, [], target, format)
    return target


def _write(
    backbone: Backbone,
    content: dict[str, Any],
    source: Path,
    added: dict[str, int],
    routes: Sequence[Path],
    target: Path,
    format: Format,
) -> None:
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        partial.mkdir()
        write = _write_native if format == "native" else _write_original
        backbone.fingerprint = write(backbone, content, source, added, partial)
        backbone.name = target.name
        _copy_routes(routes, backbone, partial)
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_target(target: Path) -> None:
    if target.is_dir() and not target.is_symlink():
        if any(target.iterdir()):
            raise InputError(bad_argument("target", "a new or an empty folder", f"{str(target)!r}, which holds files"))
    elif target.exists() or target.is_symlink():
        raise InputError(bad_argument("target", "a new or an empty folder", str(target)))
    if not target.absolute().parent.is_dir():
        raise InputError(
            f"the folder {str(target.absolute().parent)!r} does not exist, so {target.name!r} cannot be made"
        )


def _folder(source: str | Path, cache_dir: str | Path | None, local_files_only: bool) -> Path:
    """The folder with all files of a checkpoint, downloaded if need be."""
    folder = Path(source)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise CheckpointError(f"the folder {str(source)!r} has no config.json, so it is no checkpoint")
        return folder
    if folder.exists():
        raise CheckpointError(f"the checkpoint {str(source)!r} is a file; expected a folder or a hub name")
    from huggingface_hub import snapshot_download

    from vision_agent.model.hub import check_source

    offline = check_source(str(source), cache_dir, local_files_only)
    try:
        with quiet():
            found = snapshot_download(
                str(source), allow_patterns=_DOWNLOADED, cache_dir=cache_dir, local_files_only=offline
            )
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{str(source)!r} could not be downloaded: {first_line(error)}") from error
    return Path(found)


def _sorted_out(adapters: Sequence[Path]) -> tuple[list[str | Path], list[Path]]:
    """LoRA, folders of PEFT or checkpoints of xtuner, and folders of routes."""
    loras: list[str | Path] = [folder for folder in adapters if (folder / LORA_FILE).is_file() or is_xtuner(folder)]
    routes = [folder for folder in adapters if folder not in loras]
    for folder in routes:
        if not (folder / _ROUTE_FILES[0]).is_file():
            raise CheckpointError(
                f"the folder {str(folder)!r} is no adapter: it has neither {LORA_FILE} (LoRA) nor {_ROUTE_FILES[0]} "
                "(a route)"
            )
    names = [folder.name for folder in routes]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise CheckpointError(f"two adapters of routes are in folders named {twice!r}; rename one of them")
    return loras, routes


def _check_kind(content: dict[str, Any], format: Format, source: str) -> None:
    """Refuse what the format has no place for, before weights are read."""
    if is_original(content):
        settings = read_settings(content)
        if format == "native" and settings.ps_version == "v1":
            raise CheckpointError(_transposed(source))
        return
    if content.get("model_type") != "internvl":
        raise CheckpointError(
            f"{source!r} is a {content.get('model_type')!r} model; expected 'internvl' (native) or 'internvl_chat' "
            "(the original format)"
        )
    vision = content.get("vision_config")
    kind = vision.get("model_type", "internvl_vision") if isinstance(vision, dict) else None
    if kind != "internvl_vision":
        raise CheckpointError(
            f"{source!r} has a vision tower of its own ({kind!r}), which no published InternVL has: other engines "
            "could not load it. Only checkpoints with InternViT can be exported; serve this one with "
            "`vision-agent serve`"
        )
    extras = content.get("vision_agent")
    if format == "native" and isinstance(extras, dict) and extras.get("ps_version") == "v1":
        raise CheckpointError(_transposed(source))


def _transposed(source: str) -> str:
    return (
        f"{source!r} has ps_version 'v1': it reads image tokens column by column, which the native format cannot say, "
        "so other engines would read them wrongly; use the format 'original'"
    )


# Native --------------------------------------------------------------------------------------------------------------


def _write_native(
    backbone: Backbone, content: dict[str, Any], source: Path, added: dict[str, int], folder: Path
) -> str:
    if is_original(content):
        write_native(backbone.model, backbone.tokenizer, read_settings(content), backbone.end_ids, folder)
    else:
        with quiet():
            backbone.model.save_pretrained(folder, max_shard_size="5GB")
        _copy_files(source, folder)
        if added:
            backbone.tokenizer.save_pretrained(folder)
    return native_fingerprint(folder)


# Original ------------------------------------------------------------------------------------------------------------


def _write_original(
    backbone: Backbone, content: dict[str, Any], source: Path, added: dict[str, int], folder: Path
) -> str:
    if is_original(content):
        config = _changed(content, backbone)
        _copy_files(source, folder)
        if added:
            add_tokens(folder, added)
    else:
        settings, own = _original_settings(backbone, content)
        _fill_rows(backbone)
        config = original_config(backbone.model.config, settings)
        if own:
            # The name of the template is for engines that know no other way.
            config["vision_agent"] = {"prompts": "chat_template.jinja", "end_ids": backbone.end_ids}
        backbone.tokenizer.save_pretrained(folder)
        backbone.model.generation_config.save_pretrained(folder)
        if (source / "generation_config.json").is_file():
            _copy(source / "generation_config.json", source, folder)
        _write_json(folder / "preprocessor_config.json", _image_settings(settings.tile_size))
    _write_json(folder / "config.json", config)
    architecture = language_architecture(config)
    _write_weights(backbone.model, architecture, folder)
    if load_tokenizer(folder).get_vocab() != backbone.tokenizer.get_vocab():
        raise CheckpointError(f"the tokenizer of {backbone.name!r} cannot be written in the original format")
    files = open_weights(folder)
    tied = bool(config.get("tie_word_embeddings"))
    with quiet(), torch.device("meta"):
        empty: Any = InternVLForConditionalGeneration(native_config(config, tied=tied))
    return original_fingerprint(empty, files, architecture)


def _changed(content: dict[str, Any], backbone: Backbone) -> dict[str, Any]:
    """The settings of an original folder, with what merging changed."""
    model = backbone.model
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    language = {**content["llm_config"], "vocab_size": model.get_input_embeddings().weight.shape[0]}
    language["tie_word_embeddings"] = tied
    # Positions were resized to the grid of the tiles.
    vision = {**content["vision_config"], "image_size": backbone.tiling.size}
    merged = {"use_backbone_lora": 0, "use_llm_lora": 0, "tie_word_embeddings": tied}
    return {**content, "vision_config": vision, "llm_config": language, **merged}


def _original_settings(backbone: Backbone, content: dict[str, Any]) -> tuple[OriginalSettings, bool]:
    """What the original format says of a native folder, and whether its prompts are not the template's."""
    tiling = backbone.tiling
    if (tiling.mean, tiling.std) != (IMAGENET_MEAN, IMAGENET_STD):
        raise CheckpointError(
            f"{backbone.name!r} scales images with mean {tiling.mean} and deviation {tiling.std}; the original format "
            "has ImageNet's alone"
        )
    extras = content.get("vision_agent")
    family = str(backbone.model.config.text_config.model_type)
    if isinstance(extras, dict):
        template = OFFICIAL_TEMPLATES[extras["template"]].with_system_message(extras["system_message"])
        dynamic = bool(extras["dynamic"])
    else:
        if family not in FAMILY_TEMPLATES:
            raise CheckpointError(f"no published InternVL has a {family!r} language model")
        template, dynamic = OFFICIAL_TEMPLATES[FAMILY_TEMPLATES[family]], True
    own = backbone.end_ids != [backbone.tokenizer.convert_tokens_to_ids(template.stop)] or any(
        backbone.prompts.write(talk, [], opened=False).text != template.render(talk) for talk in _TALKS
    )
    settings = OriginalSettings(
        tile_size=tiling.size,
        min_tiles=tiling.min_tiles,
        max_tiles=tiling.max_tiles,
        thumbnail=tiling.thumbnail,
        dynamic=dynamic,
        template=template,
        ps_version="v1" if isinstance(extras, dict) and extras["ps_version"] == "v1" else "v2",
    )
    return settings, own


def _fill_rows(backbone: Backbone) -> None:
    """Give every token a row: published native tokenizers have one for videos that the tables lack."""
    model, last = backbone.model, max(backbone.tokenizer.get_vocab().values())
    rows = model.get_input_embeddings().weight.shape[0]
    if last < rows:
        return
    model.resize_token_embeddings(last + 1, mean_resizing=False)
    with torch.no_grad():
        for table in (model.get_input_embeddings(), model.get_output_embeddings()):
            # A mean scores less than the best, so it is never what is written next.
            table.weight[rows:] = table.weight[:rows].float().mean(dim=0).to(table.weight.dtype)


def _image_settings(size: int) -> dict[str, Any]:
    """The published `preprocessor_config.json`."""
    return {
        "crop_size": size,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
        "resample": 3,
        "size": size,
    }


def _write_weights(model: Any, architecture: str, folder: Path) -> None:
    """Write tensors under their original names, one file's at a time in memory."""
    held: list[tuple[Path, list[str]]] = []
    total = 0
    for number, tensors in enumerate(_shards(model, architecture), 1):
        path = folder / f"shard-{number:05}.safetensors"
        total += sum(tensor.nbytes for tensor in tensors.values())
        save_file(tensors, path, metadata={"format": "pt"})
        held.append((path, list(tensors)))
    if len(held) == 1:
        held[0][0].rename(folder / "model.safetensors")
        return
    places: dict[str, str] = {}
    for number, (path, names) in enumerate(held, 1):
        name = f"model-{number:05}-of-{len(held):05}.safetensors"
        path.rename(folder / name)
        places |= dict.fromkeys(names, name)
    _write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": places})


def _shards(model: Any, architecture: str) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    size = 0
    for name, make in original_tensors(model, architecture):
        tensor = make().detach().contiguous()
        if shard and size + tensor.nbytes > _SHARD_BYTES:
            yield shard
            shard, size = {}, 0
        # A part of a joined tensor would be written with all of it.
        whole = tensor.untyped_storage().nbytes() == tensor.nbytes
        shard[name] = tensor if whole else tensor.clone()
        size += tensor.nbytes
    yield shard


# Both ----------------------------------------------------------------------------------------------------------------


def _copy_routes(routes: Sequence[Path], backbone: Backbone, folder: Path) -> None:
    for route in routes:
        copied = folder / "adapters" / route.name
        copied.mkdir(parents=True)
        for name in _ROUTE_FILES:
            shutil.copyfile(route / name, copied / name)
    for route in routes:
        rebase_adapter(folder / "adapters" / route.name, backbone, {}, {})


def _copy_files(source: Path, folder: Path) -> None:
    """Copy the small files beside the weights: tokenizer, templates, settings, code that others run, licence."""
    for path in sorted(source.iterdir()):
        wanted = path.suffix in _COPIED or path.name.upper().startswith(("LICENSE", "LICENCE", "NOTICE"))
        if wanted and path.name not in _NOT_COPIED and path.is_file():
            _copy(path, source, folder)


def _copy(path: Path, source: Path, folder: Path) -> None:
    """Copy a file that is the folder's own, or lies in the cache of downloads beside it: links may lead elsewhere."""
    real, home = path.resolve(), source.resolve()
    inside = home in real.parents or (len(home.parents) > 1 and home.parents[1] / "blobs" == real.parent)
    if not inside or real.stat().st_size > _LARGEST_COPY:
        raise CheckpointError(f"{path.name} of {str(source)!r} is over 100 MB, or a link that leads out of the folder")
    shutil.copyfile(path, folder / path.name)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
