"""A dialogue as the model reads it: token ids, which of them are learned, and the tiles of its images.

The prompts and the tiles are those of inference; what is InternVL's own rule of training is the bound on tiles, which
several images share, one tile for each frame of a video, and the cut at the greatest length.

Shape suffixes: N tiles, S tile side.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vision_agent.data.annotations.faults import Faults
from vision_agent.data.dialogues.dialogue_lines import DialogueLine
from vision_agent.data.dialogues.dialogue_sets import frame_files
from vision_agent.geometry.frames import TileGrid
from vision_agent.images.loading import load_image
from vision_agent.images.video import frame_indices, sample_frames
from vision_agent.model.backbone import Backbone
from vision_agent.model.preprocess import cut_tiles
from vision_agent.model.prompt import PLACEHOLDER, Dialogue
from vision_agent.train.tuning.tuning_settings import Tuning

_QUALITIES = (75, 101)  # of the JPEGs that `data_augment` shows


@dataclass(frozen=True)
class EncodedDialogue:
    """What a step reads of one dialogue.

    Attributes:
        ids: (L,) int64. learned: (L,) bool.
        tiles_NSS3: uint8, of all its images in order; N is 0 without any.
    """

    ids: Tensor
    learned: Tensor
    tiles_NSS3: Tensor


@dataclass(frozen=True)
class Extent:
    """How much a dialogue takes: tokens, after the cut, and tiles; tokens that are learned; tokens that are cut off."""

    tokens: int
    tiles: int
    learned: int
    cut: int = 0


class DialogueEncoder:
    """Encodes dialogues for one model.

    Args:
        strips: leave out white space around what is said, as the official loader does for InternLM2's template.
    """

    def __init__(self, backbone: Backbone, settings: Tuning, *, strips: bool = False) -> None:
        self._backbone, self._settings, self._strips = backbone, settings, strips

    def extent(self, line: DialogueLine) -> Extent:
        """Return how much a dialogue takes, a video with its most frames.

        Raises:
            ValueError: an image would be cut off, or nothing is left to learn; says what to change.
        """
        frames = self._settings.max_frames
        grids = self._frame_grids(frames) if line.video is not None else self._grids(line)
        whole = self._dialogue(line.with_frames(frames) if line.video is not None else line, grids)
        most, tokens = self._settings.max_length, len(whole.ids)
        tiles = sum(grid.tile_count for grid in grids)
        image_id = self._backbone.model.config.image_token_id
        if image_id in whole.ids[most:]:
            told = f"{tokens} tokens, of which {tiles * self._backbone.tokens_per_tile} are of images, more than {most}"
            remedy = "--max-frames" if line.video is not None else "--max-tiles"
            raise ValueError(f"{told}: an image would be cut off; lower {remedy}, or raise --max-length")
        learned = sum(whole.learned[:most])
        if not learned:
            raise ValueError(f"no answer is left within {most} tokens; raise --max-length")
        return Extent(min(tokens, most), tiles, learned, max(0, tokens - most))

    def encode(self, line: DialogueLine, draw: Sequence[int]) -> EncodedDialogue:
        """Return a dialogue's ids and tiles.

        Args:
            draw: numbers from which all follows that is drawn: the seed, the round, the dialogue.
        """
        rng = np.random.default_rng(list(draw))
        if line.video is not None:
            count = int(rng.integers(self._settings.min_frames, self._settings.max_frames + 1))
            images = self._frames(line.video, count, line.clip)
            line, grids = line.with_frames(len(images)), self._frame_grids(len(images), images)
        else:
            images = [load_image(path) for path in line.images]
            grids = self._grids(line)
        whole = self._dialogue(line, grids)
        side = self._backbone.tiling.size
        tiles = [torch.zeros(0, side, side, 3, dtype=torch.uint8)]
        for image, grid in zip(images, grids, strict=True):
            tiles.append(_degraded(cut_tiles(image, grid), rng) if line.augment else cut_tiles(image, grid))
        most = self._settings.max_length
        return EncodedDialogue(torch.tensor(whole.ids[:most]), torch.tensor(whole.learned[:most]), torch.cat(tiles))

    def _dialogue(self, line: DialogueLine, grids: Sequence[TileGrid]) -> Dialogue:
        turns = line.turns
        if self._strips:
            turns = tuple((question.strip(), answer.strip()) for question, answer in turns)
        return self._backbone.prompts.write_dialogue(
            turns,
            [grid.tile_count * self._backbone.tokens_per_tile for grid in grids],
            [question.count(PLACEHOLDER) for question, _ in turns],
            system=line.system,
            end_ids=self._backbone.end_ids,
        )

    def _grids(self, line: DialogueLine) -> list[TileGrid]:
        most = line.max_tiles or self._settings.max_tiles or self._backbone.tiling.max_tiles
        shared = max(1, most // max(1, len(line.sizes)))
        return [self._backbone.grid_for(*size, shared) for size in line.sizes]

    def _frame_grids(self, count: int, frames: Sequence[Image.Image] = ()) -> list[TileGrid]:
        side = self._backbone.tiling.size
        return [self._backbone.grid_for(*size, 1) for size in [each.size for each in frames] or [(side, side)] * count]

    @staticmethod
    def _frames(video: Path, count: int, clip: tuple[float, float] | None) -> list[Image.Image]:
        """Frames from the middle of equal parts, as at inference; of a short folder of frames all."""
        if not video.is_dir():
            return list(sample_frames(str(video), segments=count, bounds=clip).images)
        files = frame_files(video)
        chosen = frame_indices(len(files), 1.0, count) if len(files) > count else range(len(files))
        return [load_image(files[index]) for index in chosen]


def check_lengths(lines: Sequence[DialogueLine], encoder: DialogueEncoder, faults: Faults) -> list[Extent | None]:
    """Return how much each dialogue takes; None after telling of one that does not fit."""
    found: dict[tuple[str, int], Extent | None] = {}
    for line in lines:
        place = (line.file, line.line)
        if place in found:
            continue
        try:
            found[place] = encoder.extent(line)
        except ValueError as error:
            faults.add("too long", line.file, f"line {line.line}", error)
            found[place] = None
    return [found[line.file, line.line] for line in lines]


def _degraded(tiles_NSS3: Tensor, rng: np.random.Generator) -> Tensor:
    """Each tile as a JPEG of a quality that is drawn."""
    shown = []
    for tile in tiles_NSS3:
        file = io.BytesIO()
        Image.fromarray(tile.numpy()).save(file, format="JPEG", quality=int(rng.integers(*_QUALITIES)))
        shown.append(torch.from_numpy(np.array(Image.open(file).convert("RGB"))))
    return torch.stack(shown)
