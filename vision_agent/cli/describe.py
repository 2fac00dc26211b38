"""What `vision-agent info MODEL` prints: size, memory, context, tiles and routes, without loading weights.

Parameters are counted on a model without storage (torch's meta device). Of the weight files only the headers are read,
which also shows a truncated or missing one.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn
from transformers import AutoTokenizer, GenerationConfig, InternVLForConditionalGeneration
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts
from transformers.utils.hub import cached_file

from vision_agent.errors import CheckpointError, first_line, last_line
from vision_agent.model.backbone import check_ends, ending_ids
from vision_agent.model.checkpoint import DEFAULT_CHECKPOINT, model_config
from vision_agent.model.checkpoint_files import (
    check_folder,
    check_settings,
    processor_template,
    read_object,
    tensor_names,
)
from vision_agent.model.empty_model import misfits
from vision_agent.model.hub import check_source, is_here
from vision_agent.model.image_settings import image_settings, tiling_settings
from vision_agent.model.int8 import Experts
from vision_agent.model.load_options import is_mixture
from vision_agent.model.original.configuration import (
    is_original,
    is_tied,
    language_architecture,
    native_config,
    read_settings,
)
from vision_agent.model.original.embedded_lora import merge_embedded
from vision_agent.model.original.loading import check_vocabulary
from vision_agent.model.original.sa2va import is_sa2va, sa2va_settings
from vision_agent.model.original.tokenizers import load_tokenizer
from vision_agent.model.original.weights import check_original
from vision_agent.model.prompt import IMAGE_CONTEXT, PromptWriter, render_native
from vision_agent.model.quiet import quiet
from vision_agent.model.weight_files import WeightFile, open_weights
from vision_agent.plugins.route import RouteSpec
from vision_agent.routing.adapter import AdapterInfo

_GIB, _MIB = 2**30, 2**20
# NF4 has 4 bits a weight, an 8-bit scale for each 64 of them, and a 32-bit one for each 256 of those.
_NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
_FORMATS = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64", torch.int8: "I8"}
_GENERATION = "generation_config.json"
_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"


class Parameters(BaseModel):
    """Numbers of parameters by part. `language` has the token tables; tied ones count once.

    `active` are those that compute one token: of a mixture, the experts that are asked alone.
    """

    model_config = ConfigDict(frozen=True)

    vision: int
    projector: int
    language: int
    active: int

    @property
    def total(self) -> int:
        return self.vision + self.projector + self.language


class Memory(BaseModel):
    """GiB of the weights by format.

    `int8` and `int4` concern the language model's linear layers, and `int8` its experts; all else is bf16. There is no
    `int4` of a mixture of experts.
    """

    model_config = ConfigDict(frozen=True)

    fp32: float
    bf16: float
    int8: float
    int4: float | None


class Tiles(BaseModel):
    """How images become tokens.

    Attributes:
        size: tile side in pixels.
        max_tiles: most tiles of an image, without its thumbnail.
        thumbnail: whether the whole image is added as one more tile when there are several.
        tokens_per_tile: image tokens of a tile.
    """

    model_config = ConfigDict(frozen=True)

    size: int
    max_tiles: int
    thumbnail: bool
    tokens_per_tile: int

    @property
    def most_tokens(self) -> int:
        """Image tokens of an image that is cut as finely as it gets."""
        extra = 1 if self.thumbnail and self.max_tiles > 1 else 0
        return (self.max_tiles + extra) * self.tokens_per_tile


class ModelDescription(BaseModel):
    """A checkpoint, described.

    Attributes:
        name: folder name or hub name.
        format: `"native"` (transformers' own) or `"original"` (`InternVLChatModel`, converted while loading).
        vision, language: model types of the two halves.
        parameters, memory, tiles: see their classes.
        context: most tokens of a prompt and its answer together.
        cache_mib: MiB of bf16 keys and values for 1000 tokens of a conversation.
        stored: number formats of the weight files, None where the files are not here.
        disk_bytes: bytes of all files here, adapters included.
        routes: of the adapters in the folder.
        licence: as the files name it: a licence file, or the `license:` of a README.
        card: the text of CARD.md.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    format: Literal["native", "original"]
    vision: str
    language: str
    parameters: Parameters
    memory: Memory
    tiles: Tiles
    context: int
    cache_mib: float
    stored: tuple[str, ...] | None
    disk_bytes: int
    routes: tuple[RouteSpec, ...]
    licence: str | None
    card: str | None

    def to_text(self) -> str:
        """Return lines for people, then the card."""
        count, memory, tiles = self.parameters, self.memory, self.tiles
        thumbnail = " and a thumbnail" if tiles.thumbnail and tiles.max_tiles > 1 else ""
        routes = ", ".join(f"{route.token} -> {route.decoder}" for route in self.routes)
        rows = {
            "model": f"{self.name} ({self.format} format; {self.vision} + {self.language})",
            "parameters": (
                f"{_short(count.total)} (vision {_short(count.vision)}, projector {_short(count.projector)}, "
                f"language {_short(count.language)})"
                + (f", {_short(count.active)} of them for each token" if count.active < count.total else "")
            ),
            "memory": (
                f"fp32 {_bytes(memory.fp32)}, bf16 or fp16 {_bytes(memory.bf16)}, "
                f"int8 {_bytes(memory.int8)}, " + ("no 4bit" if memory.int4 is None else f"4bit {_bytes(memory.int4)}")
            ),
            "context": f"{self.context} tokens; {self.cache_mib:.1f} MiB of cache for each 1000 (bf16)",
            "images": (
                f"{'one tile' if tiles.max_tiles == 1 else f'up to {tiles.max_tiles} tiles'} of {tiles.size} px"
                f"{thumbnail}, {tiles.tokens_per_tile} tokens a tile: at most {tiles.most_tokens} tokens"
            ),
            "routes": routes or "none",
            "licence": self.licence or "no licence file",
            "on disk": _bytes(self.disk_bytes / _GIB)
            + (f" ({', '.join(self.stored)})" if self.stored else ", the weights are not here"),
        }
        text = "".join(f"{name:<11} {value}\n" for name, value in rows.items())
        return f"{text}\n{self.card}" if self.card else text


def describe(
    name_or_path: str | Path, *, cache_dir: str | Path | None = None, local_files_only: bool = False
) -> ModelDescription:
    """Describe a checkpoint without loading its weights. Of a hub name only the configuration is downloaded.

    Args:
        name_or_path: a folder or hub name, native or original; `"default"` is the model inside the package.
        cache_dir: folder for downloads.
        local_files_only: never touch the network.

    Raises:
        CheckpointError: no such folder or name, missing, damaged or truncated files, another architecture.
    """
    source = str(DEFAULT_CHECKPOINT if name_or_path == "default" else name_or_path)
    local = is_here(source)
    folder = Path(source) if local else _cached_folder(source, cache_dir, local_files_only)
    content = _read_json(folder, "config.json", source)
    check_settings(content)
    if local:
        check_folder(folder, source)
    config, kind, tiling = _configuration(folder, content, source, local)
    files = open_weights(folder, exact=kind == "original") if local else []
    try:
        with torch.device("meta"):
            model: Any = InternVLForConditionalGeneration(config)
    except Exception as error:  # transformers raises many kinds for settings that contradict each other
        raise CheckpointError(f"config.json of {source!r} makes no sense: {last_line(error)}") from error
    if local:
        _check_loadable(folder, content, kind, model, files, source)
    text = config.text_config
    card = folder / "CARD.md"
    return ModelDescription(
        name=folder.name if local else source,
        format=kind,
        vision=config.vision_config.model_type,
        language=text.model_type,
        parameters=_parameters(model),
        memory=_memory(model),
        tiles=tiling,
        context=int(text.max_position_embeddings),
        cache_mib=_cache_bytes(text) * 1000 / _MIB,
        stored=_formats(files),
        disk_bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        routes=_routes(folder),
        licence=_licence(folder),
        card=card.read_text("utf-8") if card.is_file() else None,
    )


def _cached_folder(source: str, cache_dir: str | Path | None, local_files_only: bool) -> Path:
    """The hub cache's folder of a name, with its configuration files. What is there is not asked for again."""

    def find(name: str, *, required: bool, local_files_only: bool) -> str | None:
        found: str | None = cached_file(
            source,
            name,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            _raise_exceptions_for_missing_entries=required,
        )
        return found

    local_files_only = check_source(source, cache_dir, local_files_only)
    try:
        config = find("config.json", required=False, local_files_only=True)
        config = config or find("config.json", required=True, local_files_only=local_files_only)
        folder = Path(str(config)).parent
        for name in ("processor_config.json", "preprocessor_config.json"):
            # Original folders lack them.
            if not (folder / name).is_file():
                find(name, required=False, local_files_only=local_files_only)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"the checkpoint {source!r} is neither a folder nor a hub name that can be reached: {first_line(error)}"
        ) from error
    return folder


def _configuration(
    folder: Path, content: dict[str, Any], source: str, local: bool
) -> tuple[Any, Literal["native", "original"], Tiles]:
    """The transformers configuration, the format, and how images are cut."""
    sa2va = is_sa2va(content)
    kind: Literal["native", "original"] = "original" if sa2va or is_original(content) else "native"
    if kind == "native" and content.get("model_type") != "internvl":
        raise CheckpointError(
            f"the checkpoint {source!r} is a {content.get('model_type')!r} model; "
            "expected 'internvl' (native) or 'internvl_chat' (original)"
        )
    config: Any
    try:
        if kind == "original":
            config = native_config(content)
            files = open_weights(folder) if local else []
            config = native_config(content, tied=is_tied(content, {key for file in files for key in file.keys()}))
            settings = (sa2va_settings if sa2va else read_settings)(content)
            size, most, thumbnail = settings.tile_size, settings.max_tiles, settings.thumbnail
        else:
            single = folder / _SINGLE
            index = None if single.is_file() else _optional_json(folder, _INDEX, source)
            config = model_config(content, tensor_names(single if single.is_file() else None, index, source))
            tiling = tiling_settings(image_settings(source, lambda name: _optional_json(folder, name, source)), config)
            size, most, thumbnail = tiling.size, tiling.max_tiles, tiling.thumbnail
        cells = int(config.vision_config.image_size[0]) // int(config.vision_config.patch_size[0])
        tokens = int(cells * config.downsample_ratio) ** 2
        return config, kind, Tiles(size=size, max_tiles=most, thumbnail=thumbnail, tokens_per_tile=tokens)
    except CheckpointError:
        raise
    except Exception as error:  # transformers raises many kinds for settings that contradict each other
        raise CheckpointError(f"config.json of {source!r} makes no sense: {last_line(error)}") from error


def _parameters(model: Any) -> Parameters:
    vision, projector = _count(model.model.vision_tower), _count(model.model.multi_modal_projector)
    text, total = model.config.text_config, _count(model)
    idle = 0.0
    if is_mixture(model.config):
        experts = sum(_count(module) for module in model.modules() if isinstance(module, Experts))
        idle = experts * (1 - text.num_experts_per_tok / text.num_experts)
    return Parameters(
        vision=vision, projector=projector, language=total - vision - projector, active=total - round(idle)
    )


def _memory(model: Any) -> Memory:
    """Weights only; what a run needs beside them depends on the images and the length of the conversation."""
    total = _count(model)
    linears = [module.weight for module in model.model.language_model.modules() if isinstance(module, nn.Linear)]
    mixture = is_mixture(model.config)
    if mixture:
        experts = [module for module in model.modules() if isinstance(module, Experts)]
        for module in experts:
            # Rows first, as they are rounded.
            for weight in (module.gate_up_proj, module.down_proj):
                linears.append(weight.mT if isinstance(module, GptOssExperts) else weight)
    rounded = sum(weight.numel() for weight in linears)
    scales = sum(weight.numel() // weight.shape[-1] for weight in linears)
    rest = 2 * (total - rounded)
    return Memory(
        fp32=4 * total / _GIB,
        bf16=2 * total / _GIB,
        int8=(rest + rounded + 2 * scales) / _GIB,
        int4=None if mixture else (rest + _NF4_BYTES * rounded) / _GIB,
    )


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _cache_bytes(text: Any) -> int:
    """bf16 keys and values of one token."""
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    return int(2 * 2 * text.num_hidden_layers * heads * head)


def _formats(files: Sequence[WeightFile]) -> tuple[str, ...] | None:
    """Number formats, that of most values first; None without files."""
    if not files:
        return None
    values: Counter[str] = Counter()
    for file in files:
        for key in file.keys():
            tensor = file.tensor(key)  # lies in the file
            values[_FORMATS.get(tensor.dtype, str(tensor.dtype).removeprefix("torch."))] += tensor.numel()
    return tuple(name for name, _ in values.most_common())


class _Shapes:
    """A weight file without its values."""

    def __init__(self, file: WeightFile) -> None:
        self.path, self._file = file.path, file

    def keys(self) -> list[str]:
        return self._file.keys()

    def tensor(self, key: str) -> Tensor:
        return self._file.tensor(key).to("meta")


def _check_loadable(
    folder: Path,
    content: dict[str, Any],
    kind: Literal["native", "original"],
    model: Any,
    files: Sequence[WeightFile],
    source: str,
) -> None:
    """Refuse what loading would refuse, by names and shapes of tensors and by the tokenizer."""
    if kind == "original":
        if not is_sa2va(content):
            check_vocabulary(folder, load_tokenizer(folder).get_vocab(), content, read_settings(content))
            merged = merge_embedded([_Shapes(file) for file in files], content)
            check_original(model, merged, language_architecture(content))
        return
    try:
        with quiet():
            tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises many kinds for damaged files
        raise CheckpointError(f"the checkpoint {source!r} could not be loaded: {first_line(error)}") from error
    context = tokenizer.convert_tokens_to_ids(IMAGE_CONTEXT)
    if context is None or context != model.config.image_token_id:
        raise CheckpointError(
            f"{source!r}: the tokenizer gives {IMAGE_CONTEXT!r} the id {context!r}, "
            f"but the model expects {model.config.image_token_id!r}"
        )
    ids = GenerationConfig.from_pretrained(folder).eos_token_id if (folder / _GENERATION).is_file() else None
    check_ends(ending_ids(ids, tokenizer), model.config.text_config.vocab_size, source)
    template = processor_template(lambda name: _optional_json(folder, name, source))
    tokenizer.chat_template = template or tokenizer.chat_template
    PromptWriter(tokenizer, render_native(tokenizer, source), source).parts([])
    wrong = misfits(model, files)
    if wrong:
        shown = ", ".join(wrong[:5])
        raise CheckpointError(f"the weights in {source!r} do not fit their config.json: {shown} ...")


def _routes(folder: Path) -> tuple[RouteSpec, ...]:
    routes = []
    for path in sorted(folder.glob("adapters/*/adapter.json")):
        try:
            routes.append(AdapterInfo.model_validate_json(path.read_text("utf-8")).route)
        except (ValidationError, UnicodeDecodeError) as error:
            raise CheckpointError(f"the adapter {str(path.parent)!r} is damaged: {first_line(error)}") from error
    return tuple(routes)


def _licence(folder: Path) -> str | None:
    for path in sorted(folder.iterdir()):
        if path.stem.upper() in ("LICENSE", "LICENCE", "COPYING"):
            return path.name
    readme = folder / "README.md"
    # A hub README starts with settings between two lines of dashes.
    if readme.is_file():
        for line in readme.read_text("utf-8", "replace").split("\n---", 1)[0].splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "license" and value.strip():
                return f"{value.strip()} (README.md)"
    return None


def _read_json(folder: Path, name: str, source: str) -> dict[str, Any]:
    if not folder.is_dir():
        raise CheckpointError(f"the checkpoint {source!r} is a file; expected a folder or a hub name")
    content = _optional_json(folder, name, source)
    if content is None:
        raise CheckpointError(f"the checkpoint {source!r} has no {name}")
    return content


def _optional_json(folder: Path, name: str, source: str) -> dict[str, Any] | None:
    return read_object(folder / name, source) if (folder / name).exists() else None


def _short(number: int) -> str:
    """12345678 -> `12.3 M`."""
    unit, size = ("B", 1e9) if number >= 1e9 else ("M", 1e6)
    return f"{number / size:.1f} {unit}"


def _bytes(gib: float) -> str:
    return f"{gib:.2f} GiB" if gib >= 1 else f"{gib * 1024:.1f} MiB"
