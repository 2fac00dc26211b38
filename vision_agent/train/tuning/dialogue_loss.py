"""The loss of a pass: cross entropy of the answers' tokens, each weighed, summed up.

Shape suffixes: B rows, L tokens, M learned tokens, V words, C hidden size, N tiles, T tokens of a tile.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vision_agent.model.attention import full_masks, layer_masks
from vision_agent.model.backbone import Backbone
from vision_agent.model.devices import computing_in
from vision_agent.train.tuning.step_batches import IGNORED, Batch


class DialogueLoss(nn.Module):
    """A model with what it is trained by: the whole pass in one `forward`, as sharded training needs it.

    Args:
        sees: whether the tower or the projector learn.
        dtype: what is multiplied in.
    """

    def __init__(self, backbone: Backbone, *, sees: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = backbone.model
        self._backbone, self._sees, self._dtype = backbone, sees, dtype

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the weighted sum of the losses, and that of the weights."""
        weights_BL = batch.weights_BL[:, 1:].to(self._backbone.device)
        labels_BL = batch.labels_BL[:, 1:].to(self._backbone.device)
        chosen_BL = labels_BL != IGNORED
        with computing_in(self._backbone.device, self._dtype):
            hidden_BLC = self._hidden(batch)
            logits_MV = self.model.lm_head(hidden_BLC[:, :-1][chosen_BL])
        losses_M = F.cross_entropy(logits_MV.float(), labels_BL[chosen_BL], reduction="none")
        weights_M = weights_BL[chosen_BL]
        return (losses_M * weights_M).sum(), weights_M.sum()

    def _hidden(self, batch: Batch) -> Tensor:
        backbone, language = self._backbone, self.model.model.language_model
        ids_BL = batch.ids_BL.to(backbone.device)
        tokens_NTC = None
        if len(batch.tiles_NSS3):
            with torch.set_grad_enabled(self._sees and torch.is_grad_enabled()):
                tokens_NTC, _ = backbone.see(backbone.normalise(batch.tiles_NSS3.to(backbone.device)))
        shown = int(batch.shown_N.sum())
        image_tokens = None if tokens_NTC is None or not shown else tokens_NTC[:shown].flatten(0, 1)
        embeds_BLC = backbone.embed(ids_BL, image_tokens)
        if tokens_NTC is not None and not shown:
            embeds_BLC = embeds_BLC + 0.0 * tokens_NTC.sum().to(embeds_BLC.dtype)
        with full_masks(language):
            output: Any = language(
                inputs_embeds=embeds_BLC,
                attention_mask=self._mask(batch, embeds_BLC),
                position_ids=batch.positions_BL.to(backbone.device),
                use_cache=False,
            )
        hidden_BLC: Tensor = output.last_hidden_state
        return hidden_BLC

    def _mask(self, batch: Batch, embeds_BLC: Tensor) -> Any:
        """None where a row is one dialogue: what stands behind it is never seen. Else each sees itself alone."""
        if not batch.packed:
            return None
        segments_BL = batch.segments_BL.to(embeds_BLC.device)
        places_L = torch.arange(segments_BL.shape[1], device=embeds_BLC.device)
        same_BLL = segments_BL[:, :, None] == segments_BL[:, None]
        back_LL = places_L[:, None] - places_L
        dtype = embeds_BLC.dtype if self._dtype == torch.float32 else self._dtype

        def additive(window: int | None) -> Tensor:
            seen_BLL = same_BLL & (back_LL >= 0)
            if window is not None:
                seen_BLL = seen_BLL & (back_LL < window)
            mask = torch.zeros(seen_BLL.shape, dtype=dtype, device=embeds_BLC.device)
            return mask.masked_fill_(~seen_BLL, torch.finfo(dtype).min).unsqueeze(1)

        return layer_masks(self.model.model.language_model.config, additive)
