"""Makes and changes pictures: the `[GEN]` and `[EDIT]` routes, forced, and the contract of their decoders.

The words and the routing token are given, their query states are read, and a `PictureDecoder` turns these into pictures
(the arrangement of VisionLLM v2, https://arxiv.org/abs/2406.08394, section 3.3).

Shape suffixes: K prompts, N states a token, C hidden size.
"""

import secrets
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from vision_agent.errors import ArgumentTypeError, InputError, RouteError, bad_argument
from vision_agent.geometry.frames import TileGrid
from vision_agent.inference.engine import Responder
from vision_agent.inference.predictor import prepared
from vision_agent.plugins.decoder import Decoder, DecodeRequest
from vision_agent.results.generated import GeneratedImage, GeneratedImages, PictureOptions, Progress
from vision_agent.results.segmentation import Mask
from vision_agent.routing.adapter import Route
from vision_agent.routing.states import read_forced
from vision_agent.validation import LONGEST_PHRASE

MaskSource = Mask | Image.Image | npt.NDArray[Any]

_MOST_PICTURES = 64
_NO_PICTURE = TileGrid(1, 1, 1, 1)
_SAME_EACH_TIME = PictureOptions(seed=0)
_REMEDY = "load an adapter that makes pictures with `load_adapter(folder)`"


@dataclass(frozen=True)
class PictureRequest(DecodeRequest):
    """What a picture decoder is told besides the states; a free route gets a plain `DecodeRequest`.

    Attributes:
        options: with a seed.
        mask: bool (H, W) of the picture to change, True where it may change; None for everywhere.
        negative_prompt: what to move away from.
        away_1NC: its states; None where there is none.
        progress: told after each step.
    """

    options: PictureOptions = _SAME_EACH_TIME
    mask: npt.NDArray[np.bool_] | None = None
    negative_prompt: str = ""
    away_1NC: Tensor | None = None
    progress: Progress | None = None

    @classmethod
    def of(cls, request: DecodeRequest) -> "PictureRequest":
        """Any request as one for pictures. Where nothing was said, the seed is 0: an answer is always the same."""
        if isinstance(request, PictureRequest):
            return request
        return cls(request.phrases, request.grid, request.model, request.threshold, request.scores)


class PictureDecoder(Decoder):
    """Base class of decoders that make pictures from words or, where `needs_picture`, change one.

    Attributes:
        largest_side: most pixels a side.
        lender: name of the route whose decoder holds the network this one shares; None if it has its own.
    """

    largest_side: int = 2048
    lender: str | None = None

    @abstractmethod
    def decode(self, states_KNC: Tensor, prepared: Any, request: DecodeRequest) -> GeneratedImages:
        """One picture for each phrase; picture k takes the seed plus k."""

    def unknown_words(self, prompt: str) -> tuple[str, ...]:
        """Words of a prompt that this decoder was never taught."""
        return ()

    def borrow(self, other: Decoder) -> None:
        """Take the network of the lender's decoder."""


def link_lenders(routes: Mapping[str, Route]) -> None:
    """Give every decoder that shares another's network that network, where both are loaded."""
    for route in routes.values():
        decoder = route.decoder
        if isinstance(decoder, PictureDecoder) and decoder.lender is not None and decoder.lender in routes:
            decoder.borrow(routes[decoder.lender].decoder)


class Drawer:
    """Makes and changes pictures with one model.

    Args:
        routes: the loaded routes by name; routes that are loaded later count too.
    """

    def __init__(self, responder: Responder, routes: Mapping[str, Route]) -> None:
        self._responder = responder
        self._backbone = responder.backbone
        self._routes = routes

    def decoder(self, name: str) -> PictureDecoder:
        """The decoder of `"gen"` or `"edit"`.

        Raises:
            RouteError: no such route, one that makes no pictures, or one whose lender is not loaded.
        """
        if name not in self._routes:
            raise RouteError(f"{self._backbone.name!r} has no [{name.upper()}] route to make pictures with: {_REMEDY}")
        decoder = self._routes[name].decoder
        if not isinstance(decoder, PictureDecoder):
            raise RouteError(f"the decoder of [{name.upper()}] is {type(decoder).__name__}, which makes no pictures")
        if decoder.lender is not None and decoder.lender not in self._routes:
            token = f"[{decoder.lender.upper()}]"
            raise RouteError(f"[{name.upper()}] draws with the network of {token}, which is not loaded: {_REMEDY}")
        return decoder

    def draw(
        self,
        name: str,
        prompts: Sequence[str],
        options: PictureOptions,
        negative_prompt: str | None,
        progress: Progress | None,
        picture: Image.Image | None = None,
        mask: npt.NDArray[np.bool_] | None = None,
    ) -> GeneratedImages:
        """One picture for each prompt, by the route of this name."""
        decoder = self.decoder(name)
        route = self._routes[name]
        if options.seed is None:
            options = replace(options, seed=secrets.randbelow(2**31))
        asked = [*prompts, *([negative_prompt] if negative_prompt else [])]
        with self._responder.lock, torch.inference_mode():
            seen = None if picture is None else self._responder.see(picture)
            tokens_TC = torch.empty(0, self._backbone.hidden_size) if seen is None else seen.encoded.tokens_TC
            counts = [] if seen is None else [len(tokens_TC)]
            states_KNC = read_forced(self._backbone, route, tokens_TC, counts, asked).float()
            request = PictureRequest(
                phrases=tuple(prompts),
                grid=_NO_PICTURE if seen is None else seen.encoded.grid,
                model=self._backbone.name,
                options=options,
                mask=mask,
                negative_prompt=negative_prompt or "",
                away_1NC=states_KNC[-1:] if negative_prompt else None,
                progress=progress,
            )
            ready = None if seen is None else prepared(seen, route)
            return decoder.decode(states_KNC[: len(prompts)], ready, request)


def finished(
    decoder: PictureDecoder,
    name: str,
    pictures: Sequence[Image.Image],
    request: PictureRequest,
    *,
    steps: int,
    guidance: float,
) -> GeneratedImages:
    """Pictures as results: what every picture decoder returns.

    Args:
        name: the decoder's name.
        steps, guidance: those that were taken.
    """
    seed = request.options.seed or 0
    return GeneratedImages(
        images=tuple(
            GeneratedImage.of(
                picture,
                prompt=prompt,
                seed=seed + number,
                steps=steps,
                guidance=guidance,
                negative_prompt=request.negative_prompt,
                unknown_words=decoder.unknown_words(prompt),
                edited=decoder.needs_picture,
                model=request.model,
                decoder=name,
            )
            for number, (prompt, picture) in enumerate(zip(request.phrases, pictures, strict=True))
        )
    )


def check_prompts(name: str, prompt: object) -> tuple[str, ...]:
    """One prompt or a list of them, checked; `name` is the argument's name.

    Raises:
        InputError: none at all, an empty one, one that is too long, or too many.
        ArgumentTypeError: no string.
    """
    items = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
        raise ArgumentTypeError(bad_argument(name, "a string or a list of strings", prompt))
    if not 1 <= len(items) <= _MOST_PICTURES:
        raise InputError(bad_argument(name, f"from 1 to {_MOST_PICTURES} prompts", f"{len(items)} of them"))
    for index, item in enumerate(items):
        where = name if isinstance(prompt, str) else f"{name}[{index}]"
        if not item.strip():
            raise InputError(bad_argument(where, "some words", item))
        if len(item) > LONGEST_PHRASE:
            raise InputError(bad_argument(where, f"at most {LONGEST_PHRASE} characters", item))
    return tuple(items)


def check_progress(progress: object) -> None:
    """Raises ArgumentTypeError for what cannot be called."""
    if progress is not None and not callable(progress):
        raise ArgumentTypeError(bad_argument("progress", "a function of (step, steps, preview)", progress))


def read_mask(mask: MaskSource | None, size: tuple[int, int]) -> npt.NDArray[np.bool_] | None:
    """A mask for a picture of (width, height): bool (height, width), True where the picture may change.

    Args:
        mask: a `Mask`, a picture (white may change), or an array (height, width) of bools or numbers.

    Raises:
        InputError: another shape, or nothing that may change.
        ArgumentTypeError: no mask at all.
    """
    if mask is None:
        return None
    if isinstance(mask, Mask):
        array = mask.to_array()
    elif isinstance(mask, Image.Image):
        array = np.asarray(mask.convert("L")) > 127
    elif isinstance(mask, np.ndarray):
        array = mask if mask.dtype == np.bool_ else mask > (127 if mask.dtype == np.uint8 else 0.5)
    else:
        raise ArgumentTypeError(bad_argument("mask", "a Mask, a picture or an array of bools", mask))
    expected = (size[1], size[0])
    if array.shape != expected:
        raise InputError(bad_argument("mask", f"of shape {expected}, (height, width) of the picture", array.shape))
    if not array.any():
        raise InputError(bad_argument("mask", "True somewhere: an empty one lets nothing change", "False everywhere"))
    return np.ascontiguousarray(array)
