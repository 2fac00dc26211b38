"""Makes and changes images: the `[GEN]` and `[EDIT]` routes, forced.

The words and the routing token are given, their query states are read, and an `ImageDecoder` turns these into images
(the arrangement of VisionLLM v2, https://arxiv.org/abs/2406.08394, section 3.3).
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from vision_agent.errors import ArgumentTypeError, InputError, RouteError, bad_argument
from vision_agent.inference.decode import checked, decode, forced_states
from vision_agent.inference.engine import InferenceEngine
from vision_agent.plugins.image_decoder import ImageDecoder, ImageRequest
from vision_agent.results.generated import GeneratedImages, ImageOptions, Progress
from vision_agent.results.segmentation import Mask
from vision_agent.routing.adapter import Route

MaskSource = Mask | Image.Image | npt.NDArray[Any]

_REMEDY = "load an adapter that makes images with `load_adapter(folder)`"


def tie_networks(routes: Mapping[str, Route]) -> None:
    """Give every decoder that shares another's network that network, where both are loaded."""
    for route in routes.values():
        decoder = route.decoder
        if isinstance(decoder, ImageDecoder) and decoder.shared_with is not None and decoder.shared_with in routes:
            decoder.share_network(routes[decoder.shared_with].decoder)


class ImageGenerator:
    """Makes and changes images with one model.

    Args:
        routes: the loaded routes by name; routes that are loaded later count too.
    """

    def __init__(self, engine: InferenceEngine, routes: Mapping[str, Route]) -> None:
        self._engine = engine
        self._backbone = engine.backbone
        self._routes = routes

    def decoder(self, name: str) -> ImageDecoder:
        """Return the decoder of `"gen"` or `"edit"`.

        Raises:
            RouteError: no such route, one that makes no images, or one that shares its network with a route that is
                not loaded.
        """
        if name not in self._routes:
            raise RouteError(f"{self._backbone.name!r} has no [{name.upper()}] route to make images with: {_REMEDY}")
        decoder = self._routes[name].decoder
        if not isinstance(decoder, ImageDecoder):
            raise RouteError(f"the decoder of [{name.upper()}] is {type(decoder).__name__}, which makes no images")
        if decoder.shared_with is not None and decoder.shared_with not in self._routes:
            token = f"[{decoder.shared_with.upper()}]"
            raise RouteError(f"[{name.upper()}] shares the network of {token}, which is not loaded: {_REMEDY}")
        return decoder

    def generate(
        self,
        name: str,
        prompts: Sequence[str],
        options: ImageOptions,
        negative_prompt: str | None,
        progress: Progress | None,
        image: Image.Image | None = None,
        mask: npt.NDArray[np.bool_] | None = None,
    ) -> GeneratedImages:
        """Return one image for each prompt, by the route of this name."""
        self.decoder(name)  # raises where it cannot
        route = self._routes[name]
        if options.seed is None:
            options = replace(options, seed=secrets.randbelow(2**31))
        asked = [*prompts, *([negative_prompt] if negative_prompt else [])]
        read = forced_states(self._engine, route, asked, [] if image is None else [image])
        request = ImageRequest(
            phrases=tuple(prompts),
            grid=read.request(self._backbone.name).grid,
            model=self._backbone.name,
            options=options,
            mask=mask,
            negative_prompt=negative_prompt or "",
            away_1NC=read.states_KNC[-1:] if negative_prompt else None,
            progress=progress,
        )
        made = decode(self._engine, route, replace(read, states_KNC=read.states_KNC[: len(prompts)]), request)
        return checked(route, made, GeneratedImages)


def read_mask(mask: MaskSource | None, size: tuple[int, int]) -> npt.NDArray[np.bool_] | None:
    """Return a mask for an image of (width, height): bool (height, width), True where the image may change.

    Args:
        mask: a `Mask`, an image (white may change), or an array (height, width) of bools or numbers.

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
        raise ArgumentTypeError(bad_argument("mask", "a Mask, an image or an array of bools", mask))
    expected = (size[1], size[0])
    if array.shape != expected:
        raise InputError(bad_argument("mask", f"of shape {expected}, (height, width) of the image", array.shape))
    if not array.any():
        raise InputError(bad_argument("mask", "True somewhere: an empty one lets nothing change", "False everywhere"))
    return np.ascontiguousarray(array)
