"""SAM as the `segment-anything` package has it: one file with the weights of a ViT-B, L or H."""

from pathlib import Path
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor

from vision_agent.errors import CheckpointError, MissingExtraError, first_line

from .files import IMAGENET
from .network import Network

# The checkpoints do not say which one they are; the width of their encoder does.
_KINDS = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}
_WIDTH_KEY = "image_encoder.pos_embed"


class OriginalNetwork(Network):
    """A `segment_anything` model."""

    pads = True
    resampling = Image.Resampling.BILINEAR

    def __init__(self, model: Any) -> None:
        self.module = model
        self.side = int(model.image_encoder.img_size)
        self.mean, self.std = IMAGENET

    @classmethod
    def load(cls, file: Path) -> Self:
        """Load the file. Raises CheckpointError, or MissingExtraError without the package."""
        try:
            from segment_anything import sam_model_registry
        except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that was built for another torch
            raise MissingExtraError(
                f"{str(file)!r} is loaded by segment-anything, which cannot be imported ({first_line(error)}): "
                'pip install "internvl-vision-agent[sam]"'
            ) from error
        try:
            weights = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for a damaged file
            raise CheckpointError(f"the SAM checkpoint {str(file)!r} could not be read: {first_line(error)}") from error
        position = weights.get(_WIDTH_KEY) if isinstance(weights, dict) else None
        kind = _KINDS.get(position.shape[-1]) if isinstance(position, Tensor) and position.ndim == 4 else None
        if kind is None:
            raise CheckpointError(
                f"{str(file)!r} is no checkpoint of segment-anything (ViT-B, L or H); for SAM 2 and SAM 3 give the "
                "folder of the transformers version"
            )
        model = sam_model_registry[kind]()
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise CheckpointError(f"the weights in {str(file)!r} do not fit {kind}: {first_line(error)}") from error
        return cls(model)

    @property
    def token_width(self) -> int:
        return int(self.module.prompt_encoder.embed_dim)

    def features(self, pixels_1CHW: Tensor) -> tuple[Tensor, ...]:
        return (self.module.image_encoder(pixels_1CHW),)

    def masks(
        self,
        features: tuple[Tensor, ...],
        points_NK2: Tensor | None,
        labels_NK: Tensor | None,
        boxes_N4: Tensor | None,
        *,
        several: bool,
    ) -> tuple[Tensor, Tensor]:
        sparse_NKE, dense = self.module.prompt_encoder(
            points=None if points_NK2 is None else (points_NK2, labels_NK), boxes=boxes_N4, masks=None
        )
        return self._decoded(features, sparse_NKE, dense, several)

    def masks_of_tokens(self, features: tuple[Tensor, ...], tokens_NKE: Tensor) -> tuple[Tensor, Tensor]:
        """Decode masks of tokens, which are the whole prompt, for one mask, as in LISA."""
        _, dense = self.module.prompt_encoder(points=None, boxes=None, masks=None)
        return self._decoded(features, tokens_NKE, dense, several=False)

    def _decoded(
        self, features: tuple[Tensor, ...], sparse_NKE: Tensor, dense: Tensor, several: bool
    ) -> tuple[Tensor, Tensor]:
        logits_NMhw, ratings_NM = self.module.mask_decoder(
            image_embeddings=features[0],
            image_pe=self.module.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse_NKE,
            dense_prompt_embeddings=dense,
            multimask_output=several,
        )
        return logits_NMhw, ratings_NM
