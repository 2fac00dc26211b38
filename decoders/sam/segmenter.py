"""Masks from boxes and points."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from vision_agent.errors import InputError, bad_argument
from vision_agent.images.loading import ImageLimits, ImageSource, load_image
from vision_agent.model.devices import choose_device, choose_dtype
from vision_agent.plugins.segmenter import Segmenter
from vision_agent.results.segmentation import Mask, Segmentation

from .loading import load_network
from .network import OBJECTS_AT_ONCE, Network
from .prompts import Prompts


class SamSegmenter(Segmenter):
    """Makes masks from boxes and points. One may be shared by threads; calls take turns.

    Example:
        >>> sam = SamSegmenter.from_pretrained("sam2.1-hiera-small")  # doctest: +SKIP
        >>> sam.segment("dog.jpg", boxes=[[40, 60, 300, 400]], labels=["dog"])[0].mask.area  # doctest: +SKIP
        51234
    """

    name = "sam"

    def __init__(self, network: Network, *, model: str, cache_bytes: int = 256 * 2**20) -> None:
        """Use `from_pretrained`.

        Args:
            network: what encodes and decodes.
            model: name of the checkpoint.
            cache_bytes: most bytes of encoded images that are cached; 0 for none.
        """
        self.model = model
        self._network = network
        self._cache_bytes = cache_bytes
        self._seen: OrderedDict[str, tuple[Tensor, ...]] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        *,
        cache_bytes: int = 256 * 2**20,
    ) -> Self:
        """Load a checkpoint: a transformers folder, a Sa2VA folder, or a file of the `segment-anything` package.

        Args:
            path: the folder or file. No code in it is ever run.
            device: `"auto"` (CUDA, then MPS, then CPU) or any torch device.
            dtype: what the image encoder computes in; `"auto"` takes what the device computes fast.
            cache_bytes: most bytes of encoded images that are cached; 0 for none.

        Raises:
            CheckpointError: nothing there, damaged or missing weights, or another kind of model.
            MissingExtraError: a file of the `segment-anything` package, and that package is not installed.
            ConfigError: a device or dtype that does not exist here.
        """
        source = Path(path)
        place = choose_device(device)
        network = load_network(source)
        network.place(place, choose_dtype(place, dtype, parameters=network.parameter_count))
        return cls(network, model=source.name if source.is_dir() else source.stem, cache_bytes=cache_bytes)

    def clear_cache(self) -> None:
        """Forget all encoded images."""
        with self._lock:
            self._seen.clear()

    def segment(
        self,
        image: ImageSource,
        *,
        boxes: npt.ArrayLike | None = None,
        points: npt.ArrayLike | None = None,
        point_labels: npt.ArrayLike | None = None,
        labels: Sequence[str] | None = None,
        scores: Sequence[float] | None = None,
        phrases: Sequence[str] | None = None,
        model: str | None = None,
        limits: ImageLimits | None = None,
    ) -> Segmentation:
        """Return one segment for each box, or for each object's points, in their order.

        A box gives the single mask that the model makes for it. Points alone are ambiguous (the shirt or the man?):
        of the masks that the model proposes, the one it rates best is taken.

        Args:
            image: anything `load_image` takes.
            boxes: (n, 4) xyxy in pixels of the upright original. What reaches over the edge of the image is cut off.
            points: (n, 2) x, y, one point for each object, or (n, k, 2), k points for each; with `boxes` they refine
                the object of the same row.
            point_labels: (n, k), or (n,) for points (n, 2): 1 for on the object, 0 for beside it; all 1 if None.
            labels: what the n objects are; "object" if None.
            scores: how sure it is that they are there, 0..1; None for the model's own rating of the masks, which
                `Segment.mask_score` holds in any case.
            phrases: what was asked for, for the result; the labels if None.
            model: name of the model that found the boxes, for the result; this one if None.
            limits: what `load_image` accepts; its own defaults if None.

        Raises:
            InputError: no boxes and no points, an empty list, another shape, numbers that are not finite, a box that
                is turned inside out or without area inside the image, a point outside it, an object without a point
                on it, lists of several lengths, or an image that cannot be read.
            ArgumentTypeError: `image` is no image.
        """
        loaded = load_image(image, limits=limits or ImageLimits())
        prompts = Prompts.check(boxes, points, point_labels, loaded.size)
        count = len(prompts)
        for name, values in (("labels", labels), ("scores", scores)):
            if values is not None and (isinstance(values, str) or len(values) != count):
                raise InputError(bad_argument(name, f"{count} of them, one for each object", values))
        masks, ratings = [], []
        with self._lock, torch.inference_mode():
            features = self._encoded(loaded)
            for first in range(0, count, OBJECTS_AT_ONCE):
                some = prompts.rows(slice(first, first + OBJECTS_AT_ONCE))
                for mask, rating in self._network.decode(features, some, loaded.size):
                    masks.append(Mask.from_runs(mask))
                    ratings.append(min(max(rating, 0.0), 1.0))  # SAM 1 rates without a bound
        names = list(labels) if labels is not None else ["object"] * count
        return Segmentation.from_masks(
            masks,
            scores if scores is not None else ratings,
            names,
            xyxy=prompts.boxes_of(masks),
            mask_scores=ratings,
            image_size=loaded.size,
            model=self.model if model is None else model,
            phrases=tuple(dict.fromkeys(names)) if phrases is None else tuple(phrases),
            decoder=self.name,
        )

    def _encoded(self, image: Image.Image) -> tuple[Tensor, ...]:
        key = f"{image.size}{hashlib.sha256(image.tobytes()).hexdigest()}"
        if key in self._seen:
            self._seen.move_to_end(key)
            return self._seen[key]
        features = self._network.encode(image)
        self._seen[key] = features
        while sum(map(_byte_count, self._seen.values())) > self._cache_bytes:
            self._seen.popitem(last=False)
        return features


def _byte_count(features: tuple[Tensor, ...]) -> int:
    return sum(each.numel() * each.element_size() for each in features)
