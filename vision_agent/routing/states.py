"""Reads routes: lays prompts, forced phrases and query blocks out and runs them through the language model once.

Shape suffixes as in `routing`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import DynamicCache

from vision_agent.errors import RouteError
from vision_agent.generation.joint_cache import joint_cache, real_columns
from vision_agent.generation.prefix_cache import PrefixCache
from vision_agent.model.attention import full_cache, full_masks, layer_masks
from vision_agent.model.backbone import Backbone
from vision_agent.routing.adapter import Route
from vision_agent.routing.layout import Layout, Segment, Span, arrange, query_block, read_segment, state_columns

# The request of a forced route. The phrases stand in the answer, so one prompt serves any number of them.
FORCED_REQUEST = "Find each thing."

_FEW = 64  # tokens; so many are read with the phrases, rather than in a forward pass of their own


@dataclass(frozen=True)
class Forced:
    """A route that is forced for phrases on the images of one prompt.

    Attributes:
        tokens_TC: of all images.
        image_tokens: how many each image has.
        image_marks: what names each image token, as `PrefixCache` has it.
    """

    route: Route
    tokens_TC: Tensor
    image_tokens: tuple[int, ...]
    phrases: tuple[str, ...]
    image_marks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Emitted:
    """A routing token in an answer: row of the batch, index among the row's answer tokens, its route's name."""

    row: int
    index: int
    route: str


def embed_layout(
    backbone: Backbone,
    routes: Mapping[str, Route],
    layout: Layout,
    rows: Sequence[Sequence[Segment]],
    tokens_TC: Tensor,
) -> Tensor:
    """Return embeddings (B, L, C) of a layout: token rows, image tokens, and query banks in their blocks."""
    image_id = backbone.model.config.image_token_id
    count = sum(segment.tokens.count(image_id) for segments in rows for segment in segments)
    embeds_BLC = backbone.embed(layout.ids_BL, tokens_TC if len(tokens_TC) else None, image_places=count)
    places: list[tuple[int, int]] = []
    banks: list[Tensor] = []
    for segments, spans in zip(rows, layout.spans, strict=True):
        for segment, span in zip(segments, spans, strict=True):
            if segment.queries:
                places += [(span.row, column) for column in range(span.start, span.end)]
                banks.append(routes[str(segment.route)].queries.weight)
    if not places:
        return embeds_BLC
    index = torch.tensor(places, device=embeds_BLC.device)
    return embeds_BLC.index_put((index[:, 0], index[:, 1]), torch.cat(banks).to(embeds_BLC.dtype))


def hidden_states(backbone: Backbone, layout: Layout, embeds_BLC: Tensor, cache: DynamicCache | None = None) -> Tensor:
    """Return the last hidden states (B, L, C) of a layout, after the final norm; with a cache, of what follows it."""
    language_model = backbone.model.model.language_model
    with full_masks(language_model):
        output = language_model(
            inputs_embeds=embeds_BLC,
            attention_mask=layer_masks(
                language_model.config, lambda window: layout.additive_mask(embeds_BLC.dtype, window)
            ),
            position_ids=layout.positions_BL,
            past_key_values=cache,
            use_cache=cache is not None,
        )
    hidden_BLC: Tensor = output.last_hidden_state
    return hidden_BLC.to(backbone.device)


def forced_segments(backbone: Backbone, route: Route, phrases: Sequence[str], parent: int) -> list[Segment]:
    """Return for each phrase the text `phrase[TOKEN]` as an answer of its own, and the block that reads it.

    Answers hang side by side off the prompt and do not attend to each other: a phrase's result does not depend
    on the others asked with it.

    Args:
        parent: index in the row of the prompt's segment.
    """
    segments: list[Segment] = []
    for phrase in phrases:
        text = (*backbone.text_ids(phrase), route.token_id)
        segments.append(Segment(tokens=text, parent=parent))
        if route.spec.read == "queries":
            owner = parent + len(segments)
            segments.append(query_block(route.spec, parent=owner))
    return segments


def phrase_states(
    backbone: Backbone, routes: Sequence[Route], tokens_NTC: Tensor, phrases: Sequence[Sequence[str]]
) -> dict[str, Tensor]:
    """Return states (K, N, C) of forced phrases on several images, for each route by its name, in one pass.

    Args:
        tokens_NTC: image tokens of each image.
        phrases: of each image; K is their number, in their order.
    """
    prompt = Segment(tokens=tuple(backbone.prompt_ids(FORCED_REQUEST, [tokens_NTC.shape[1]])))
    rows: list[list[Segment]] = []
    blocks: dict[str, list[tuple[int, int]]] = {route.spec.name: [] for route in routes}
    for row, asked in enumerate(phrases):
        segments = [prompt]
        for route in routes:
            for phrase in asked:
                lead, block = forced_segments(backbone, route, [phrase], parent=0)
                segments += [lead, replace(block, parent=len(segments))]
                blocks[route.spec.name].append((row, len(segments) - 1))
        rows.append(segments)
    layout = arrange(rows).to(backbone.device)
    by_name = {route.spec.name: route for route in routes}
    hidden_BLC = hidden_states(
        backbone, layout, embed_layout(backbone, by_name, layout, rows, tokens_NTC.flatten(0, 1))
    )

    def states(places: Sequence[tuple[int, int]]) -> Tensor:
        spans = [layout.spans[row][segment] for row, segment in places]
        return torch.stack([hidden_BLC[span.row, span.start : span.end] for span in spans])

    return {name: states(places).float() for name, places in blocks.items()}


@torch.inference_mode()
def read_forced(
    backbone: Backbone,
    route: Route,
    tokens_TC: Tensor,
    image_tokens: Sequence[int],
    phrases: Sequence[str],
    image_marks: Sequence[int] = (),
    prefixes: PrefixCache | None = None,
) -> Tensor:
    """Return the states (K, N, C) of a route forced for each phrase on one prompt's images.

    Args:
        tokens_TC: of all images.
        image_tokens: how many each image has.
        image_marks: what names each image token, as `PrefixCache` has it.
        prefixes: where the prompt's keys and values are kept; None for nowhere.
    """
    forced = Forced(route, tokens_TC, tuple(image_tokens), tuple(phrases), tuple(image_marks))
    return read_forced_each(backbone, [forced], prefixes)[0]


@torch.inference_mode()
def read_forced_each(backbone: Backbone, asked: Sequence[Forced], prefixes: PrefixCache | None = None) -> list[Tensor]:
    """Return the states (K, N, C) of each forced route, all in one forward pass.

    Long prompts, but for their last token, are read first, as any text, and kept; the phrases then continue them, with
    a mask of their tokens and blocks alone.
    """
    read = [_begun(backbone, forced, prefixes) for forced in asked]
    rows = [
        [Segment(tokens=rest), *forced_segments(backbone, forced.route, forced.phrases, parent=0)]
        for forced, (_, rest, _) in zip(asked, read, strict=True)
    ]
    known = [size for _, _, size in read]
    alone = len(read) == 1
    cache = read[0][0] if alone else joint_cache([cache for cache, _, _ in read], known)
    layout = arrange(rows, real_columns(known, "cpu")).to(backbone.device)
    routes = {forced.route.spec.name: forced.route for forced in asked}
    embeds_BLC = embed_layout(backbone, routes, layout, rows, torch.empty(0, backbone.hidden_size))
    hidden_BLC = hidden_states(backbone, layout, embeds_BLC, cache)
    states = []
    for row, forced in enumerate(asked):
        spec, spans = forced.route.spec, layout.spans[row][1:]
        some = spans[1::2] if spec.read == "queries" else spans
        states.append(torch.stack([hidden_BLC[row, state_columns(spec, span)] for span in some]))
    return states


def _begun(
    backbone: Backbone, forced: Forced, prefixes: PrefixCache | None
) -> tuple[DynamicCache, tuple[int, ...], int]:
    """A cache of the beginning of a prompt, what is left of it, and how many tokens are cached.

    What is left is a few words after a known beginning. Otherwise all but the last token is read now, and kept.
    """
    ids = backbone.prompt_ids(FORCED_REQUEST, forced.image_tokens)
    image_id = backbone.model.config.image_token_id
    marks: list[int] = []
    cache, known = full_cache(), 0
    if prefixes is not None:
        image = iter(forced.image_marks)
        marks = [next(image) if token == image_id else token for token in ids]
        cache, known = prefixes.take(marks)
    rest = ids[known:]
    if known and len(rest) <= _FEW and image_id not in rest:
        return cache, tuple(rest), known
    if len(rest) > 1:
        _read_text(backbone, rest[:-1], forced.tokens_TC[ids[:known].count(image_id) :], cache)
        if prefixes is not None:
            prefixes.keep(marks[:-1], cache)
    return cache, tuple(ids[-1:]), len(ids) - 1


def _read_text(backbone: Backbone, ids: list[int], tokens_TC: Tensor, cache: DynamicCache) -> None:
    """Add tokens to a cache. They see what comes before them: attention needs no mask, and has its fastest kernels."""
    start = cache.get_seq_length()
    count = ids.count(backbone.model.config.image_token_id)
    ids_1L = torch.tensor([ids], device=backbone.device)
    backbone.model.model.language_model(
        inputs_embeds=backbone.embed(ids_1L, tokens_TC if len(tokens_TC) else None, image_places=count),
        position_ids=torch.arange(start, start + len(ids), device=backbone.device)[None],
        past_key_values=cache,
        use_cache=True,
    )


@torch.inference_mode()
def read_emitted(
    backbone: Backbone,
    routes: Mapping[str, Route],
    cache: DynamicCache,
    prefix_mask_BP: Tensor,
    answers: Sequence[Sequence[int]],
    emitted: Sequence[Emitted],
    prompt_sizes: Sequence[int] | None = None,
) -> list[Tensor]:
    """Return the states of all routing tokens that a batch of answers contains, in one forward pass over their cache.

    Args:
        cache: keys and values of prompts and answers. Unchanged afterwards.
        prefix_mask_BP: True at the cached real tokens, any padding side.
        answers: answer token ids of each row, as many as were generated.
        emitted: which tokens to read.
        prompt_sizes: tokens of each prompt, where the last tokens of answers may not be cached: they are fed here. None
            where all are (see `GenerationOutput.fill_cache`).

    Returns:
        for each of `emitted`, in order, (N, C).
    """
    cached = prefix_mask_BP.sum(dim=1).tolist()
    sizes = prompt_sizes or [known - len(answer) for answer, known in zip(answers, cached, strict=True)]
    rows: list[list[Segment]] = [[] for _ in answers]
    wanted: list[tuple[int, int]] = []
    for item in emitted:
        spec, row = routes[item.route].spec, rows[item.row]
        answer = answers[item.row]
        if not 0 <= item.index < len(answer) or answer[item.index] != routes[item.route].token_id:
            raise RouteError(f"token {item.index!r} of answer {item.row!r} is not {spec.token!r}")
        unfed = tuple(answer[cached[item.row] - sizes[item.row] :])
        if unfed and not row:
            row.append(Segment(tokens=unfed))
        segment = read_segment(spec, sizes[item.row], item.index, answer)
        beyond = (segment.cut or 0) - cached[item.row]
        if beyond > 0:
            segment = replace(segment, parent=0, cut=beyond)
        wanted.append((item.row, len(row)))
        row.append(segment)
    if not wanted:
        return []
    layout = arrange(rows, prefix_mask_BP.cpu()).to(backbone.device)
    size = cache.get_seq_length()
    embeds_BLC = embed_layout(backbone, routes, layout, rows, torch.empty(0, backbone.hidden_size))
    try:
        hidden_BLC = hidden_states(backbone, layout, embeds_BLC, cache)
    finally:
        added = cache.get_seq_length() - size
        if added:
            cache.crop(-added)
    spans: list[Span] = [layout.spans[row][segment] for row, segment in wanted]
    return [
        hidden_BLC[span.row, state_columns(routes[item.route].spec, span)]
        for item, span in zip(emitted, spans, strict=True)
    ]
