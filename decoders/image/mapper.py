"""Maps query states of the language model to the text condition of an image generator.

`ConditionMapper` is VisionLLM v2's (https://arxiv.org/abs/2406.08394), in one module: learned queries, one for each
token of the condition, attend to the states. It fits conditions of any length and width. `PlacedMapper` reads each
state by its place instead; for the default's small generator that learns in seconds what attention does not learn in
many minutes. Both learn by the generator's own noise loss and the squared distance to the condition that the
generator's text encoder gives.

Shape suffixes: K prompts, N states a token, C hidden size, T condition tokens, D their width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DISTILLATION = 0.1  # weight of the distance to the text encoder's condition beside the noise loss


class ConditionMapper(nn.Module):
    """States (K, N, C) -> condition (K, T, D).

    Args:
        hidden_size: C.
        tokens, width: T and D.
        inner: width inside, a multiple of 32.
        layers: blocks.
    """

    def __init__(self, hidden_size: int, tokens: int, width: int, *, inner: int = 128, layers: int = 2) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.LayerNorm(hidden_size), nn.Linear(hidden_size, inner))
        self.queries = nn.Parameter(torch.randn(tokens, inner) * 0.2)
        layer = nn.TransformerDecoderLayer(
            inner, inner // 32, 3 * inner, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerDecoder(layer, layers, norm=nn.LayerNorm(inner))
        self.leave = nn.Linear(inner, width)

    def forward(self, states_KNC: Tensor) -> Tensor:
        queries = self.queries.expand(len(states_KNC), -1, -1)
        out: Tensor = self.leave(self.layers(queries, self.enter(states_KNC)))
        return out


class PlacedMapper(nn.Module):
    """States (K, N, C) -> condition (K, T, D) of tokens with zero mean and unit variance.

    Args:
        states: N.
        hidden_size: C.
        tokens, width: T and D.
        kept: numbers that are kept of a state.
        inner: width inside.
    """

    def __init__(
        self, states: int, hidden_size: int, tokens: int, width: int, *, kept: int = 32, inner: int = 256
    ) -> None:
        super().__init__()
        self.tokens, self.width = tokens, width
        self.enter = nn.Sequential(nn.LayerNorm(hidden_size), nn.Linear(hidden_size, kept))
        self.mixed = nn.Sequential(nn.LayerNorm(states * kept), nn.Linear(states * kept, inner))
        self.more = nn.Sequential(
            nn.LayerNorm(inner), nn.Linear(inner, 2 * inner), nn.GELU(), nn.Linear(2 * inner, inner)
        )
        self.leave = nn.Linear(inner, tokens * width)

    def forward(self, states_KNC: Tensor) -> Tensor:
        x = self.mixed(self.enter(states_KNC).flatten(1))
        condition_KTD = self.leave(x + self.more(x)).unflatten(1, (self.tokens, self.width))
        return F.layer_norm(condition_KTD.float(), (self.width,))
