"""Distils what phrases mean to a decoder while the language model learns to talk.

A stage of the kind "language" changes the language model; the decoder of `[DET]` reads its states. So that boxes stay
what they were, the phrase vectors that the decoder makes are held to those of the model as the stage began.
"""

import copy
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from vision_agent.model.backbone import Backbone
from vision_agent.routing.adapter import Route
from vision_agent.routing.layout import Layout
from vision_agent.routing.states import embed_layout, hidden_states
from vision_agent.train.collate import Batch

_BIAS_WEIGHT = 0.1


class PhraseDistillation:
    """A copy of the model and its route as they are now."""

    def __init__(self, backbone: Backbone, route: Route) -> None:
        model = copy.deepcopy(backbone.model).eval().requires_grad_(False)
        self._backbone = Backbone(model, backbone.tokenizer, backbone.tiling, name=backbone.name)
        self._route = copy.deepcopy(route).eval().requires_grad_(False)

    def loss(self, route: Route, hidden_BLC: Tensor, layout: Layout, batch: Batch, tokens_TC: Tensor) -> Tensor:
        """Return 1 - cosine of the phrase vectors plus the squared difference of their biases, averaged over phrases.

        Only forced phrases count.

        Args:
            route: the route in training.
            hidden_BLC: what the model in training makes of the batch, laid out as in `layout`.
            tokens_TC: the images' tokens.
        """
        reads = batch.read_places.to(hidden_BLC.device)
        # Forced phrases attend to nothing behind them, so the copy need not read what follows.
        forced = reads[(reads[..., 1] < batch.forced_columns).all(dim=1)]
        if not len(forced):
            return hidden_BLC.sum() * 0
        decoder, kept = cast(Any, route.decoder), cast(Any, self._route.decoder)
        with torch.no_grad():
            kept_BLC = self._states(layout, batch, tokens_TC)
            wanted_KE, wanted_K = kept.phrase_vectors(kept_BLC[forced[..., 0], forced[..., 1]].float())
        unit_KE, bias_K = decoder.phrase_vectors(hidden_BLC[forced[..., 0], forced[..., 1]].float())
        turned = 1 - F.cosine_similarity(unit_KE, wanted_KE, dim=-1).mean()
        return turned + _BIAS_WEIGHT * F.mse_loss(bias_K, wanted_K)

    def _states(self, layout: Layout, batch: Batch, tokens_TC: Tensor) -> Tensor:
        routes, columns = {self._route.spec.name: self._route}, batch.forced_columns
        embeds_BLC = embed_layout(self._backbone, routes, layout, batch.rows, tokens_TC)
        return hidden_states(self._backbone, layout.first(columns), embeds_BLC[:, :columns])

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to have the same copy."""
        return {"model": self._backbone.model.state_dict(), "route": self._route.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._backbone.model.load_state_dict(state["model"])
        self._route.load_state_dict(state["route"])
