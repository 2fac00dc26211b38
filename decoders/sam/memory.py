"""Tracks objects through a video with SAM 2's memory (https://arxiv.org/abs/2408.00714).

The first frames are prompted; every later frame attends to the memory of the prompted frames and of the last frames
that were tracked, and to a pointer to the object from each of them. transformers goes through the objects one by one
and has no place for prompt tokens, so the steps are put together here from its parts, with all objects in one batch.

Shape suffixes: O objects, K tokens of an object, E width, L cells of the coarse map, T memory tokens, h and w small
masks, H and W the canvas.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from vision_agent.errors import InputError, RouteError, bad_argument
from vision_agent.geometry.rle import RunLengths

from .network import Network
from .transformers_network import TransformersNetwork

_ABSENT = -1024.0  # logits of an object that is not visible


@dataclass(frozen=True)
class _Frame:
    """An encoded frame: its maps, finest first, (1, E, ., .), and the coarse one's cells and positions (L, 1, E)."""

    finer: tuple[Tensor, ...]
    cells_L1E: Tensor
    positions_L1E: Tensor


@dataclass(frozen=True)
class _Memory:
    """The memory of a frame: its cells and their positions (L, O, .), and a pointer to each object (O, E)."""

    cells: Tensor
    positions: Tensor
    pointers_OE: Tensor


def track(
    network: Network, frames: Sequence[Image.Image], tokens_OKE: Tensor, prompted: int
) -> Iterator[list[tuple[RunLengths, float]]]:
    """Yield for each frame the mask of each object, of the frame's size, and SAM's rating of it.

    Args:
        network: SAM 2 with its memory.
        frames: upright RGB images of one size.
        tokens_OKE: prompt tokens of each object.
        prompted: how many of the first frames are prompted.

    Raises:
        RouteError: the network has no memory.
        InputError: frames of several sizes.
    """
    if not isinstance(network, TransformersNetwork) or not hasattr(network.module, "memory_attention"):
        raise RouteError(
            "tracking objects through a video needs the memory of SAM 2: a 'sam2_video' folder of transformers, or a "
            "Sa2VA folder"
        )
    for number, frame in enumerate(frames):
        if frame.size != frames[0].size:
            raise InputError(
                bad_argument(f"frames[{number}]", f"of the first frame's size, {frames[0].size}", frame.size)
            )
    if not len(tokens_OKE):
        yield from ([] for _ in frames)
        return
    tracker = _Tracker(network, len(tokens_OKE), len(frames))
    for number, frame in enumerate(frames):
        yield tracker.step(number, frame, tokens_OKE if number < prompted else None)


class _Tracker:
    """The memory of one video."""

    def __init__(self, network: TransformersNetwork, objects: int, frames: int) -> None:
        self._network, self._objects = network, objects
        self._model: Any = network.module
        self._config: Any = network.module.config
        self._prompted: dict[int, _Memory] = {}
        self._tracked: dict[int, _Memory] = {}
        self._most_pointers = min(frames, int(self._config.max_object_pointers_in_encoder))

    def step(self, number: int, image: Image.Image, tokens_OKE: Tensor | None) -> list[tuple[RunLengths, float]]:
        """Return the masks of a frame, prompted or tracked, and keep its memory for later frames."""
        frame = self._encoded(image)
        coarse_OEhw = self._alone(frame) if tokens_OKE is not None else self._with_memory(number, frame)
        logits_Ohw, ratings_O, pointers_OE, visible_O1 = self._masks(frame, coarse_OEhw, tokens_OKE)
        memories = self._prompted if tokens_OKE is not None else self._tracked
        memories[number] = self._memory(frame, logits_Ohw, pointers_OE, visible_O1)
        reach = max(self._most_pointers, int(self._model.num_maskmem))
        self._tracked.pop(number - reach, None)
        return [
            (self._network.enlarged(logits_hw, image.size), float(rating))
            for logits_hw, rating in zip(logits_Ohw, ratings_O, strict=True)
        ]

    def _encoded(self, image: Image.Image) -> _Frame:
        pixels = self._network.canvas(image)
        with self._network.encoding():
            out = self._model.get_image_features(pixels, return_dict=True)
        maps = [cells.float() for cells in out.fpn_hidden_states]
        sizes = self._model.backbone_feature_sizes
        finer = tuple(_as_map(cells, size) for cells, size in zip(maps[:-1], sizes[:-1], strict=True))
        return _Frame(finer, maps[-1], out.fpn_position_encoding[-1].float())

    def _alone(self, frame: _Frame) -> Tensor:
        """The coarse map of a frame that is prompted, and so needs no memory."""
        return self._as_map((frame.cells_L1E + self._model.no_memory_embedding).expand(-1, self._objects, -1))

    def _with_memory(self, number: int, frame: _Frame) -> Tensor:
        """The coarse map, one for each object, after it attended to the memory."""
        model = self._model
        times = [(0, memory) for memory in self._prompted.values()]
        # The nearest frames come last, as SAM 2 has them.
        times += [
            (ago, self._tracked[number - ago])
            for ago in range(model.num_maskmem - 1, 0, -1)
            if number - ago in self._tracked
        ]
        # Index -1, the last, is that of prompted frames, however long ago they were.
        when = model.memory_temporal_positional_encoding
        cells = [memory.cells.to(frame.cells_L1E.dtype) for _, memory in times]
        positions = [memory.positions + when[ago - 1] for ago, memory in times]
        pointers, pointer_positions = self._pointers(number)
        attended = model.memory_attention(
            current_vision_features=frame.cells_L1E.expand(-1, self._objects, -1),
            current_vision_position_embeddings=frame.positions_L1E.expand(-1, self._objects, -1),
            memory=torch.cat([*cells, pointers]),
            memory_posision_embeddings=torch.cat([*positions, pointer_positions]),
            num_object_pointer_tokens=len(pointers),
        )
        return self._as_map(attended.reshape(self._objects, -1, attended.shape[-1]).transpose(0, 1))

    def _pointers(self, number: int) -> tuple[Tensor, Tensor]:
        """Pointers to the objects in earlier frames as memory tokens (T, O, width of memory), and their positions."""
        model = self._model
        past = [(number - earlier, memory.pointers_OE) for earlier, memory in self._prompted.items()]
        past += [
            (ago, self._tracked[number - ago].pointers_OE)
            for ago in range(1, self._most_pointers)
            if number - ago in self._tracked
        ]
        pointers_POE = torch.stack([pointers for _, pointers in past])
        width = pointers_POE.shape[-1]
        pieces = max(1, width // model.mem_dim)
        past_count, objects, _ = pointers_POE.shape
        tokens = pointers_POE.reshape(past_count, objects, pieces, -1).permute(0, 2, 1, 3).flatten(0, 1)
        if not self._config.enable_temporal_pos_encoding_for_object_pointers:
            return tokens, torch.zeros_like(tokens)
        ago = torch.tensor([float(earlier) for earlier, _ in past], device=tokens.device)
        waves = _sine_waves(ago / max(1, self._most_pointers - 1), width)
        positions_PD = model.temporal_positional_encoding_projection_layer(waves)
        return tokens, positions_PD.repeat_interleave(pieces, dim=0)[:, None].expand_as(tokens)

    def _masks(
        self, frame: _Frame, coarse_OEhw: Tensor, tokens_OKE: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Best logits (O, h, w), ratings (O,), pointers (O, E), and bool (O, 1): whether the objects are visible."""
        if tokens_OKE is None:
            tokens_OKE = coarse_OEhw.new_zeros(self._objects, 0, coarse_OEhw.shape[1])
        sparse, dense = self._network.after_no_point(tokens_OKE.unsqueeze(1))
        finer = [each.expand(self._objects, -1, -1, -1) for each in frame.finer]
        several = self._config.multimask_output_in_sam and self._config.multimask_min_pt_num == 0
        if not self._config.multimask_output_for_tracking:
            several = several and tokens_OKE.shape[1] > 0
        logits, ratings, hints, sureness = self._network.decoded((*finer, coarse_OEhw), sparse, dense, several=several)
        logits_OMhw, ratings_OM, hints_OME, visible_O1 = logits[:, 0], ratings[:, 0], hints[:, 0], sureness[:, 0] > 0
        best_O = ratings_OM.argmax(1)
        every = torch.arange(self._objects, device=best_O.device)
        logits_Ohw = logits_OMhw[every, best_O]
        if self._network.hides_absent:
            logits_Ohw = torch.where(visible_O1[..., None], logits_Ohw, _ABSENT)
        pointers_OE = self._model.object_pointer_proj(hints_OME[every, best_O if hints_OME.shape[1] > 1 else 0])
        pointers_OE = torch.where(visible_O1, pointers_OE, self._model.no_object_pointer)
        return logits_Ohw, ratings_OM[every, best_O], pointers_OE, visible_O1

    def _memory(self, frame: _Frame, logits_Ohw: Tensor, pointers_OE: Tensor, visible_O1: Tensor) -> _Memory:
        model = self._model
        size = (self._network.side, self._network.side)
        logits_O1HW = F.interpolate(logits_Ohw[:, None], size, mode="bilinear", align_corners=False)
        masks_O1HW = logits_O1HW.sigmoid() * self._config.sigmoid_scale_for_mem_enc
        masks_O1HW = masks_O1HW + self._config.sigmoid_bias_for_mem_enc
        coarse = self._as_map(frame.cells_L1E.expand(-1, self._objects, -1))
        cells, positions = model.memory_encoder(coarse, masks_O1HW)
        absent = model.occlusion_spatial_embedding_parameter
        if absent is not None:
            cells = cells + (~visible_O1)[..., None, None] * absent[..., None, None]
        # SAM 2 keeps its memory in half precision.
        cells = cells.to(torch.bfloat16).flatten(2).permute(2, 0, 1)
        positions = positions.expand(self._objects, -1, -1, -1).flatten(2).permute(2, 0, 1)
        return _Memory(cells, positions, pointers_OE)

    def _as_map(self, cells_LOE: Tensor) -> Tensor:
        return _as_map(cells_LOE, self._model.backbone_feature_sizes[-1])


def _as_map(cells_LOE: Tensor, size: Sequence[int]) -> Tensor:
    """Cells (L, O, E) -> (O, E, height, width)."""
    height, width = size
    return cells_LOE.permute(1, 2, 0).reshape(cells_LOE.shape[1], -1, height, width)


def _sine_waves(places_P: Tensor, width: int) -> Tensor:
    """Sines and cosines (P, width) of places, at wavelengths from 2 pi to 20000 pi."""
    step = torch.arange(width // 2, device=places_P.device)
    angles = places_P[:, None] / torch.exp(math.log(10000.0) * 2 * (step // 2) / (width // 2))
    return torch.cat([angles.sin(), angles.cos()], dim=1)
