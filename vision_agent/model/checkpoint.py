"""Loads and saves checkpoints: native folders and hub names, and folders in InternVL's original format.

A checkpoint's own code is never run.
"""

import json
import os
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Unpack

import torch
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    InternVLConfig,
    InternVLForConditionalGeneration,
)

from vision_agent.errors import CheckpointError, ConfigError, first_line, last_line
from vision_agent.model.attention import attention_choice
from vision_agent.model.backbone import Backbone, TilingSettings
from vision_agent.model.chat_templates import OFFICIAL_TEMPLATES
from vision_agent.model.checkpoint_files import (
    check_folder,
    check_readable,
    check_settings,
    processor_template,
)
from vision_agent.model.checkpoint_source import CheckpointFiles
from vision_agent.model.cuda_graphs import check_recordable
from vision_agent.model.device_map import fitted_map, planned_map, spread
from vision_agent.model.devices import choose_dtype, has_bitsandbytes, published_dtype
from vision_agent.model.empty_model import Places, empty_model, misfits
from vision_agent.model.fingerprint import file_fingerprint, native_fingerprint, with_lora
from vision_agent.model.hub import check_source
from vision_agent.model.image_settings import image_settings, tiling_settings
from vision_agent.model.int8_packed import PackedInt8Linear
from vision_agent.model.load_options import (
    LoadOptions,
    LoadSettings,
    check_load_options,
    check_mixture,
    check_sinks,
    finish,
    is_mixture,
    load_arguments,
    rounds_while_reading,
)
from vision_agent.model.original import is_original, load_original, native_config, use_official_epsilon
from vision_agent.model.original.sa2va import is_sa2va, load_sa2va, own_route
from vision_agent.model.original.weights import load_native
from vision_agent.model.quiet import quiet
from vision_agent.model.tensor_files import save_file
from vision_agent.model.threads import use_threads
from vision_agent.model.tower import LiteTowerConfig, register_tower
from vision_agent.model.weight_files import open_weights, refuse_integers, refuse_packed

register_tower()

DEFAULT_CHECKPOINT = Path(__file__).parents[1] / "checkpoints" / "default"
# Today's name and that of the first native folders.
_OUTPUT_TABLES = frozenset({"lm_head.weight", "language_model.lm_head.weight"})
_WEIGHT_SUFFIXES = (".safetensors", ".bin")
_LAYERS = "model.language_model.layers"
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def load_backbone(
    name_or_path: str | Path,
    *,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    **settings: Unpack[LoadSettings],
) -> Backbone:
    """Load a checkpoint, native (`*-hf`) or in the original format, from a folder or by hub name.

    Args:
        name_or_path: a folder with `config.json` and weights, or a hub name.
        cache_dir: folder for downloads.
        local_files_only: never touch the network.
        settings: device, number format, attention, size and speed: see `load_options.LoadOptions`.

    Raises:
        CheckpointError: no such folder or name, missing or damaged files, another architecture.
        ConfigError: a setting that is unknown or that this machine cannot do.
        MissingExtraError: a setting that needs a package which is not installed.
    """
    return _loaded(str(name_or_path), LoadOptions.of(**settings), cache_dir, local_files_only)


def load_without_layers(name_or_path: str | Path, *, local_files_only: bool = False) -> Backbone:
    """Load a checkpoint but the layers of its language model, which another engine runs.

    Image tower, projector, tables of words and final norm are there. Of the layers' weights nothing is kept; a
    thousand values of each tensor are looked at, for the fingerprint.

    Raises:
        CheckpointError: as `load_backbone`.
    """
    return _loaded(str(name_or_path), LoadOptions.of(), None, local_files_only, layers=False)


def _loaded(
    source: str,
    options: LoadOptions,
    cache_dir: str | Path | None,
    local_files_only: bool,
    *,
    layers: bool = True,
) -> Backbone:
    device = check_load_options(options)
    use_threads(options.threads)
    local_files_only = check_source(source, cache_dir, local_files_only)
    files = CheckpointFiles(source, {"cache_dir": cache_dir, "local_files_only": local_files_only})
    content = files.json("config.json")
    check_settings(content)
    original = is_original(content) or is_sa2va(content)
    if not original:
        _refuse_others(source, content)
    names = frozenset() if original else files.tensor_names()
    try:
        with quiet(), torch.device("meta"):
            config = native_config(content) if original else model_config(content, names)
            empty: Any = InternVLForConditionalGeneration(config)
        parameters = sum(parameter.numel() for parameter in empty.parameters())
    except CheckpointError:
        raise
    except Exception as error:  # transformers raises many kinds for settings that contradict each other
        raise CheckpointError(f"config.json of {source!r} makes no sense: {last_line(error)}") from error
    if not original:
        check_folder(files.weights_folder(), source)
        refuse_integers(open_weights(files.weights_folder(), exact=False))
        _refuse_unfilled(files, config, parameters)
    check_sinks(options, config)
    if options.cuda_graphs:
        check_recordable(config)
    if is_mixture(config):
        check_mixture(options, device)
    dtype = choose_dtype(device, options.dtype, parameters=parameters, published=published_dtype(content))
    places = options.device_map
    if isinstance(places, str) and original:
        places = planned_map(places, empty, dtype, options.max_memory)
    if isinstance(places, dict):
        options = options.model_copy(update={"device_map": fitted_map(places, empty)})
    load = _load_original if original else _load_native
    bare: Places | None = None if layers else {"": str(device), _LAYERS: "meta"}
    return load(files, content, config, options, device, dtype, bare)


def adapter_folders(checkpoint: Path) -> list[Path]:
    """Return the folders of the adapters that a checkpoint brings, by name; none for a hub name."""
    folder = checkpoint / "adapters"
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _load_native(
    files: CheckpointFiles,
    content: dict[str, Any],
    config: InternVLConfig,
    options: LoadOptions,
    device: torch.device,
    dtype: torch.dtype,
    bare: Places | None = None,
) -> Backbone:
    source = files.source
    tiling = tiling_settings(image_settings(source, files.optional_json), config)
    template = processor_template(files.optional_json)
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(source, **files.hub)
            int8 = rounds_while_reading(options, device, mixture=is_mixture(config))
            plain = options.device_map is None and options.quantization is None
            if int8 or bare is not None or (plain and files.has_bare_index()):
                model = _read_ourselves(files, config, options, bare or device, dtype, int8=int8)
            else:
                model = _read_native(source, config, load_arguments(options, device, dtype) | files.hub)
    except CheckpointError:
        raise
    except Exception as error:  # transformers raises many kinds for a damaged folder
        _refuse_misfits(files, config)
        raise CheckpointError(f"the checkpoint {source!r} could not be loaded: {first_line(error)}") from error
    tokenizer.chat_template = template or tokenizer.chat_template
    _use_own_generation(model)
    if bare is not None:
        model.model.language_model.layers = torch.nn.ModuleList()
    if "vision_agent" in content:
        use_official_epsilon(model)
    finish(model, options, device)
    return Backbone(
        model,
        tokenizer,
        tiling,
        name=Path(source).name,
        fingerprint=with_lora(native_fingerprint(files.weights_folder()), options.lora),
        former_fingerprint="" if options.lora else files.former_fingerprint(),
        **own_settings(content),
    )


def _read_native(source: str, config: InternVLConfig, arguments: dict[str, Any]) -> Any:
    arguments["attn_implementation"] = attention_choice(config, arguments["attn_implementation"])
    loaded: Any = InternVLForConditionalGeneration.from_pretrained(
        source, config=config, output_loading_info=True, **arguments
    )
    model, report = loaded
    wrong = sorted(report["missing_keys"]) + sorted(report["unexpected_keys"])
    _refuse(source, [*wrong, *map(str, report["mismatched_keys"])])
    return model


def _refuse_unfilled(files: CheckpointFiles, config: InternVLConfig, parameters: int) -> None:
    """Refuse settings of a model larger than its files, before it takes memory: what is missing is made up."""
    held = sum(path.stat().st_size for path in files.weights_folder().iterdir() if path.suffix in _WEIGHT_SUFFIXES)
    if held and parameters > held:  # a number takes a byte at least
        _refuse_misfits(files, config)


def _refuse_misfits(files: CheckpointFiles, config: InternVLConfig) -> None:
    """Name the tensors for which transformers could not load a folder, where it is for them."""
    with torch.device("meta"):
        model = InternVLForConditionalGeneration(config)
    _refuse(files.source, misfits(model, open_weights(files.weights_folder(), exact=False)))


def _refuse(source: str, wrong: Sequence[str]) -> None:
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise CheckpointError(f"the weights in {source!r} do not fit their config.json: {', '.join(wrong[:5])}{more}")


def _read_ourselves(
    files: CheckpointFiles,
    config: InternVLConfig,
    options: LoadOptions,
    places: Places,
    dtype: torch.dtype,
    *,
    int8: bool,
) -> Any:
    """The model without transformers' reader, which rounds nothing while it reads; int8 weights never are others."""
    model = empty_model(config, dtype=dtype, attn_implementation=options.attn_implementation, int8=int8, places=places)
    load_native(model, open_weights(files.folder(), exact=False))
    if files.path("generation_config.json"):
        model.generation_config = GenerationConfig.from_pretrained(files.source, **files.hub)
    return model


def _load_original(
    files: CheckpointFiles,
    content: dict[str, Any],
    config: InternVLConfig,
    options: LoadOptions,
    device: torch.device,
    dtype: torch.dtype,
    bare: Places | None = None,
) -> Backbone:
    remedy = f"works on native checkpoints only; write one with `vision-agent convert {files.source} NEW`"
    if options.quantization is not None and has_bitsandbytes(device) and not is_mixture(config):
        raise ConfigError(f"`quantization` {remedy}")
    spread_out = options.device_map if isinstance(options.device_map, dict) else None
    if spread_out is not None and "disk" in spread_out.values():
        raise ConfigError(f"a `device_map` with weights that wait on disk {remedy}")
    folder = files.folder()
    sa2va = is_sa2va(content)
    loader = load_sa2va if sa2va else load_original
    loaded = loader(
        folder,
        content,
        dtype=dtype,
        attn_implementation=options.attn_implementation,
        int8=rounds_while_reading(options, device, mixture=is_mixture(config)),
        places=bare or (device if spread_out is None else spread_out),
    )
    if bare is not None:
        loaded.model.model.language_model.layers = torch.nn.ModuleList()
    if spread_out is not None:
        spread(loaded.model, spread_out)
    finish(loaded.model, options, device)
    own_ends = own_prompts(content, folder, loaded.tokenizer)
    return Backbone(
        loaded.model,
        loaded.tokenizer,
        TilingSettings(
            size=loaded.tile_size,
            **IMAGENET,
            min_tiles=loaded.min_tiles,
            max_tiles=loaded.max_tiles,
            thumbnail=loaded.thumbnail,
        ),
        name=folder.name if Path(files.source).is_dir() else Path(files.source).name,
        fingerprint=with_lora(loaded.fingerprint, options.lora),
        former_fingerprint="" if options.lora else files.former_fingerprint(),
        render=loaded.template.render if own_ends is None else None,
        end_ids=loaded.end_ids if own_ends is None else own_ends,
        transposed=loaded.ps_version == "v1",
        own_routes=(own_route(folder, content),) if sa2va else (),
    )


def own_prompts(content: dict[str, Any], folder: Path, tokenizer: Any) -> list[int] | None:
    """Return the end tokens of a folder that was native; None for a published one.

    Its prompts are those of its own chat template, which the tokenizer gets, and not those of the official one.
    """
    extras = content.get("vision_agent")
    if not isinstance(extras, dict) or "prompts" not in extras:
        return None
    path = folder / "chat_template.jinja"
    if extras["prompts"] != path.name or not path.is_file() or not isinstance(extras.get("end_ids"), list):
        raise CheckpointError(f"config.json: `vision_agent` is damaged: {extras!r:.200}")
    check_readable(path, str(folder))
    tokenizer.chat_template = path.read_text("utf-8")
    return [int(token) for token in extras["end_ids"]]


def _refuse_others(source: str, content: dict[str, Any]) -> None:
    """Anything but InternVL is refused, before transformers tries to make sense of it."""
    if content.get("model_type") == "internvl":
        _refuse_the_first(content)
        return
    remote = " It asks for code of its own (`auto_map`), which is never run." if content.get("auto_map") else ""
    raise CheckpointError(
        f"the checkpoint {source!r} is a {content.get('model_type')!r} model; expected 'internvl' (a native *-hf "
        f"checkpoint) or 'internvl_chat' (the original format).{remote}"
    )


def _refuse_the_first(content: dict[str, Any]) -> None:
    """Refuse the first InternVL, which has the native format's model_type."""
    if "qllama_config" in content:
        raise CheckpointError(
            "config.json is of InternVL-14B (`qllama_config`), which compares images with texts and does not answer; "
            "it is not supported"
        )


def own_settings(content: dict[str, Any]) -> dict[str, Any]:
    """Return what a converted checkpoint says beyond the native format; see `original.convert`."""
    extras = content.get("vision_agent")
    if not isinstance(extras, dict):
        return {}
    try:
        template = OFFICIAL_TEMPLATES[extras["template"]].with_system_message(extras["system_message"])
        return {
            "render": template.render,
            "end_ids": [int(token) for token in extras["end_ids"]],
            "transposed": extras["ps_version"] == "v1",
        }
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"config.json: `vision_agent` is damaged: {extras!r}") from error


def model_config(content: dict[str, Any], names: Collection[str] = ()) -> InternVLConfig:
    """Return the model's configuration from a `config.json`; a tower other than InternViT keeps its own class.

    Published folders have two tables of words and do not say so, for which transformers assumes one.

    Args:
        names: of the tensors in the weight files, which tell; without any, the language model's settings do.
    """
    _refuse_the_first(content)
    _refuse_settings(content)
    vision = content.get("vision_config", {})
    if vision.get("model_type") == LiteTowerConfig.model_type:
        content = {**content, "vision_config": LiteTowerConfig.from_dict(vision)}
    refuse_packed(names)
    text = content.get("text_config") or {}
    if (text.get("quantization_config") or {}).get("quant_method") == "mxfp4":  # the tensors tell that they are not
        content = {**content, "text_config": {key: text[key] for key in text if key != "quantization_config"}}
    config: Any = InternVLConfig.from_dict(content)
    if not _OUTPUT_TABLES.isdisjoint(names):
        config.tie_word_embeddings = False
    elif not names and "tie_word_embeddings" not in content:
        config.tie_word_embeddings = bool(config.text_config.tie_word_embeddings)
    if not isinstance(config.vision_config, LiteTowerConfig):
        layer, layers = config.vision_feature_layer, config.vision_config.num_hidden_layers
        if type(layer) is not int or not -layers <= layer <= layers:
            raise CheckpointError(f"config.json says vision_feature_layer {layer!r:.80} of {layers} layers")
    checked: InternVLConfig = config
    return checked


def _refuse_settings(content: dict[str, Any]) -> None:
    """Refuse what transformers would do, or need packages for, and nothing here knows of."""
    for part in (content, content.get("text_config") or {}, content.get("vision_config") or {}):
        method = part.get("quantization_config")
        method = method.get("quant_method", "unknown") if isinstance(method, dict) else method
        if method and (part is content or method != "mxfp4"):
            raise CheckpointError(f"the weights are quantized ({method}); load the checkpoint that was not quantized")
    strategy, vision = content.get("vision_feature_select_strategy"), content.get("vision_config") or {}
    if strategy not in (None, "default") and vision.get("model_type") != LiteTowerConfig.model_type:
        raise CheckpointError(
            f"config.json says vision_feature_select_strategy {strategy!r:.80}; expected 'default': the class token "
            "is no place in the image"
        )


def _use_own_generation(model: Any) -> None:
    """Keep of the generation settings the ids of tokens, and what is not transformers': answers are written by ours.

    transformers would take what a call does not say, such as a penalty for repetitions, from the checkpoint.
    """
    said, common = model.generation_config.to_dict(), GenerationConfig().to_dict().keys()
    ids = ("eos_token_id", "bos_token_id", "pad_token_id")
    kept = {name: value for name, value in said.items() if name in ids or name not in common}
    model.generation_config = GenerationConfig(do_sample=False, **kept)


def save_backbone(backbone: Backbone, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write a native checkpoint folder that `load_backbone` reads. The folder appears whole or not at all.

    Also sets the backbone's fingerprint to that of the written weights, for adapters saved after it.

    Raises:
        CheckpointError: weights that were rounded, or that wait on disk: they are not what they were loaded from.
    """
    state = backbone.model.state_dict()
    packed = [name for name, module in backbone.model.named_modules() if isinstance(module, PackedInt8Linear)]
    lost = [name for name, each in state.items() if each.is_meta or each.dtype in (torch.int8, torch.uint8)]
    for name in (*packed, *lost):
        raise CheckpointError(
            f"{backbone.name!r} cannot be saved: {name} is rounded, or waits on disk; load it without `quantization` "
            "and `device_map`"
        )
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    backbone.model.config.save_pretrained(partial)
    backbone.model.generation_config.save_pretrained(partial)
    backbone.tokenizer.save_pretrained(partial)
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
    backbone.fingerprint = native_fingerprint(partial)
    backbone.former_fingerprint = file_fingerprint(partial / "model.safetensors")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)
