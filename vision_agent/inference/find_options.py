"""How objects are looked for: the settings that all verbs that find objects share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypedDict

import numpy.typing as npt

from vision_agent.inference.detail import Detail, check_detail
from vision_agent.inference.tile_layout import Tiles, check_tiling
from vision_agent.model.tile_bounds import MULTI_SCALE, TileBound
from vision_agent.plugins.segmenter import Segmenter
from vision_agent.validation import check_switch, check_threshold


class FindSettings(TypedDict, total=False):
    """The settings of verbs that find objects by phrase; they are explained at `VisionAgent.detect`."""

    threshold: float | None
    only_known: bool
    tiles: Tiles
    detail: Detail | None


class SegmentSettings(FindSettings, total=False):
    """The settings of `VisionAgent.segment`."""

    boxes: npt.ArrayLike | None
    points: npt.ArrayLike | None
    point_labels: npt.ArrayLike | None
    segmenter: Segmenter | str | Path | None


@dataclass(frozen=True)
class FindOptions:
    """The same, checked.

    Attributes:
        threshold: least score, 0-1; None for the decoder's own.
        only_known: nothing is looked for by a phrase of which the model was taught no word.
        tiles: see `Tiles`.
        detail: see `Detail`; None for what the decoder's scores were fitted with.
        tile_threshold: least score of what is found in a tile alone; None for `threshold` or, where that is None too,
            for one that takes more tiles for more chances to err.
    """

    threshold: float | None = None
    only_known: bool = True
    tiles: Tiles = None
    detail: Detail | None = None
    tile_threshold: float | None = None

    @property
    def max_tiles(self) -> TileBound:
        """Most of the checkpoint's own tiles in which an image is seen; None for its own bound."""
        if self.tiles == MULTI_SCALE:
            return MULTI_SCALE
        return 1 if self.detail == "low" else None

    @classmethod
    def of(
        cls, threshold: object = None, only_known: object = True, tiles: object = None, detail: object = None
    ) -> Self:
        """Check what a caller gave.

        Raises:
            InputError: a threshold outside 0-1, a wrong number of tiles, or an unknown detail.
            ArgumentTypeError: `only_known` is neither True nor False.
        """
        check_threshold(threshold)
        check_switch("only_known", only_known)
        least = None if threshold is None else float(threshold)  # type: ignore[arg-type]  # a number, as was checked
        return cls(least, bool(only_known), check_tiling(tiles), check_detail(detail))
