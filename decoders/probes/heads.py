"""Heads on a frozen image tower, as they are kept in a folder and asked about images.

Shape suffixes: B images, N vectors, D width, K classes, C channels, H and W cells or pixels.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from vision_agent.errors import AdapterMismatchError, CheckpointError
from vision_agent.images.loading import ImageSource, load_image
from vision_agent.model.backbone import Backbone
from vision_agent.model.tensor_files import save_file
from vision_agent.results.classification import Classification, LabelScore
from vision_agent.results.segmentation import Mask, Segment, Segmentation

from .tower_features import TowerFeatures

if TYPE_CHECKING:
    from vision_agent import VisionAgent

HeadKind = Literal["linear", "pyramid"]
_SETTINGS, _WEIGHTS = "head.json", "head.safetensors"
_BINS = (1, 2, 3, 6)  # of the pyramid: how finely each of its levels sees the whole image


class Head(nn.Module):
    """What heads share: their classes, and the model they were trained on."""

    kind: str

    def __init__(self, names: Sequence[str], fingerprint: str, tiles: int) -> None:
        super().__init__()
        self.names = tuple(names)
        self.fingerprint = fingerprint
        self.tiles = tiles

    def settings(self) -> dict[str, Any]:
        """Return what `load_head` needs beside the weights."""
        return {"kind": self.kind, "names": self.names, "fingerprint": self.fingerprint, "tiles": self.tiles}

    def save(self, folder: Path) -> None:
        """Write the head into a folder, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{_WEIGHTS}.part"
        save_file({name: each.contiguous() for name, each in self.state_dict().items()}, part)
        os.replace(part, folder / _WEIGHTS)
        settings = folder / f"{_SETTINGS}.part"
        settings.write_text(json.dumps(self.settings(), indent=1, ensure_ascii=False) + "\n", "utf-8")
        os.replace(settings, folder / _SETTINGS)

    def features(self, backbone: Backbone) -> TowerFeatures:
        """Return what the head reads of images. Raises AdapterMismatchError for another model."""
        if backbone.fingerprint != self.fingerprint:
            raise AdapterMismatchError(f"the head was trained on another model than {backbone.name!r}")
        return TowerFeatures(backbone, self.tiles)


class ClassifyHead(Head):
    """A linear probe: which of its classes an image shows."""

    kind = "classify"

    def __init__(self, names: Sequence[str], fingerprint: str, tiles: int, width: int) -> None:
        super().__init__(names, fingerprint, tiles)
        self.register_buffer("mean_D", torch.zeros(width))
        self.register_buffer("scale_D", torch.ones(width))
        self.linear = nn.Linear(width, len(self.names))

    def forward(self, vectors_ND: Tensor) -> Tensor:
        """Return the logits (N, K) of vectors."""
        logits_NK: Tensor = self.linear((vectors_ND - self.get_buffer("mean_D")) * self.get_buffer("scale_D"))
        return logits_NK

    @torch.inference_mode()
    def classify(self, agent: "VisionAgent", image: ImageSource) -> Classification:
        """Return the classes of an image, best first, with scores that sum to one.

        Raises:
            AdapterMismatchError: the agent has another model than the head was trained on.
            InputError: an image that cannot be read.
        """
        features = self.features(agent.backbone)
        scores_K = self(features.vector(load_image(image))[None]).softmax(-1)[0].double()
        scores_K = scores_K / scores_K.sum()
        ordered = sorted(zip(scores_K.tolist(), self.names, strict=True), key=lambda pair: (-pair[0], pair[1]))
        return Classification(
            scores=tuple(LabelScore(label=name, score=min(1.0, score)) for score, name in ordered),
            none_of_these=None,
            none_score=None,
            threshold=None,
            method="probe",
            model=agent.model,
        )


class SemanticHead(Head):
    """Says of each pixel which class it belongs to.

    `"linear"` reads each cell alone, as the official linear head does; `"pyramid"` also sees the whole image, pooled
    into 1, 4, 9 and 36 parts, and the cells around.
    """

    kind = "semseg"

    def __init__(
        self,
        names: Sequence[str],
        fingerprint: str,
        tiles: int,
        width: int,
        head: HeadKind = "linear",
        hidden: int = 128,
    ) -> None:
        super().__init__(names, fingerprint, tiles)
        self.head, self.hidden = head, hidden
        self.norm = nn.BatchNorm2d(width)
        read = width
        if head == "pyramid":
            self.narrow = nn.Sequential(nn.Conv2d(width, hidden, 1), nn.ReLU())
            self.levels = nn.ModuleList(nn.Sequential(nn.Conv2d(hidden, hidden // 4, 1), nn.ReLU()) for _ in _BINS)
            self.join = nn.Sequential(
                nn.Conv2d(hidden + hidden // 4 * len(_BINS), hidden, 3, padding=1, bias=False),
                nn.BatchNorm2d(hidden),
                nn.ReLU(),
            )
            read = hidden
        self.classes = nn.Conv2d(read, len(self.names), 1)

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"head": self.head, "hidden": self.hidden}

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        """Return the logits (B, K, H, W) of maps."""
        seen = self.norm(maps_BCHW.float())
        if self.head == "pyramid":
            seen, size = self.narrow(seen), seen.shape[2:]
            pooled = [
                functional.interpolate(level(functional.adaptive_avg_pool2d(seen, bins)), size, mode="bilinear")
                for level, bins in zip(self.levels, _BINS, strict=True)
            ]
            seen = self.join(torch.cat([seen, *pooled], dim=1))
        logits_BKHW: Tensor = self.classes(seen)
        return logits_BKHW

    @torch.inference_mode()
    def scores(self, features: TowerFeatures, image: Image.Image) -> Tensor:
        """Return how likely each class is at each pixel of an image, (K, H, W)."""
        self.eval()
        logits = self(features.map(image)[None])
        size = (image.height, image.width)
        return functional.interpolate(logits, size, mode="bilinear", align_corners=False).softmax(1)[0]

    def segment(self, agent: "VisionAgent", image: ImageSource) -> Segmentation:
        """Return a segment for each class that an image has pixels of: all of them, largest first.

        A segment's score is the mean of its pixels' scores.

        Raises:
            AdapterMismatchError: the agent has another model than the head was trained on.
            InputError: an image that cannot be read.
        """
        loaded = load_image(image)
        scores_KHW = self.scores(self.features(agent.backbone), loaded)
        best, classes = (each.numpy() for each in scores_KHW.max(0))
        segments = []
        for number in np.argsort(-np.bincount(classes.ravel(), minlength=len(self.names)), kind="stable"):
            inside = classes == number
            mask = Mask.from_array(inside)
            if mask.box is not None:
                score = float(min(1.0, best[inside].mean()))
                segments.append(Segment(label=self.names[number], score=score, box=mask.box, mask=mask))
        return Segmentation(
            segments=tuple(segments), image_size=loaded.size, model=agent.model, phrases=self.names, decoder="semseg"
        )


def load_head(folder: Path) -> ClassifyHead | SemanticHead:
    """Load a head that `vision-agent train-route classify` or `semseg` wrote.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    try:
        settings = json.loads((folder / _SETTINGS).read_text("utf-8"))
        weights = load_file(folder / _WEIGHTS)
        kind = settings.pop("kind")
        width = len(weights["mean_D" if kind == "classify" else "norm.weight"])
        made = (ClassifyHead if kind == "classify" else SemanticHead)(width=width, **settings)
        made.load_state_dict(weights)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no head at {str(folder)!r}: no {_SETTINGS} or {_WEIGHTS}") from error
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"the head at {str(folder)!r} is damaged: {error}") from error
    made.eval()
    return made
