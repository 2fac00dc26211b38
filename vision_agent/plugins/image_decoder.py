"""Image decoders: the contract of the decoders that make images, or change one, from the states of a route."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from vision_agent.plugins.decoder import Decoder, DecodeRequest
from vision_agent.results.generated import GeneratedImage, GeneratedImages, ImageOptions, Progress

_FIXED_SEED = ImageOptions(seed=0)


@dataclass(frozen=True)
class ImageRequest(DecodeRequest):
    """The request to an image decoder. Where the model takes the route by itself it is a plain `DecodeRequest`.

    Attributes:
        options: with a seed.
        mask: bool (H, W) of the image to change, True where it may change; None for everywhere.
        negative_prompt: what to move away from.
        away_1NC: its states; None where there is none.
        progress: called after each step.
    """

    options: ImageOptions = _FIXED_SEED
    mask: npt.NDArray[np.bool_] | None = None
    negative_prompt: str = ""
    away_1NC: Tensor | None = None
    progress: Progress | None = None

    @classmethod
    def of(cls, request: DecodeRequest) -> "ImageRequest":
        """Return any request as one for images. The default seed is 0: an answer is always the same."""
        if isinstance(request, ImageRequest):
            return request
        return cls(request.phrases, request.grid, request.model, request.threshold, request.scores)


class ImageDecoder(Decoder):
    """Base class of decoders that make images from words or, where `needs_image`, change one.

    Attributes:
        largest_side: most pixels a side.
        shared_with: name of the route whose decoder has the network that this one shares; None if it has its own.
    """

    largest_side: int = 2048
    shared_with: str | None = None

    @abstractmethod
    def decode(self, states_KNC: Tensor, prepared: Any, request: DecodeRequest) -> GeneratedImages:
        """Return one image for each phrase; image k takes the seed plus k."""

    def unknown_words(self, prompt: str) -> tuple[str, ...]:
        """Return the words of a prompt that this decoder was never taught."""
        return ()

    def share_network(self, other: Decoder) -> None:
        """Take the network of the decoder that it is shared with."""


def finished(
    decoder: ImageDecoder,
    name: str,
    images: Sequence[Image.Image],
    request: ImageRequest,
    *,
    steps: int,
    guidance: float,
) -> GeneratedImages:
    """Return images as results: what every image decoder returns.

    Args:
        name: the decoder's name.
        steps, guidance: those that were taken.
    """
    seed = request.options.seed or 0
    return GeneratedImages(
        images=tuple(
            GeneratedImage.of(
                image,
                prompt=prompt,
                seed=seed + number,
                steps=steps,
                guidance=guidance,
                negative_prompt=request.negative_prompt,
                unknown_words=decoder.unknown_words(prompt),
                edited=decoder.needs_image,
                model=request.model,
                decoder=name,
            )
            for number, (prompt, image) in enumerate(zip(request.phrases, images, strict=True))
        )
    )
