"""SAM, SAM 2 and SAM 3's tracker as transformers has them.

Prompts go through the model's own prompt encoder and mask decoder. Its `forward` would do the same for boxes and
points, but it has no place for prompt tokens.
"""

from pathlib import Path
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor

from vision_agent.errors import CheckpointError, first_line
from vision_agent.model.quiet import quiet

from .files import IMAGENET, Channels, normalisation
from .network import Network

# `model_type` in config.json -> the class that is loaded. SAM 2's video class holds all of the image class and its
# memory; SAM 3's weights for images have another name in its video checkpoints, which transformers knows.
CLASSES = {
    "sam": "SamModel",
    "sam2": "Sam2Model",
    "sam2_video": "Sam2VideoModel",
    "sam3_tracker": "Sam3TrackerModel",
    "sam3_tracker_video": "Sam3TrackerModel",
    "sam3_video": "Sam3TrackerModel",
}
_NORMALISATION: dict[str, tuple[Channels, Channels]] = {"Sam3TrackerModel": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))}


class TransformersNetwork(Network):
    """A transformers model.

    Attributes:
        hides_absent: in videos, whether an object that SAM 2 thinks is out of sight has no mask.
    """

    hides_absent = True

    def __init__(self, model: Any, mean: Channels, std: Channels) -> None:
        self.module = model
        self.side = int(model.config.prompt_encoder_config.image_size)
        self.pads = type(model).__name__ == "SamModel"
        if self.pads:
            self.resampling = Image.Resampling.BILINEAR
        self.mean, self.std = mean, std

    @classmethod
    def load(cls, folder: Path, kind: str) -> Self:
        """Load it from a folder whose `model_type` is `kind`. Raises CheckpointError."""
        import transformers

        if kind not in CLASSES:
            raise CheckpointError(
                f"{str(folder)!r} is a {kind!r} model; expected one of {', '.join(map(repr, CLASSES))}"
            )
        name = CLASSES[kind]
        try:
            with quiet():
                model, report = getattr(transformers, name).from_pretrained(
                    str(folder), dtype=torch.float32, local_files_only=True, output_loading_info=True
                )
        except Exception as error:  # transformers raises many kinds for a damaged folder
            said = first_line(error)
            raise CheckpointError(f"the SAM checkpoint {str(folder)!r} could not be loaded: {said}") from error
        wrong = sorted(report["missing_keys"]) + sorted(map(str, report["mismatched_keys"]))
        if wrong:
            raise CheckpointError(f"the weights in {str(folder)!r} do not fit their config.json: {wrong[0]} ...")
        return cls(model, *normalisation(folder, _NORMALISATION.get(name, IMAGENET)))

    @property
    def token_width(self) -> int:
        return int(self.module.config.prompt_encoder_config.hidden_size)

    def features(self, pixels_1CHW: Tensor) -> tuple[Tensor, ...]:
        features = self.module.get_image_embeddings(pixels_1CHW)
        return (features,) if isinstance(features, Tensor) else tuple(features)

    def masks(
        self,
        features: tuple[Tensor, ...],
        points_NK2: Tensor | None,
        labels_NK: Tensor | None,
        boxes_N4: Tensor | None,
        *,
        several: bool,
    ) -> tuple[Tensor, Tensor]:
        sparse_1NKE, dense = self.module.prompt_encoder(
            input_points=None if points_NK2 is None else points_NK2[None],
            input_labels=None if labels_NK is None else labels_NK[None],
            input_boxes=None if boxes_N4 is None else boxes_N4[None],
            input_masks=None,
        )
        logits, ratings, *_ = self.decoded(features, sparse_1NKE, dense, several=several)
        return logits[0], ratings[0]

    def masks_of_tokens(self, features: tuple[Tensor, ...], tokens_NKE: Tensor) -> tuple[Tensor, Tensor]:
        """Decode masks of tokens. SAM: they are the whole prompt, as in LISA. Later ones: see `after_no_point`."""
        if self.pads:
            sparse_1NKE = tokens_NKE[None]
            _, dense = self.module.prompt_encoder(
                input_points=None, input_labels=None, input_boxes=None, input_masks=None
            )
        else:
            sparse_1NKE, dense = self.after_no_point(tokens_NKE[None])
        logits, ratings, *_ = self.decoded(features, sparse_1NKE, dense, several=not self.pads)
        return logits[0], ratings[0]

    def after_no_point(self, tokens_BNKE: Tensor) -> tuple[Tensor, Tensor]:
        """Return prompt tokens as Sa2VA was trained with: after those of a padding point, for several proposals.

        Returns the whole sparse prompt (B, N, 2 + K, E), and the dense one.
        """
        rows, objects = tokens_BNKE.shape[:2]
        points_BN12 = tokens_BNKE.new_zeros(rows, objects, 1, 2)
        labels_BN1 = torch.full((rows, objects, 1), -1, device=tokens_BNKE.device)
        nothing_BN2E, dense = self.module.prompt_encoder(
            input_points=points_BN12, input_labels=labels_BN1, input_boxes=None, input_masks=None
        )
        return torch.cat([nothing_BN2E, tokens_BNKE], dim=2), dense

    def decoded(
        self, features: tuple[Tensor, ...], sparse_BNKE: Tensor, dense: Tensor, *, several: bool
    ) -> tuple[Tensor, ...]:
        """Run the mask decoder: logits (B, N, M, h, w), ratings (B, N, M), and more from SAM 2 on.

        Of several feature maps the last is the coarse one that prompts attend to; the others sharpen the rims.
        """
        positions_1EHW = self.module.get_image_wide_positional_embeddings()
        finer = {"high_resolution_features": list(features[:-1])} if len(features) > 1 else {}
        made: tuple[Tensor, ...] = self.module.mask_decoder(
            image_embeddings=features[-1],
            image_positional_embeddings=positions_1EHW.repeat(len(features[-1]), 1, 1, 1),
            sparse_prompt_embeddings=sparse_BNKE,
            dense_prompt_embeddings=dense,
            multimask_output=several,
            **finer,
        )
        return made
