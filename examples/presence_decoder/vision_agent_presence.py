"""Is the object in the image? A decoder of its own package, to copy from.

The image side (`prepare`) pools the dense features of the whole image into one vector. The phrase side turns the
query states of a routing token into another. A score is the sigmoid of their dot product.

Shape suffixes: B images, K phrases, N queries, C hidden size, E embedding, H and W cells.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from vision_agent import Decoder, DecodeRequest, DenseFeatures, ImageStore, RouteSpec, Tool, ToolAgent, ToolOutput


class Presence(BaseModel):
    """Whether one object is in an image.

    Attributes:
        phrase: the object, in the words of the request.
        score: how sure the model is that it is there, 0..1.
        model: name of the model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    phrase: str
    score: Annotated[float, Field(ge=0, le=1)]
    model: str


class Presences(BaseModel):
    """The answers for all phrases of one image, in the order asked; those under the threshold are left out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    items: tuple[Presence, ...]


@dataclass(frozen=True)
class PresenceTarget:
    """The truth for one training image.

    Attributes:
        present_K: bool, for each phrase of the image (in the order of its states) whether it is there.
    """

    present_K: Tensor


class PresenceDecoder(Decoder):
    """One score a phrase. See the module's docstring.

    Args:
        hidden_size: C of the query states.
        feature_widths: channels of each feature map.
        width: E.
        threshold: default least score; 0 answers for every phrase.
    """

    def __init__(
        self, hidden_size: int, feature_widths: Sequence[int], width: int = 64, threshold: float = 0.0
    ) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {
            "hidden_size": hidden_size,
            "feature_widths": list(feature_widths),
            "width": width,
            "threshold": threshold,
        }
        # The mean tells what the scene is, the maximum finds what fills few cells.
        pooled = 2 * sum(feature_widths)
        self.image_head = nn.Sequential(nn.LayerNorm(pooled), nn.Linear(pooled, width))
        self.phrase_head = nn.Sequential(nn.LayerNorm(hidden_size), nn.Linear(hidden_size, width))
        self.phrase_bias = nn.Linear(width, 1)

    @classmethod
    def for_backbone(cls, route: RouteSpec, hidden_size: int, feature_widths: tuple[int, ...]) -> "PresenceDecoder":
        return cls(hidden_size=hidden_size, feature_widths=feature_widths)

    def prepare(self, features: DenseFeatures) -> Tensor:
        """Return image vectors (B, E) from feature maps, each (B, channels, H, W)."""
        pooled = [map_BCHW.mean(dim=(2, 3)) for map_BCHW in features.maps]
        pooled += [map_BCHW.amax(dim=(2, 3)) for map_BCHW in features.maps]
        image_BE: Tensor = self.image_head(torch.cat(pooled, dim=1))
        return image_BE

    def logits(self, states_KNC: Tensor, image_KE: Tensor) -> Tensor:
        """Return (K,) logits of phrases, each against its own image's vector (or all against one)."""
        phrase_KE: Tensor = self.phrase_head(states_KNC).mean(dim=1)
        match_K = (phrase_KE * image_KE).sum(dim=-1) / phrase_KE.shape[-1] ** 0.5
        logits_K: Tensor = match_K + self.phrase_bias(phrase_KE).squeeze(-1)
        return logits_K

    @torch.no_grad()
    def decode(self, states_KNC: Tensor, prepared: Tensor, request: DecodeRequest) -> Presences:
        """Return scores of all phrases of one image."""
        least = self.settings["threshold"] if request.threshold is None else request.threshold
        scores = torch.sigmoid(self.logits(states_KNC, prepared)).tolist()
        return Presences(
            items=tuple(
                Presence(phrase=phrase, score=score, model=request.model)
                for phrase, score in zip(request.phrases, scores, strict=True)
                if score >= least
            )
        )

    def loss(
        self, states_KNC: Tensor, rows_K: Sequence[int], prepared: Tensor, targets: Sequence[PresenceTarget]
    ) -> Tensor:
        """Return binary cross-entropy, the mean over all phrases of all images."""
        rows = torch.as_tensor(rows_K, device=states_KNC.device)
        truth_K = states_KNC.new_zeros(len(rows), dtype=torch.float32)
        for row, target in enumerate(targets):
            truth_K[rows == row] = target.present_K.to(truth_K)
        return F.binary_cross_entropy_with_logits(self.logits(states_KNC, prepared[rows]).float(), truth_K)


class PresenceArguments(BaseModel):
    """What a language model says to the tool."""

    model_config = ConfigDict(extra="forbid")

    image: str = Field(description="The image: an image id such as img_3f9a2c, or a path that was given to you.")
    phrases: list[str] = Field(min_length=1, max_length=20, description='What to look for, such as ["dog", "bus"].')


class PresenceAnswer(BaseModel):
    """What it reads back."""

    image: str
    scores: dict[str, float] = Field(description="0 to 1, for each phrase")


def _presence(agent: ToolAgent, store: ImageStore, args: PresenceArguments) -> ToolOutput:
    image = store.open(args.image)
    found = agent.run_route("here", args.phrases, image.image)
    assert isinstance(found, Presences)
    scores = {item.phrase: round(item.score, 3) for item in found.items}
    return ToolOutput(PresenceAnswer(image=image.id, scores=scores), found)


PRESENCE = Tool(
    name="presence",
    description="How sure it is that objects are in an image, without saying where. Use `detect` for places.",
    arguments=PresenceArguments,
    result=PresenceAnswer,
    run=_presence,
    available=lambda agent: "here" in agent.routes,  # offered once the adapter is loaded
)
