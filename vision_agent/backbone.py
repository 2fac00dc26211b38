"""The multimodal language model: a transformers `InternVLForConditionalGeneration`, its tokenizer and its tiling.

Loads native folders or hub names only, and never runs a checkpoint's own code. Turns pictures into image tokens and
dense features, requests into prompt ids, and prompts into text.

Shape suffixes: B rows, L tokens, C hidden size, T picture tokens, N tiles, S tile side.
"""

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, InternVLConfig, InternVLForConditionalGeneration
from transformers.utils.hub import cached_file

from vision_agent.decoder import DenseFeatures
from vision_agent.errors import CheckpointError, ConfigError, bad_argument
from vision_agent.geometry import TileGrid
from vision_agent.hardware import choose_device, choose_dtype
from vision_agent.tower import LiteTowerConfig, LiteTowerOutput, register_tower

register_tower()

IMAGE_START, IMAGE_END, IMAGE_CONTEXT = "<img>", "</img>", "<IMG_CONTEXT>"
# Stands for the user's text while the chat template is rendered; no template changes it, no user types it.
_SENTINEL = "\ue000request\ue000"


@dataclass(frozen=True)
class TilingSettings:
    """How a checkpoint cuts and scales pictures, from its `preprocessor_config.json`.

    Attributes:
        size: tile side in pixels.
        mean, std: per channel, for pixels scaled to 0-1.
        min_tiles, max_tiles: bounds on columns * rows.
        thumbnail: append the whole picture as a last tile when there is more than one.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    min_tiles: int = 1
    max_tiles: int = 12
    thumbnail: bool = True


@dataclass(frozen=True)
class EncodedImage:
    """A picture after the vision side: everything later steps need of it.

    Attributes:
        tokens_TC: projected image tokens, in the order the prompt has their placeholders.
        features: dense feature maps of the whole picture, batch of one.
        grid: size and tiling.
    """

    tokens_TC: Tensor
    features: DenseFeatures
    grid: TileGrid

    @property
    def nbytes(self) -> int:
        tensors = (self.tokens_TC, *self.features.maps)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class Backbone:
    """An InternVL model with its tokenizer. Make one with `Backbone.from_pretrained`.

    Attributes:
        model: the transformers model, in eval mode.
        tokenizer: its tokenizer.
        tiling: how pictures are cut.
        name: folder name or hub name, for results.
        fingerprint: identifies the weights; adapters remember the one they were trained on.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        tiling: TilingSettings,
        name: str,
        fingerprint: str = "",
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.tiling = tiling
        self.name = name
        self.fingerprint = fingerprint
        context = tokenizer.convert_tokens_to_ids(IMAGE_CONTEXT)
        if context is None or context != model.config.image_token_id:
            raise CheckpointError(
                f"{name!r}: the tokenizer gives {IMAGE_CONTEXT!r} the id {context!r}, "
                f"but the model expects {model.config.image_token_id!r}"
            )

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        device: str = "auto",
        dtype: str | torch.dtype = "auto",
        attn_implementation: str = "sdpa",
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> "Backbone":
        """Load a native `*-hf` folder or hub name.

        Args:
            name_or_path: a folder with `config.json` and safetensors weights, or a hub name.
            device: `"auto"` (CUDA, then MPS, then CPU) or any torch device.
            dtype: `"auto"` takes what the device computes fast (see `hardware.choose_dtype`).
            attn_implementation: `"sdpa"` or `"eager"`; routed reading needs a full attention mask, which flash
                attention does not take.
            cache_dir: folder for downloads.
            local_files_only: never touch the network.

        Raises:
            CheckpointError: no such folder or name, missing or damaged files, another architecture.
            ConfigError: an unknown device, dtype or attention implementation.
        """
        if attn_implementation not in ("sdpa", "eager"):
            raise ConfigError(bad_argument("attn_implementation", "'sdpa' or 'eager'", attn_implementation))
        torch_device = choose_device(device)
        source = str(name_or_path)
        hub: dict[str, Any] = {"cache_dir": cache_dir, "local_files_only": local_files_only}
        files = _CheckpointFiles(source, hub)
        content = files.json("config.json")
        try:
            config = _model_config(content)
            parameters = _parameter_count(config)
        except Exception as error:  # transformers raises many kinds for settings that contradict each other
            raise CheckpointError(f"config.json of {source!r} makes no sense: {_last_line(error)}") from error
        torch_dtype = choose_dtype(torch_device, dtype, parameters=parameters)
        try:
            loaded: Any = InternVLForConditionalGeneration.from_pretrained(
                source,
                config=config,
                dtype=torch_dtype,
                attn_implementation=attn_implementation,
                output_loading_info=True,
                **hub,
            )
            model, report = loaded
            tokenizer = AutoTokenizer.from_pretrained(source, **hub)
        except Exception as error:  # transformers raises many kinds for a damaged folder
            raise CheckpointError(f"the checkpoint {source!r} could not be loaded: {_first_line(error)}") from error
        wrong = sorted(report["missing_keys"]) + sorted(report["unexpected_keys"])
        if wrong or report["mismatched_keys"]:
            shown = ", ".join([*wrong, *(str(key) for key in report["mismatched_keys"])][:5])
            raise CheckpointError(f"the weights in {source!r} do not fit their config.json: {shown} ...")
        tiling = _tiling_settings(files.json("preprocessor_config.json"), config)
        model.eval().requires_grad_(False).to(torch_device)
        return cls(model, tokenizer, tiling, name=Path(source).name, fingerprint=files.fingerprint())

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.model.dtype
        return dtype

    @property
    def hidden_size(self) -> int:
        return int(self.model.config.text_config.hidden_size)

    @property
    def feature_widths(self) -> tuple[int, ...]:
        """Channels of the dense feature maps, finest first."""
        vision = self.model.config.vision_config
        return vision.pyramid_widths if isinstance(vision, LiteTowerConfig) else (int(vision.hidden_size),)

    @property
    def tokens_per_tile(self) -> int:
        vision = self.model.config.vision_config
        cells = int(vision.image_size[0]) // int(vision.patch_size[0])
        return int(cells * self.model.config.downsample_ratio) ** 2

    @property
    def end_ids(self) -> list[int]:
        """Token ids that end an answer."""
        ids = self.model.generation_config.eos_token_id
        ids = [ids] if isinstance(ids, int) else list(ids or [])
        return sorted({*ids, self.tokenizer.eos_token_id} - {None})

    # Pictures ----------------------------------------------------------------------------------------------------

    def grid_for(self, width: int, height: int) -> TileGrid:
        """The tiling of a picture of this size."""
        vision = self.model.config.vision_config
        return TileGrid.for_image(
            width,
            height,
            min_tiles=self.tiling.min_tiles,
            max_tiles=self.tiling.max_tiles,
            tile_size=self.tiling.size,
            cells=int(vision.image_size[0]) // int(vision.patch_size[0]),
            thumbnail=self.tiling.thumbnail,
        )

    def tiles(self, image: Image.Image, grid: TileGrid) -> Tensor:
        """An upright RGB picture -> (N, 3, S, S) float32 tiles, row-major, thumbnail last.

        Resizing is InternVL's: bicubic to the canvas, aspect ratio not kept.
        """
        size = grid.tile_size
        canvas = _resized(image, grid.columns * size, grid.rows * size)
        pixels = np.array(canvas).reshape(grid.rows, size, grid.columns, size, 3)
        tiles = pixels.transpose(0, 2, 1, 3, 4).reshape(-1, size, size, 3)
        if grid.has_thumbnail:
            tiles = np.concatenate([tiles, np.array(_resized(image, size, size))[None]])
        return self.normalise(torch.from_numpy(np.ascontiguousarray(tiles)))

    def normalise(self, tiles_NSS3: Tensor) -> Tensor:
        """uint8 tiles (N, S, S, 3) -> float32 (N, 3, S, S) by the checkpoint's mean and standard deviation."""
        mean = torch.tensor(self.tiling.mean, device=tiles_NSS3.device) * 255
        std = torch.tensor(self.tiling.std, device=tiles_NSS3.device) * 255
        return ((tiles_NSS3.float() - mean) / std).permute(0, 3, 1, 2)

    def see(self, tiles_NCSS: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Tiles -> image tokens (N, tokens per tile, C) and per-tile feature maps, each (N, channels, H, W)."""
        tiles_NCSS = tiles_NCSS.to(self.device, self.dtype)
        output = self.model.model.get_image_features(pixel_values=tiles_NCSS, return_dict=True)
        if isinstance(output, LiteTowerOutput):
            maps = output.feature_maps or ()
        else:
            cells_NLC = output.last_hidden_state[:, 1:]  # the first token is InternViT's class token
            side = math.isqrt(cells_NLC.shape[1])
            maps = (cells_NLC.transpose(1, 2).unflatten(2, (side, side)),)
        return output.pooler_output, maps

    @torch.inference_mode()
    def encode(self, image: Image.Image) -> EncodedImage:
        """An upright RGB picture -> its tokens and stitched dense features."""
        grid = self.grid_for(*image.size)
        tokens_NTC, maps = self.see(self.tiles(image, grid))
        stitched = tuple(_stitch(map_NCHW[: grid.piece_count], grid) for map_NCHW in maps)
        return EncodedImage(tokens_NTC.flatten(0, 1), DenseFeatures(stitched), grid)

    # Text --------------------------------------------------------------------------------------------------------

    def text_ids(self, text: str) -> list[int]:
        """Token ids of plain text. Special tokens that a user types stay text."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids

    def prompt_parts(self, image_tokens: Sequence[int]) -> tuple[list[int], list[int]]:
        """Ids before and after the user's text in a first turn, by the checkpoint's own chat template.

        Args:
            image_tokens: number of tokens of each picture, in order.
        """
        content = [{"type": "image"} for _ in image_tokens] + [{"type": "text", "text": _SENTINEL}]
        rendered = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        counts = iter(image_tokens)
        expanded = re.sub(
            re.escape(IMAGE_CONTEXT), lambda _: IMAGE_START + IMAGE_CONTEXT * next(counts) + IMAGE_END, rendered
        )
        before, found, after = expanded.partition(_SENTINEL)
        if not found or next(counts, None) is not None:
            raise CheckpointError(f"the chat template of {self.name!r} drops the user's text or a picture")
        return self._template_ids(before), self._template_ids(after)

    def prompt_ids(self, request: str, image_tokens: Sequence[int]) -> list[int]:
        """Ids of a whole first turn, ready for the answer."""
        before, after = self.prompt_parts(image_tokens)
        return before + self.text_ids(request) + after

    def embed(self, ids_BL: Tensor, tokens_TC: Tensor | None = None) -> Tensor:
        """Token ids (negative ones give a zero row) -> (B, L, C), with picture tokens put at their placeholders."""
        embeds_BLC: Tensor = self.model.get_input_embeddings()(ids_BL.clamp(min=0))
        embeds_BLC = embeds_BLC * (ids_BL >= 0).unsqueeze(-1)
        if tokens_TC is None:
            return embeds_BLC
        places = ids_BL == self.model.config.image_token_id
        if int(places.sum()) != len(tokens_TC):
            raise CheckpointError(f"{int(places.sum())} picture places in the prompt for {len(tokens_TC)} tokens")
        return embeds_BLC.masked_scatter(places.unsqueeze(-1), tokens_TC.to(embeds_BLC.dtype))

    def decode_text(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=False)
        return text

    def _template_ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


class _CheckpointFiles:
    """Reads single files of a checkpoint, from a folder or the hub cache, with errors that name them."""

    def __init__(self, source: str, hub: dict[str, Any]) -> None:
        self.source, self.hub = source, hub
        folder = Path(source)
        if folder.exists() and not folder.is_dir():
            raise CheckpointError(f"the checkpoint {source!r} is a file; expected a folder or a hub name")
        if folder.is_dir() and not (folder / "config.json").is_file():
            raise CheckpointError(f"the folder {source!r} has no config.json, so it is no checkpoint")

    def path(self, name: str) -> Path | None:
        try:
            found = cached_file(self.source, name, _raise_exceptions_for_missing_entries=False, **self.hub)
        except OSError as error:
            raise CheckpointError(
                f"the checkpoint {self.source!r} is neither a folder nor a hub name that can be reached: "
                f"{_first_line(error)}"
            ) from error
        return Path(found) if found else None

    def json(self, name: str) -> dict[str, Any]:
        path = self.path(name)
        if path is None:
            raise CheckpointError(f"the checkpoint {self.source!r} has no {name}")
        try:
            content = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise CheckpointError(f"{name} of {self.source!r} is damaged: {_first_line(error)}") from error
        if name == "config.json" and content.get("model_type") != "internvl":
            raise CheckpointError(
                f"the checkpoint {self.source!r} is a {content.get('model_type')!r} model; expected 'internvl' "
                "(a native *-hf checkpoint)"
            )
        return dict(content)

    def fingerprint(self) -> str:
        """Identifies the weights without reading all of them: see `weights_fingerprint`."""
        single = self.path("model.safetensors")
        first = single or self.path("model.safetensors.index.json")
        return weights_fingerprint(first) if first else ""


def weights_fingerprint(path: Path) -> str:
    """SHA-256 of a weight file's size and its first and last 64 KiB; of an index, of all it says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(65536)
        file.seek(max(0, size - 65536))
        tail = file.read()
    return hashlib.sha256(str(size).encode() + head + tail).hexdigest()[:32]


def _tiling_settings(content: dict[str, Any], config: Any) -> TilingSettings:
    size = content.get("size", {})
    side = size.get("height", config.vision_config.image_size[0]) if isinstance(size, dict) else int(size)
    return TilingSettings(
        size=int(side),
        mean=tuple(content.get("image_mean", (0.485, 0.456, 0.406))),
        std=tuple(content.get("image_std", (0.229, 0.224, 0.225))),
        min_tiles=int(content.get("min_patches", 1)),
        max_tiles=int(content.get("max_patches", 12)) if content.get("crop_to_patches", True) else 1,
    )


def _model_config(content: dict[str, Any]) -> InternVLConfig:
    """The configuration; a registered tower other than InternViT keeps its own class."""
    vision = content.get("vision_config", {})
    if vision.get("model_type") == LiteTowerConfig.model_type:
        content = {**content, "vision_config": LiteTowerConfig.from_dict(vision)}
    return InternVLConfig.from_dict(content)


def _parameter_count(config: InternVLConfig) -> int:
    """Parameters of the model, counted without memory."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in InternVLForConditionalGeneration(config).parameters())


def _resized(image: Image.Image, width: int, height: int) -> Image.Image:
    # In two steps, since Pillow 13 may take the height first, which rounds differently from all versions before it.
    return image.resize((width, image.height), Image.Resampling.BICUBIC).resize(
        (width, height), Image.Resampling.BICUBIC
    )


def _stitch(map_NCHW: Tensor, grid: TileGrid) -> Tensor:
    """Row-major tile maps (rows * columns, C, H, W) -> one map (1, C, rows * H, columns * W)."""
    _, channels, height, width = map_NCHW.shape
    tiled = map_NCHW.reshape(grid.rows, grid.columns, channels, height, width)
    return tiled.permute(2, 0, 3, 1, 4).reshape(1, channels, grid.rows * height, grid.columns * width)


def _last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
