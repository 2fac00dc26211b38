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
    """What turns images, and where it can texts, into unit vectors of one space."""

    @property
    def name(self) -> str:
        """The model's name, for results."""

    @property
    def width(self) -> int:
        """D, numbers in a vector."""

    @property
    def fingerprint(self) -> str:
        """What identifies the weights and how images are prepared; an index refuses another one."""

    @property
    def embeds_texts(self) -> bool:
        """Whether `embed_texts` works."""

    @property
    def logit_scale(self) -> float | None:
        """What a cosine is multiplied by before a softmax over labels; None, for 100, where nothing fitted one."""

    @property
    def logit_bias(self) -> float | None:
        """What is added then, where the model was trained with a sigmoid for each pair, as SigLIP is.

        The sigmoid says whether a text fits, whatever the other texts are. None where only comparing makes sense.
        """

    def embed_images(self, images: Sequence[Image.Image]) -> npt.NDArray[np.float32]:
        """Return float32 (N, D), rows of length one, of upright RGB images."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return float32 (N, D), rows of length one.

        Raises:
            InputError: the model embeds images alone, or a text is longer than it reads.
        """
        ...
