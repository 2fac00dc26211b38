"""In how many tiles a model sees an image: what callers say of it, checked. Needs no torch."""

from typing import Any, Literal, TypeAlias, get_args

from vision_agent.errors import InputError, bad_argument

MultiScale: TypeAlias = Literal["multi-scale"]
"""Two tilings of an image whose cuts lie in different places, so that what one cuts is whole in the other: a coarse one
of 3 to 7 tiles, then one of 4 to 12, then the thumbnail, as Mini-Monkey has it (https://arxiv.org/abs/2408.02034)."""

TileBound: TypeAlias = int | MultiScale | None
"""Most tiles of an image, the thumbnail left out; None for the checkpoint's own bound; or its tiles in two scales."""

MULTI_SCALE: MultiScale = "multi-scale"


def one_bound(tiles: object, max_tiles: object) -> Any:
    """Return the bound that two arguments say together. Raises InputError for both, or unknown `tiles`."""
    if tiles is None:
        return max_tiles
    if tiles != MULTI_SCALE:
        raise InputError(bad_argument("tiles", f"None or {MULTI_SCALE!r}", tiles))
    if max_tiles is not None:
        raise InputError(bad_argument("max_tiles", f"left out beside `tiles`={MULTI_SCALE!r}", max_tiles))
    return MULTI_SCALE


def check_tiles(max_tiles: object, images: int) -> tuple[TileBound, ...]:
    """Return the bound on tiles of each image.

    Raises:
        InputError: not None, one number from 1 to 40, "multi-scale", or one of these for each image.
    """
    many: list[Any] = list(max_tiles) if isinstance(max_tiles, list | tuple) else [max_tiles] * images
    known = (None, *get_args(MultiScale))
    if len(many) != images or not all(n in known or (type(n) is int and 1 <= n <= 40) for n in many):
        expected = f"a whole number from 1 to 40, or a list of {images}, one for each image"
        raise InputError(bad_argument("max_tiles", expected, max_tiles))
    return tuple(many)
