"""Teaches a frozen model to write a routing token by itself: the row of the head, and nothing else, is fitted.

The hidden states of a frozen model do not depend on that row, so they are read once: those after a phrase in an
answer to a request for the route, where the token shall be the likeliest, and those of all other places, where it must
not be. What the model writes elsewhere stays what it was as long as the token is nowhere the likeliest.

Shape suffixes: P places, C hidden size.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision_agent.model.backbone import Backbone

_MARGIN = 1.0  # by which the token shall be likelier, or less likely, than the likeliest other one
_OTHERS = 8.0  # weight of the places where it must not be written
_STEPS, _RATE = 400, 1e-2


@dataclass(frozen=True)
class WrittenAnswer:
    """A place to learn from: what was read before it, and whether the token comes next.

    Attributes:
        ids: of a prompt with the beginning of its answer; tokens_TC: of its images, None without any.
        places: which of the ids the token may follow: the last ones, counted from the end.
        wanted: the token follows the last of them; else it follows none.
    """

    ids: tuple[int, ...]
    tokens_TC: Tensor | None
    places: int
    wanted: bool


@dataclass(frozen=True)
class TokenPlaces:
    """States (P, C) at places, the best score of another token there, and whether the token is wanted."""

    states_PC: Tensor
    best_P: Tensor
    wanted_P: Tensor

    def loss(self, row_C: Tensor) -> Tensor:
        """Return by how much the token is unlikely where it is wanted, and likely elsewhere."""
        ahead_P = self.states_PC @ row_C - self.best_P
        wanted_P, others_P = F.softplus(_MARGIN - ahead_P[self.wanted_P]), F.softplus(_MARGIN + ahead_P[~self.wanted_P])
        wanted = wanted_P.sum() / max(1, len(wanted_P))
        # The worst place counts by itself: one token that strays changes a whole text.
        return wanted + _OTHERS * (others_P.mean() + others_P.max()) if len(others_P) else wanted

    @torch.no_grad()
    def shares(self, row_C: Tensor) -> tuple[float, float]:
        """Return the share of wanted places, and that of all others, at which the token is the likeliest."""
        first_P = self.states_PC @ row_C.to(self.states_PC) > self.best_P
        wanted, others = first_P[self.wanted_P].float(), first_P[~self.wanted_P].float()
        return (float(wanted.mean()) if len(wanted) else 0.0, float(others.mean()) if len(others) else 0.0)


def fit_row(row_C: nn.Parameter, places: TokenPlaces) -> None:
    """Fit a row to its places, in place; the same places give the same row."""
    fitted = TokenPlaces(**{name: each.to(row_C.device) for name, each in vars(places).items()})
    optimiser = torch.optim.Adam([row_C], lr=_RATE)
    for step in range(_STEPS):
        optimiser.param_groups[0]["lr"] = _RATE * (1 - step / _STEPS)
        optimiser.zero_grad()
        torch.autograd.backward(fitted.loss(row_C))
        optimiser.step()
    row_C.grad = None


@torch.no_grad()
def read_places(backbone: Backbone, answers: Iterable[WrittenAnswer], token_id: int) -> TokenPlaces:
    """Run answers through the frozen model, one at a time, and keep the states at their places, fp32 on the CPU."""
    states: list[Tensor] = []
    best: list[Tensor] = []
    wanted: list[bool] = []
    for answer in answers:
        ids_1L = torch.tensor([answer.ids], device=backbone.device)
        embeds = backbone.embed(ids_1L, answer.tokens_TC)
        hidden_LC = backbone.model.model.language_model(inputs_embeds=embeds, use_cache=False).last_hidden_state[0]
        last_PC = hidden_LC[-answer.places :]
        scores_PV = backbone.token_scores(last_PC)
        scores_PV[:, token_id] = -float("inf")
        states.append(last_PC.float().cpu())
        best.append(scores_PV.amax(dim=1).cpu())
        wanted += [False] * (answer.places - 1) + [answer.wanted]
    width = backbone.hidden_size
    return TokenPlaces(
        torch.cat(states) if states else torch.zeros(0, width),
        torch.cat(best) if best else torch.zeros(0),
        torch.tensor(wanted, dtype=torch.bool),
    )


def answer_places(
    prompt: Sequence[int], answer: Sequence[int], tokens_TC: Tensor | None, *, wanted: bool
) -> WrittenAnswer:
    """Return the places of an answer: before its first token, and after each."""
    return WrittenAnswer((*prompt, *answer), tokens_TC, len(answer) + 1, wanted)
