"""Embedders: the contract of what turns images and texts into vectors that can be compared.

An embedder that is registered in the group `vision_agent.embedders` is a class with two more methods, by which a
folder finds its class: `reads(folder) -> bool`, and `from_pretrained(folder, device) -> Embedder`.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from PIL import Image


@runtime_checkable
class Embedder(Protocol):
    """What turns images, and where it can texts, into unit vectors of one space.

    Attributes:
        name: of the model, for results.
        width: D, numbers in a vector.
        fingerprint: identifies the weights and how images are prepared; an index refuses another one.
        embeds_texts: whether `embed_texts` works.
        logit_scale: what a cosine is multiplied by before a softmax over labels; None where nothing fitted one.
        logit_bias: what is added then, where the model was trained with a sigmoid for each pair (as SigLIP is): a
            sigmoid says whether a text fits, whatever the other texts are. None where only comparing makes sense.
    """

    name: str
    width: int
    fingerprint: str
    embeds_texts: bool
    logit_scale: float | None
    logit_bias: float | None

    def embed_images(self, images: Sequence[Image.Image]) -> npt.NDArray[np.float32]:
        """Return float32 (N, D), rows of length one, of upright RGB images."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return float32 (N, D), rows of length one.

        Raises:
            InputError: the model embeds images alone, or a text is longer than it reads.
        """
        ...
