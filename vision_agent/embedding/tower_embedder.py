"""Features of the loaded model's own image tower, pooled to one vector an image: for images alone.

Of InternViT: the mean of the last layer's patch tokens, the class token left out. Of the default's small tower: the
mean of its last feature map. Neither was trained to compare images with texts.

Shape suffixes: N images, C channels, H and W cells, D embedding.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from vision_agent.errors import InputError, RouteError
from vision_agent.generation.decoding import overflow_error
from vision_agent.inference.engine import InferenceEngine
from vision_agent.plugins.cancellation import raise_if_cancelled

_AT_ONCE = 8  # images that go through the tower together


class TowerEmbedder:
    """The image tower of a loaded model. See `vision_agent.plugins.embedder.Embedder`."""

    embeds_texts = False
    logit_scale: float | None = None
    logit_bias: float | None = None

    def __init__(self, engine: InferenceEngine) -> None:
        """Take the tower of the engine's model. Raises RouteError where another engine runs it."""
        backbone = engine.backbone
        if backbone.is_remote:
            raise RouteError(f"the image tower of {backbone.name!r} is not on this machine: another engine runs it")
        self._engine = engine
        self.name = f"{backbone.name} (image tower)"
        self.width = int(backbone.feature_widths[-1])
        self.fingerprint = f"tower-{backbone.fingerprint}"

    def embed_images(self, images: Sequence[Image.Image]) -> npt.NDArray[np.float32]:
        """Return float32 (N, D), rows of length one, of upright RGB images. Each is seen whole, as one tile.

        Raises:
            AnswerError: the features are NaN or infinite.
        """
        rows = [np.empty((0, self.width), dtype=np.float32)]
        for start in range(0, len(images), _AT_ONCE):
            some = images[start : start + _AT_ONCE]
            rows.append(self._engine.run(partial(self._pooled, some)))
        return np.concatenate(rows)

    def embed_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Raise InputError: an image tower reads no text."""
        raise InputError(
            f"{self.name!r} embeds images alone; texts need an embedder such as SigLIP: VisionAgent(embedder=FOLDER)"
        )

    @torch.inference_mode()
    def _pooled(self, images: Sequence[Image.Image]) -> npt.NDArray[np.float32]:
        raise_if_cancelled()
        backbone = self._engine.backbone
        tiles = [backbone.tiles(image, backbone.grid_for(*image.size, 1))[-1:] for image in images]
        _, maps = backbone.see(torch.cat(tiles))
        vectors_ND = torch.nn.functional.normalize(maps[-1].float().mean(dim=(2, 3)), dim=-1)
        if not bool(vectors_ND.isfinite().all()):
            raise overflow_error(backbone)
        pooled: npt.NDArray[np.float32] = vectors_ND.cpu().numpy()
        return pooled
