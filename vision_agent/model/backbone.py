"""The multimodal language model: a transformers `InternVLForConditionalGeneration`, its tokenizer and its tiling.

`checkpoint.load_backbone` makes one. It turns images into image tokens and dense features, requests into prompt ids,
and prompts into text.

Shape suffixes: B rows, L tokens, C hidden size, T image tokens, N tiles, S tile side.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor
from transformers import GenerationConfig

from vision_agent.errors import CheckpointError, InputError, bad_argument
from vision_agent.geometry.frames import TileGrid, choose_tiles
from vision_agent.images.loading import ImageSource, load_image
from vision_agent.model.devices import input_device
from vision_agent.model.preprocess import cut_tiles, normalised
from vision_agent.model.prompt import (
    IMAGE_CONTEXT,
    Prompt,
    PromptWriter,
    Render,
    Turn,
    render_native,
    with_placeholders,
)
from vision_agent.model.tile_bounds import MULTI_SCALE, TileBound, check_tiles, one_bound
from vision_agent.model.tower import LiteTowerConfig, LiteTowerOutput
from vision_agent.plugins.decoder import DenseFeatures

if TYPE_CHECKING:
    from vision_agent.model.original.sa2va import OwnRoute

_CLOSER = 10 / 7  # the side of the second look, in sides of a tile
_STRIDE = 32  # pixels of the coarsest map's cell, of which a canvas has a whole number
_COARSE, _FINE = (3, 7), (4, 12)  # least and most tiles of the two scales
_TILES_AT_ONCE = 8  # of several images in one pass; an image of more tiles is encoded by itself
_TILES_AT_ONCE_ON_CPU = 4  # more do not fit its caches, and take longer each


@dataclass(frozen=True)
class TilingSettings:
    """How a checkpoint cuts and scales images, from its `preprocessor_config.json`.

    Attributes:
        size: tile side in pixels.
        mean, std: per channel, for pixels scaled to 0-1.
        min_tiles, max_tiles: bounds on columns * rows.
        thumbnail: append the whole image as a last tile when there is more than one.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    min_tiles: int = 1
    max_tiles: int = 12
    thumbnail: bool = True


@dataclass(frozen=True)
class EncodedImage:
    """An image after the vision side: everything later steps need of it.

    Attributes:
        tokens_TC: projected image tokens, in the order the prompt has their placeholders.
        features: dense feature maps of the whole image, batch of one.
        grid: size and tiling.
    """

    tokens_TC: Tensor
    features: DenseFeatures
    grid: TileGrid

    @property
    def nbytes(self) -> int:
        tensors = (self.tokens_TC, *self.features.maps)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@dataclass(frozen=True)
class EncodedPrompt:
    """A question as the model reads it.

    Attributes:
        prompt: the text, image tokens written out.
        input_ids: (T,) int64.
        pixel_values: (N, 3, S, S) float32, the tiles of all images in order; None without images.
        num_tiles: tiles of each image, its thumbnail included.
    """

    prompt: str
    input_ids: Tensor
    pixel_values: Tensor | None
    num_tiles: tuple[int, ...]


class Backbone:
    """An InternVL model with its tokenizer. `checkpoint.load_backbone` loads one.

    Attributes:
        model: the transformers model, in eval mode.
        tokenizer: its tokenizer.
        tiling: how images are cut.
        name: folder name or hub name, for results.
        fingerprint: identifies the weights, whatever their format; adapters remember the one they were trained on.
        former_fingerprint: of the weights' only file, which adapters saved before version 0.2 remember; "" with LoRA.
        end_ids: token ids that end an answer.
        own_routes: routes that came with the weights, to be built by `adapter.build_own_route`.
        is_remote: another engine has the weights; the model here lies on the device "meta".
    """

    is_remote = False

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        tiling: TilingSettings,
        name: str,
        fingerprint: str = "",
        *,
        former_fingerprint: str = "",
        render: Render | None = None,
        end_ids: Sequence[int] | None = None,
        transposed: bool = False,
        own_routes: Sequence["OwnRoute"] = (),
    ) -> None:
        """Tie the parts together; `checkpoint.load_backbone` is the usual way.

        Args:
            render: the chat template; None for the one in the tokenizer's files.
            end_ids: None for those in the generation config and the tokenizer's own.
            transposed: the projector was trained on image tokens in column-major order (`ps_version` v1).
            own_routes: routes that came with the weights.
        """
        self.model = model
        self.tokenizer = tokenizer
        self.tiling = tiling
        self.name = name
        self.fingerprint = fingerprint
        self.former_fingerprint = former_fingerprint
        named = model.generation_config.eos_token_id
        self.end_ids = sorted(end_ids) if end_ids is not None else ending_ids(named, tokenizer)
        check_ends(self.end_ids, model.get_input_embeddings().weight.shape[0], name)
        self.own_routes = tuple(own_routes)
        self._transposed = transposed
        context = tokenizer.convert_tokens_to_ids(IMAGE_CONTEXT)
        if context is None or context != model.config.image_token_id:
            raise CheckpointError(
                f"{name!r}: the tokenizer gives {IMAGE_CONTEXT!r} the id {context!r}, "
                f"but the model expects {model.config.image_token_id!r}"
            )
        self.prompts = PromptWriter(tokenizer, render or render_native(tokenizer, name), name)

    @property
    def device(self) -> torch.device:
        return input_device(self.model)

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
    def context(self) -> int:
        """Most tokens of a prompt and its answer together."""
        return int(self.model.config.text_config.max_position_embeddings)

    @property
    def closer_side(self) -> int | None:
        """Side, in pixels, of the larger canvas on which `closer_features` shows an image.

        None for the towers of published checkpoints, which see tiles of one size.
        """
        vision = self.model.config.vision_config
        if not isinstance(vision, LiteTowerConfig):
            return None
        return int(self.tiling.size * _CLOSER) // _STRIDE * _STRIDE

    # Images ----------------------------------------------------------------------------------------------------

    def grid_for(self, width: int, height: int, max_tiles: TileBound = None) -> TileGrid:
        """Choose the tiling of an image of this size; `max_tiles` None for the checkpoint's own bound.

        In two scales that of the finer one, from which dense features are taken.
        """
        return self.grids_for(width, height, max_tiles)[-1]

    def grids_for(self, width: int, height: int, max_tiles: TileBound = None) -> tuple[TileGrid, ...]:
        """Choose all tilings of an image, in the order the model sees them: one, or in two scales the coarse one first.

        Raises:
            InputError: two scales of a model that sees an image as one tile.
        """
        vision, size = self.model.config.vision_config, self.tiling.size
        cells = int(vision.image_size[0]) // int(vision.patch_size[0])
        if max_tiles != MULTI_SCALE:
            least = min(self.tiling.min_tiles, max_tiles or self.tiling.min_tiles)
            most = max_tiles or self.tiling.max_tiles
            columns, rows = choose_tiles(width, height, min_tiles=least, max_tiles=most, tile_size=size)
            return (TileGrid(width, height, columns, rows, size, cells, self.tiling.thumbnail),)
        self.check_scales()
        fine = choose_tiles(width, height, min_tiles=_FINE[0], max_tiles=_FINE[1], tile_size=size)
        coarse = choose_tiles(width, height, min_tiles=_COARSE[0], max_tiles=_COARSE[1], tile_size=size, beside=fine)
        return (
            TileGrid(width, height, *coarse, size, cells, thumbnail=False),
            TileGrid(width, height, *fine, size, cells, self.tiling.thumbnail),
        )

    def check_scales(self) -> None:
        """Raise InputError where the model sees an image in fewer tiles than two scales have."""
        if self.tiling.max_tiles < _FINE[0]:
            expected = f"left out: {self.name!r} sees an image in at most {self.tiling.max_tiles} tiles"
            raise InputError(bad_argument("tiles", expected, MULTI_SCALE))

    def bound_of(self, tiles: object, max_tiles: object) -> Any:
        """Return the bound that two arguments say together. Raises InputError for both, or what cannot be done."""
        bound = one_bound(tiles, max_tiles)
        if bound == MULTI_SCALE:
            self.check_scales()
        return bound

    def tile_count(self, width: int, height: int, max_tiles: TileBound = None) -> int:
        """Return how many tiles the model sees of an image of this size, thumbnail included."""
        return sum(grid.tile_count for grid in self.grids_for(width, height, max_tiles))

    def tiles(self, image: Image.Image, grid: TileGrid) -> Tensor:
        """Cut an upright RGB image into (N, 3, S, S) float32 tiles, row-major, thumbnail last, as InternVL does."""
        return self.normalise(cut_tiles(image, grid))

    def normalise(self, tiles_NSS3: Tensor) -> Tensor:
        """Scale uint8 tiles (N, S, S, 3) to float32 (N, 3, S, S) by the checkpoint's mean and standard deviation."""
        return normalised(tiles_NSS3, self.tiling.mean, self.tiling.std)

    def see(self, tiles_NCSS: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Encode tiles as image tokens (N, tokens per tile, C) and per-tile feature maps, each (N, channels, H, W)."""
        tiles_NCSS = tiles_NCSS.to(self.device, self.dtype)
        output = self.model.model.get_image_features(pixel_values=tiles_NCSS, return_dict=True)
        if isinstance(output, LiteTowerOutput):
            maps = output.feature_maps or ()
        else:
            cells_NLC = output.last_hidden_state[:, 1:]  # the first token is InternViT's class token
            side = math.isqrt(cells_NLC.shape[1])
            maps = (cells_NLC.transpose(1, 2).unflatten(2, (side, side)),)
        tokens_NTC: Tensor = output.pooler_output
        if self._transposed:
            side = math.isqrt(tokens_NTC.shape[1])
            tokens_NTC = tokens_NTC.reshape(len(tokens_NTC), side, side, -1).transpose(1, 2).flatten(1, 2)
        return tokens_NTC.to(self.device), tuple(each.to(self.device) for each in maps)

    @torch.inference_mode()
    def encode_image(self, image: Image.Image, max_tiles: TileBound = None) -> EncodedImage:
        """Encode an upright RGB image as its tokens and stitched dense features.

        Args:
            max_tiles: most tiles, the thumbnail left out; None for the checkpoint's own bound; or "multi-scale".
        """
        return self.encode_images([image], max_tiles)[0]

    @torch.inference_mode()
    def encode_images(self, images: Sequence[Image.Image], max_tiles: TileBound = None) -> list[EncodedImage]:
        """Encode several upright RGB images, their tiles together as far as a bound on memory allows."""
        grids = [self.grids_for(*image.size, max_tiles) for image in images]
        counts = [sum(grid.tile_count for grid in own) for own in grids]
        most = _TILES_AT_ONCE_ON_CPU if self.device.type == "cpu" else _TILES_AT_ONCE
        encoded: list[EncodedImage] = []
        while len(encoded) < len(images):
            first = len(encoded)
            last, tiles = first + 1, counts[first]
            while last < len(images) and tiles + counts[last] <= most:
                tiles += counts[last]
                last += 1
            cut = [self.tiles(images[place], grid) for place in range(first, last) for grid in grids[place]]
            tokens_NTC, maps = self.see(torch.cat(cut))
            start = 0
            for place in range(first, last):
                own, grid = slice(start, start + counts[place]), grids[place][-1]
                fine = own.stop - grid.tile_count  # dense features are those of one tiling
                pieces = slice(fine, fine + grid.piece_count)
                stitched = tuple(_stitch(map_NCHW[pieces], grid) for map_NCHW in maps)
                # Copies: a part of the whole batch would keep all of it in memory.
                tokens_TC = tokens_NTC[own].flatten(0, 1).clone()
                encoded.append(EncodedImage(tokens_TC, DenseFeatures(tuple(map(torch.clone, stitched))), grid))
                start = own.stop
        return encoded

    @torch.inference_mode()
    def closer_features(self, image: Image.Image) -> DenseFeatures:
        """Return dense features of an upright RGB image, batch of one, from a canvas of `closer_side`.

        Raises:
            CheckpointError: the model's tower sees tiles of one size.
        """
        if self.closer_side is None:
            raise CheckpointError(f"the tower of {self.name!r} sees tiles of one size")
        grid = TileGrid.for_image(*image.size, min_tiles=1, max_tiles=1, tile_size=self.closer_side, cells=1)
        pixels_1CSS = self.tiles(image, grid).to(self.device, self.dtype)
        output = self.model.model.vision_tower(pixel_values=pixels_1CSS)
        return DenseFeatures(tuple(each.to(self.device) for each in output.feature_maps))

    # Text --------------------------------------------------------------------------------------------------------

    def encode(
        self,
        question: str,
        images: ImageSource | Sequence[ImageSource] | None = None,
        history: Sequence[tuple[str, str]] | None = None,
        max_tiles: TileBound | Sequence[TileBound] = None,
        combine: bool = False,
    ) -> EncodedPrompt:
        """Write what the model reads for a question: the very prompt and pixels of InternVL's own `chat`.

        Args:
            question: may hold `<image>` placeholders; without any, and without history, they are put before it.
            images: images of any kind that `load_image` takes, for the placeholders of history and question from
                left to right.
            history: earlier rounds, (question, answer).
            max_tiles: most tiles of an image: one number, or one for each; or "multi-scale".
            combine: all tiles of all images fill one placeholder.

        Raises:
            InputError: images and placeholders, or images and `max_tiles`, differ in number; an image that cannot
                be read; `max_tiles` outside 1-40; a question or an earlier round that is no text.
        """
        if not isinstance(question, str):
            raise InputError(bad_argument("question", "a text", question))
        for number, turn in enumerate(history or ()):
            if not (isinstance(turn, tuple | list) and len(turn) == 2 and all(isinstance(said, str) for said in turn)):
                raise InputError(bad_argument(f"history[{number}]", "a question and its answer", turn))
        given: list[Any] = list(images) if isinstance(images, list | tuple) else [] if images is None else [images]
        loaded = [load_image(item, name=f"images[{index}]") for index, item in enumerate(given)]
        bounds = check_tiles(max_tiles, len(loaded))
        grids = [self.grids_for(*image.size, bound) for image, bound in zip(loaded, bounds, strict=True)]
        tile_counts = tuple(sum(grid.tile_count for grid in own) for own in grids)
        if not history:
            question = with_placeholders(question, len(loaded), combine=combine)
        counts = [count * self.tokens_per_tile for count in tile_counts]
        prompt = self.prompts.write(
            [*(history or ()), (question, None)], [sum(counts)] if combine and counts else counts, opened=False
        )
        tiles = [self.tiles(image, grid) for image, own in zip(loaded, grids, strict=True) for grid in own]
        return EncodedPrompt(
            prompt=prompt.text,
            input_ids=torch.tensor(prompt.ids),
            pixel_values=torch.cat(tiles) if tiles else None,
            num_tiles=tile_counts,
        )

    @torch.inference_mode()
    def logits(self, input_ids: Tensor, pixel_values: Tensor | None = None) -> Tensor:
        """Return next-token logits (T, V), float32, of every place in a prompt as `encode` gives it."""
        ids_BL = torch.as_tensor(input_ids).reshape(1, -1).to(self.device)
        hidden_BLC = self.model.model.language_model(
            inputs_embeds=self.embed(ids_BL, self._image_tokens(pixel_values))
        ).last_hidden_state
        return self.token_scores(hidden_BLC)[0]

    @torch.inference_mode()
    def generate_ids(
        self, input_ids: Tensor, pixel_values: Tensor | None = None, max_new_tokens: int = 128
    ) -> list[int]:
        """Write the greedy answer to a prompt as `encode` gives it: its new token ids, the end token included."""
        ids_BL = torch.as_tensor(input_ids).reshape(1, -1).to(self.device)
        settings = GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=self.end_ids,
            pad_token_id=self.end_ids[0],
        )
        new_BL: Tensor = self.model.generate(
            inputs_embeds=self.embed(ids_BL, self._image_tokens(pixel_values)),
            attention_mask=torch.ones_like(ids_BL),
            generation_config=settings,
        )
        ids: list[int] = new_BL[0].tolist()
        return ids

    def _image_tokens(self, pixel_values: Tensor | None) -> Tensor | None:
        return None if pixel_values is None else self.see(pixel_values)[0].flatten(0, 1)

    def text_ids(self, text: str) -> list[int]:
        """Return the token ids of plain text. Special tokens that a user types stay text."""
        return self.prompts.text_ids(text)

    def prompt_parts(self, image_tokens: Sequence[int]) -> tuple[list[int], list[int]]:
        """Return the ids before and after the user's text in a first turn, by the checkpoint's own chat template.

        Args:
            image_tokens: number of tokens of each image, in order; they stand before the text.
        """
        return self.prompts.parts(image_tokens)

    def prompt(self, turns: Sequence[Turn], image_tokens: Sequence[int], places: Sequence[int | None] = ()) -> Prompt:
        """Write a conversation ready for its next answer; see `PromptWriter.write`."""
        return self.prompts.write(turns, image_tokens, places)

    def prompt_ids(self, request: str, image_tokens: Sequence[int]) -> list[int]:
        """Return the ids of a whole first turn, its images before the text, ready for the answer."""
        before, after = self.prompt_parts(image_tokens)
        return before + self.text_ids(request) + after

    def embed(self, ids_BL: Tensor, tokens_TC: Tensor | None = None, image_places: int | None = None) -> Tensor:
        """Embed token ids (negative ones give a zero row) as (B, L, C), with image tokens put at their placeholders.

        Args:
            image_places: how many placeholders there are, for callers who know it; None to count them, for which the
                host waits where the ids are on a device.

        Raises:
            CheckpointError: another number of image tokens than of placeholders.
        """
        embeds_BLC: Tensor = self.model.get_input_embeddings()(ids_BL.clamp(min=0)).to(self.device)
        embeds_BLC = embeds_BLC * (ids_BL >= 0).unsqueeze(-1)
        if tokens_TC is None:
            return embeds_BLC
        places = ids_BL == self.model.config.image_token_id
        count = int(places.sum()) if image_places is None else image_places
        if count != len(tokens_TC):
            raise CheckpointError(f"{count} image places in the prompt for {len(tokens_TC)} tokens")
        return embeds_BLC.masked_scatter(places.unsqueeze(-1), tokens_TC.to(embeds_BLC.device, embeds_BLC.dtype))

    def token_scores(self, hidden_BLC: Tensor) -> Tensor:
        """Return the scores of the next token (..., V), float32, after hidden states (..., C)."""
        scores_BLV: Tensor = self.model.lm_head(hidden_BLC).to(self.device).float()
        return scores_BLV

    def decode_text(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return text


def ending_ids(named: int | Sequence[int] | None, tokenizer: Any) -> list[int]:
    """Return the ids that end an answer: those that the generation settings name, and the tokenizer's own."""
    ids = [named] if isinstance(named, int) else list(named or [])
    return sorted({*ids, tokenizer.eos_token_id} - {None})


def check_ends(ids: Sequence[int], rows: int, name: str) -> None:
    """See that answers can end.

    Raises:
        CheckpointError: no end token, or one that the model, with so many rows of words, cannot write.
    """
    if not ids:
        raise CheckpointError(f"{name!r} names no token that ends an answer, neither for generation nor its tokenizer")
    outside = [token for token in ids if not 0 <= token < rows]
    if outside:
        raise CheckpointError(f"{name!r} ends answers with the token {outside[0]}, but the model has {rows} rows")


def _stitch(map_NCHW: Tensor, grid: TileGrid) -> Tensor:
    """Row-major tile maps (rows * columns, C, H, W) -> one map (1, C, rows * H, columns * W)."""
    _, channels, height, width = map_NCHW.shape
    tiled = map_NCHW.reshape(grid.rows, grid.columns, channels, height, width)
    return tiled.permute(2, 0, 3, 1, 4).reshape(1, channels, grid.rows * height, grid.columns * width)
