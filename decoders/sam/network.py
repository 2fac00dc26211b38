"""What every generation of SAM has in common: an image on a canvas, prompts in, small mask logits out.

A prompt is a box, points, or *tokens*: vectors of the width that SAM's own prompt encoder makes of a point. A token may
come from anywhere, from a language model's state for example, as in LISA (https://arxiv.org/abs/2308.00692) and Sa2VA
(https://arxiv.org/abs/2501.04001).

Shape suffixes: N objects, K points or tokens of an object, E width of a token, M proposals for an object, h and w small
masks.
"""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from vision_agent.geometry.rle import RunLengths
from vision_agent.model.devices import computing_in

from .prompts import Floats, Prompts

OBJECTS_AT_ONCE = 64  # a decoder call holds some 30 MB for each object


class Network(ABC):
    """A loaded model: images to features, features and prompts to masks.

    Attributes:
        side: of the square canvas that the encoder takes, pixels.
        pads: whether the image keeps its shape on the canvas, which is filled up at the right and at the foot;
            otherwise it is stretched to fill it.
        enlarges: whether small masks are enlarged to the canvas first and to the image's size then, as the model's
            authors do; the rims differ a little from those of one step.
        resampling: how Pillow resizes the image for the canvas; None for torch's smoothed bilinear resizing, which
            rounds a little differently from Pillow's.
        mean, std: of the pixels, 0..1, red, green, blue.
        module: the torch module with the weights.
    """

    side: int
    pads: bool
    enlarges: bool = False
    resampling: Image.Resampling | None = None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    module: Any

    @property
    def parameter_count(self) -> int:
        """Number of weights."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    @property
    @abstractmethod
    def token_width(self) -> int:
        """E, the width of a prompt token."""

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move the weights, frozen; the encoder is to compute in `dtype`."""
        self.module.to(device).eval().requires_grad_(False)
        self._device, self._dtype = device, dtype

    @abstractmethod
    def features(self, pixels_1CHW: Tensor) -> tuple[Tensor, ...]:
        """Encode a canvas."""

    @abstractmethod
    def masks(
        self,
        features: tuple[Tensor, ...],
        points_NK2: Tensor | None,
        labels_NK: Tensor | None,
        boxes_N4: Tensor | None,
        *,
        several: bool,
    ) -> tuple[Tensor, Tensor]:
        """Turn prompts in pixels of the canvas into mask logits (N, M, h, w) of the canvas and ratings (N, M).

        M is 1, or more where `several` proposals are wanted.
        """

    @abstractmethod
    def masks_of_tokens(self, features: tuple[Tensor, ...], tokens_NKE: Tensor) -> tuple[Tensor, Tensor]:
        """Turn prompt tokens of N objects into mask logits (N, M, h, w) of the canvas and ratings (N, M).

        Gradients reach the tokens.
        """

    def encode(self, image: Image.Image) -> tuple[Tensor, ...]:
        """Encode an upright RGB image; features in fp32."""
        with self.encoding():
            features = self.features(self.canvas(image))
        return tuple(each.float() for each in features)

    def encoding(self) -> AbstractContextManager[Any]:
        """Return a context in which the encoder computes in its number format."""
        return computing_in(self._device, self._dtype)

    def decode(
        self, features: tuple[Tensor, ...], prompts: Prompts, image_size: tuple[int, int]
    ) -> list[tuple[RunLengths, float]]:
        """Return the best mask for each object, of the image's size, and its rating. All objects go together."""
        scale = np.array(self.shown(image_size), np.float64) / image_size

        def tensor(values: Floats | None, factor: Floats) -> Tensor | None:
            return None if values is None else torch.tensor(values * factor, dtype=torch.float32, device=self._device)

        logits_NMhw, ratings_NM = self.masks(
            features,
            tensor(prompts.points, scale),
            None if prompts.labels is None else torch.tensor(prompts.labels, device=self._device),
            tensor(prompts.boxes, np.tile(scale, 2)),
            several=prompts.boxes is None,
        )
        return self.best(logits_NMhw, ratings_NM, image_size)

    def best(
        self, logits_NMhw: Tensor, ratings_NM: Tensor, image_size: tuple[int, int]
    ) -> list[tuple[RunLengths, float]]:
        """Return the proposal that the model rates best for each object, of the image's size, and its rating."""
        best_N = ratings_NM.float().argmax(1)
        found = []
        for logits_Mhw, ratings_M, best in zip(logits_NMhw, ratings_NM, best_N.tolist(), strict=True):
            found.append((self.enlarged(logits_Mhw[best], image_size), float(ratings_M[best])))
        return found

    def enlarged(self, logits_hw: Tensor, image_size: tuple[int, int]) -> RunLengths:
        """Return the mask of the image's size that small logits of the canvas stand for."""
        logits_hw = logits_hw.float()
        if self.pads or self.enlarges:
            size = (self.side, self.side)
            logits_hw = F.interpolate(logits_hw[None, None], size, mode="bilinear", align_corners=False)[0, 0]
        if self.pads:  # the image's part of the canvas ends between two of the small pixels
            width, height = self.shown(image_size)
            logits_hw = logits_hw[:height, :width]
        return RunLengths.from_logits(logits_hw.cpu().numpy(), (image_size[1], image_size[0]))

    def shown(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Return (width, height) of the image on the canvas, pixels."""
        if not self.pads:
            return self.side, self.side
        scale = self.side / max(image_size)
        width, height = (max(1, int(side * scale + 0.5)) for side in image_size)
        return width, height

    def canvas(self, image: Image.Image) -> Tensor:
        """Return normalised pixels (1, 3, side, side)."""
        width, height = self.shown(image.size)
        if self.resampling is not None:
            image = image.resize((width, height), self.resampling)
        bytes_1CHW = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
        if self.resampling is None:
            bytes_1CHW = F.interpolate(bytes_1CHW, (height, width), mode="bilinear", antialias=True)
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        pixels_1CHW = (bytes_1CHW.float() / 255 - mean) / std
        return F.pad(pixels_1CHW, (0, self.side - width, 0, self.side - height)).to(self._device)
