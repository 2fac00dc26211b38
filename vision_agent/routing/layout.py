"""Routing: from a token the language model emits to the hidden states a decoder reads.

A *route* is a token (`[DET]`), a bank of learned queries and the name of a decoder. For every emitted routing token a
*block* of query embeddings is placed after the whole sequence. A block attends to the text up to and including its
token, and to itself: to all of it, or causally, as `RouteSpec.block` says. Text tokens do not attend to the queries, so
the text does not change: it is the base model's own. All blocks of all rows of a batch are read in one forward pass.

The unit of this module is the *segment*: a run of tokens or queries that hangs off a cut of a parent segment. A row is
a tree of segments; `arrange` flattens the trees of a batch into position ids and one attention mask. Training (the
prompt is the first segment) and generation (the prompt is a key-value cache) share it, which is what makes them agree.

The ways to read a route, with their sources:

* `"queries"`: the states of the query block (VisionLLM v2's super link, https://arxiv.org/abs/2406.08394).
* `"self"`: the state at the routing token's own position (Sa2VA, https://arxiv.org/abs/2501.04001).
* `"prev"`: the state that predicted the routing token (LISA, https://arxiv.org/abs/2308.00692).

Shape suffixes: B rows, P cached tokens, L laid-out tokens, K keys (P + L), N queries of a block, C hidden size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vision_agent.errors import RouteError
from vision_agent.plugins.route import RouteSpec

# Stands for "no token" in the places of queries and padding.
NO_TOKEN = -1


class QueryBank(nn.Module):
    """The learned queries of one route, (num_queries, C)."""

    def __init__(self, num_queries: int, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_queries, hidden_size))

    @torch.no_grad()
    def initialise(self, token_rows: Tensor, generator: torch.Generator | None = None) -> None:
        """Start at the mean of the model's token rows (V, C) plus noise of 0.02, the scale of trained rows."""
        noise = torch.randn(self.weight.shape, generator=generator) * 0.02
        self.weight.copy_(token_rows.float().mean(dim=0).to(self.weight.device) + noise.to(self.weight.device))


@dataclass(frozen=True)
class Segment:
    """A run of tokens, or of one route's queries, that continues a cut of its parent.

    Attributes:
        tokens: token ids; empty for a query block.
        queries: number of query embeddings; 0 for text.
        causal: a query attends to itself and those before it, as text does, and not to its whole block.
        route: name of the route whose queries these are, or whose token ends the text.
        parent: index in the row of the segment it continues; None for the row's prefix (or nothing).
        cut: how many tokens of the parent it attends to; None for all.
    """

    tokens: tuple[int, ...] = ()
    queries: int = 0
    route: str | None = None
    parent: int | None = None
    cut: int | None = None
    causal: bool = False

    def __len__(self) -> int:
        return len(self.tokens) + self.queries


@dataclass(frozen=True)
class Span:
    """Where a segment lies in the laid-out batch: row, segment's index in its row, columns [start, end)."""

    row: int
    segment: int
    start: int
    end: int


@dataclass(frozen=True)
class Layout:
    """A batch of segment trees, flattened.

    Attributes:
        ids_BL: int64 token ids, `NO_TOKEN` at queries and padding.
        positions_BL: int64 position ids; a segment continues from its cut.
        visible_BLK: bool, True where the token (row of the mask) attends to the key (cached keys first, then laid-out
            ones).
        keys_BK: int64 position ids of all keys.
        spans: for each row the spans of its segments, in order.
    """

    ids_BL: Tensor
    positions_BL: Tensor
    visible_BLK: Tensor
    keys_BK: Tensor
    spans: tuple[tuple[Span, ...], ...]

    def additive_mask(self, dtype: torch.dtype, window: int | None = None) -> Tensor:
        """Return a (B, 1, L, K) mask for attention: 0 where visible, the dtype's minimum elsewhere.

        Args:
            window: of a layer with a sliding window: how many tokens it sees, the token itself among them. They are
                counted along the segment and those it continues, whatever else is laid out between.
        """
        seen_BLK = self.visible_BLK
        if window is not None:
            seen_BLK = seen_BLK & (self.positions_BL[:, :, None] - self.keys_BK[:, None] < window)
        mask = torch.zeros(seen_BLK.shape, dtype=dtype, device=seen_BLK.device)
        return mask.masked_fill_(~seen_BLK, torch.finfo(dtype).min).unsqueeze(1)

    def first(self, columns: int) -> "Layout":
        """Return the first columns of a layout without cached keys; its spans may reach beyond them."""
        visible_BLK = self.visible_BLK[:, :columns, :columns]
        positions_BL = self.positions_BL[:, :columns]
        return Layout(self.ids_BL[:, :columns], positions_BL, visible_BLK, self.keys_BK[:, :columns], self.spans)

    def to(self, device: torch.device | str) -> "Layout":
        ids_BL, positions_BL = self.ids_BL.to(device), self.positions_BL.to(device)
        return Layout(ids_BL, positions_BL, self.visible_BLK.to(device), self.keys_BK.to(device), self.spans)


def arrange(rows: Sequence[Sequence[Segment]], prefix_mask_BP: Tensor | None = None) -> Layout:
    """Flatten segment trees into one batch.

    Args:
        rows: for each row its segments, parents before children. Rows may differ in number and length.
        prefix_mask_BP: True at the real tokens of a cached prefix, any padding side. Segments without a parent then
            continue that prefix, and their `cut` counts its real tokens.

    Raises:
        RouteError: a parent that does not come before its child, or a cut beyond its parent.
    """
    prefix_size = 0 if prefix_mask_BP is None else prefix_mask_BP.shape[1]
    length = max((sum(map(len, row)) for row in rows), default=0)
    ids_BL = torch.full((len(rows), length), NO_TOKEN, dtype=torch.long)
    positions_BL = torch.zeros(len(rows), length, dtype=torch.long)
    visible_BLK = torch.zeros(len(rows), length, prefix_size + length, dtype=torch.bool)
    cached_BP = torch.zeros(len(rows), prefix_size, dtype=torch.long)
    spans = []
    for row, segments in enumerate(rows):
        prefix = torch.zeros(0, dtype=torch.long)
        if prefix_mask_BP is not None:
            prefix = prefix_mask_BP[row].nonzero().flatten().cpu()
            cached_BP[row, prefix] = torch.arange(len(prefix))
        spans.append(_arrange_row(segments, prefix, row, ids_BL[row], positions_BL[row], visible_BLK[row]))
        # A padded position attends to itself alone: a row of the mask without any key would turn into NaN.
        used = spans[-1][-1].end if spans[-1] else 0
        padding = torch.arange(used, length)
        visible_BLK[row, padding, prefix_size + padding] = True
    return Layout(ids_BL, positions_BL, visible_BLK, torch.cat([cached_BP, positions_BL], dim=1), tuple(spans))


def _arrange_row(
    segments: Sequence[Segment], prefix: Tensor, row: int, ids_L: Tensor, positions_L: Tensor, visible_LK: Tensor
) -> tuple[Span, ...]:
    """Fill one row's views in place. `prefix` holds the key columns of the row's real prefix tokens."""
    length, keys = visible_LK.shape
    offset = keys - length
    spans: list[Span] = []
    first_positions: list[int] = []
    before_K: list[Tensor] = []  # per segment: the keys that all of its tokens attend to, without its own
    start = 0
    for index, segment in enumerate(segments):
        end = start + len(segment)
        parent = segment.parent
        if parent is not None and not 0 <= parent < index:
            raise RouteError(f"segment {index} of row {row} names parent {parent!r}, which is not before it")
        parent_size = len(prefix) if parent is None else len(segments[parent])
        cut = parent_size if segment.cut is None else segment.cut
        if not 0 <= cut <= parent_size:
            raise RouteError(f"segment {index} of row {row} cuts its parent at {cut!r}, which has {parent_size} tokens")
        if parent is None:
            shared_K = torch.zeros(keys, dtype=torch.bool)
            shared_K[prefix[:cut]] = True
            first = cut
        else:
            shared_K = before_K[parent].clone()
            parent_start = offset + spans[parent].start
            shared_K[parent_start : parent_start + cut] = True
            first = first_positions[parent] + cut
        own = torch.ones(len(segment), len(segment), dtype=torch.bool)
        visible_LK[start:end] = shared_K
        visible_LK[start:end, offset + start : offset + end] = (
            own if segment.queries and not segment.causal else own.tril()
        )
        positions_L[start:end] = torch.arange(first, first + len(segment))
        if segment.tokens:
            ids_L[start:end] = torch.tensor(segment.tokens)
        spans.append(Span(row, index, start, end))
        first_positions.append(first)
        before_K.append(shared_K)
        start = end
    return tuple(spans)


def emitted_routes(token_ids: Sequence[int], routes: Mapping[int, RouteSpec]) -> list[tuple[int, RouteSpec]]:
    """Return the routing tokens of an *answer*, (index, route) in order. Never call it on what a user wrote."""
    return [(index, routes[token]) for index, token in enumerate(token_ids) if token in routes]


def query_block(route: RouteSpec, parent: int | None = None, cut: int | None = None) -> Segment:
    """Return the block of a route's queries; see `Segment` for where it hangs."""
    return Segment(queries=route.num_queries, route=route.name, parent=parent, cut=cut, causal=route.block == "causal")


def read_segment(route: RouteSpec, answer_start: int, index: int, token_ids: Sequence[int]) -> Segment:
    """Return the segment whose states a decoder reads for the routing token at `index` of an answer.

    Hangs off a cached sequence of `answer_start` prompt tokens followed by the answer. For `"queries"` it is a block
    after the token; for `"self"` and `"prev"` the token (and its predecessor) are fed again, so that a token emitted
    last, whose state generation never computed, is read like any other.

    Raises:
        RouteError: `"prev"` for a token with nothing before it.
    """
    if route.read == "queries":
        return query_block(route, cut=answer_start + index + 1)
    if route.read == "self":
        return Segment(tokens=(token_ids[index],), route=route.name, cut=answer_start + index)
    if index == 0:
        raise RouteError(f"{route.token!r} reads the state before it, but it is the answer's first token")
    return Segment(tokens=tuple(token_ids[index - 1 : index + 1]), route=route.name, cut=answer_start + index - 1)


def state_columns(route: RouteSpec, span: Span) -> slice:
    """Return the columns of a read segment's span that the decoder gets."""
    if route.read == "prev":
        return slice(span.end - 2, span.end - 1)
    return slice(span.end - route.states_per_token, span.end)
