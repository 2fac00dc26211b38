"""TODO docstring."""

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

_SAME_EACH_TIME = ImageOptions(seed=0)


@dataclass(frozen=True)
class ImageRequest(DecodeRequest):
    """What an image decoder is told besides the states; a free route gets a plain `DecodeRequest`.

    Attributes:
        options: with a seed.
        mask: bool (H, W) of the image to change, True where it may change; None for everywhere.
        negative_prompt: what to move away from.
        away_1NC: its states; None where there is none.
        progress: told after each step.
    """

    options: ImageOptions = _SAME_EACH_TIME
    mask: npt.NDArray[np.bool_] | None = None
    negative_prompt: str = ""
    away_1NC: Tensor | None = None
    progress: Progress | None = None

    @classmethod
    def of(cls, request: DecodeRequest) -> "ImageRequest":
        """Any request as one for images. Where nothing was said, the seed is 0: an answer is always the same."""
        if isinstance(request, ImageRequest):
            return request
        return cls(request.phrases, request.grid, request.model, request.threshold, request.scores)


class ImageDecoder(Decoder):
    """Base class of decoders that make images from words or, where `needs_image`, change one.

    Attributes:
        largest_side: most pixels a side.
        shared_with: name of the route whose decoder holds the network this one shares; None if it has its own.
    """

    largest_side: int = 2048
    shared_with: str | None = None

    @abstractmethod
    def decode(self, states_KNC: Tensor, prepared: Any, request: DecodeRequest) -> GeneratedImages:
        """One image for each phrase; image k takes the seed plus k."""

    def unknown_words(self, prompt: str) -> tuple[str, ...]:
        """Words of a prompt that this decoder was never taught."""
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
    """Images as results: what every image decoder returns.

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
