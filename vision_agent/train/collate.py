"""Samples to tensors: trees of text segments, labels, and the boxes of every phrase.

Shape suffixes as in `routing`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from vision_agent.data.samples import Sample, box_targets
from vision_agent.data.text.dialogue import Exchange, PhraseTarget
from vision_agent.model.backbone import Backbone
from vision_agent.plugins.decoder import BoxTargets
from vision_agent.routing.adapter import Route
from vision_agent.routing.layout import Layout, Segment, arrange, query_block
from vision_agent.routing.states import FORCED_REQUEST, forced_segments


@dataclass
class Batch:
    """What one training step takes.

    Attributes:
        pixels_NSS3: uint8 tiles, one a row; None for text alone.
        rows: segment trees; layout: the same, flattened.
        label_places: (row, column) of the states that predict a token, and `labels` those tokens.
        read_places: (K, N, 2) row and column of the states decoders read.
        read_rows: (K,) the row of each.
        read_phrases: (K,) its phrase.
        targets: for each row the boxes of its K phrases, in order.
        forced_columns: the first columns, in which all forced phrases lie.
    """

    layout: Layout
    rows: list[list[Segment]]
    label_places: Tensor
    labels: Tensor
    read_places: Tensor
    read_rows: list[int]
    read_phrases: list[str]
    targets: list[BoxTargets] = field(default_factory=list)
    pixels_NSS3: Tensor | None = None
    forced_columns: int = 0


class Collator:
    """Turns samples into a batch. Holds the prompt's parts, which are the same for all.

    Args:
        route: the route whose states are read, for forced phrases and for its tokens in answers.
        tokens: ids of all routing tokens that answers may hold, by the routes' names.
        image_tokens: of each image; 0 for text alone.
    """

    def __init__(self, backbone: Backbone, route: Route, tokens: Mapping[str, int], image_tokens: int) -> None:
        images = [image_tokens] if image_tokens else []
        self._backbone = backbone
        self._route = route
        self._tokens = dict(tokens)
        self._before, self._after = backbone.prompt_parts(images)
        self._end = backbone.tokenizer.eos_token_id

    def images(self, samples: Sequence[Sample]) -> Batch:
        """Return the batch of samples with images."""
        batch = self._text([(sample.phrases, sample.exchanges) for sample in samples])
        batch.pixels_NSS3 = torch.stack([sample.pixels for sample in samples])
        batch.targets = [_targets(sample, self._route.spec.name) for sample in samples]
        return batch

    def text_only(self, rows: Sequence[tuple[Sequence[str], Sequence[Exchange]]]) -> Batch:
        """Return the batch of phrases and exchanges without an image."""
        return self._text([([PhraseTarget(p, ()) for p in phrases], exchanges) for phrases, exchanges in rows])

    def _text(self, samples: Sequence[tuple[Sequence[PhraseTarget], Sequence[Exchange]]]) -> Batch:
        rows: list[list[Segment]] = []
        labelled: list[list[tuple[int, list[int]]]] = []  # per row: (segment, indices of its labelled tokens)
        reads: list[list[tuple[int, str]]] = []  # per row: (segment, phrase)
        forced_columns = 0
        for targets, exchanges in samples:
            # The prompt of forced routes continues the image's segment as one of its children.
            segments = [Segment(tokens=tuple(self._before))]
            forced = tuple(self._backbone.text_ids(FORCED_REQUEST) + self._after)
            segments.append(Segment(tokens=forced, parent=0))
            row_reads: list[tuple[int, str]] = []
            row_labels: list[tuple[int, list[int]]] = []
            for target in targets:
                (lead, block) = forced_segments(self._backbone, self._route, [target.phrase], parent=1)
                segments += [lead, replace(block, parent=len(segments))]
                row_reads.append((len(segments) - 1, target.phrase))
            forced_columns = max(forced_columns, sum(map(len, segments)))
            for exchange in exchanges:
                tokens, learnt, routed = self._conversation(exchange)
                segments.append(Segment(tokens=tuple(tokens), parent=0))
                answer = len(segments) - 1
                row_labels.append((answer, learnt))
                for end, phrase in routed:
                    spec = self._route.spec
                    segments.append(query_block(spec, parent=answer, cut=end))
                    row_reads.append((len(segments) - 1, phrase))
            rows.append(segments)
            labelled.append(row_labels)
            reads.append(row_reads)
        layout = arrange(rows)
        places, labels = _labels(rows, layout, labelled)
        read_places = [
            [(row, column) for column in range(layout.spans[row][segment].start, layout.spans[row][segment].end)]
            for row, row_reads in enumerate(reads)
            for segment, _ in row_reads
        ]
        return Batch(
            layout=layout,
            rows=rows,
            label_places=torch.tensor(places, dtype=torch.long).reshape(-1, 2),
            labels=torch.tensor(labels, dtype=torch.long),
            read_places=torch.tensor(read_places, dtype=torch.long),
            read_rows=[row for row, row_reads in enumerate(reads) for _ in row_reads],
            read_phrases=[phrase for row_reads in reads for _, phrase in row_reads],
            forced_columns=forced_columns,
        )

    def _conversation(self, exchange: Exchange) -> tuple[list[int], list[int], list[tuple[int, str]]]:
        """Tokens of a request and its answer; indices of those to learn; ends and phrases of routes to be read."""
        tokens = [*self._backbone.text_ids(exchange.request), *self._after]
        learnt: list[int] = []
        routed: list[tuple[int, str]] = []
        for part in exchange.parts:
            start = len(tokens)
            tokens += self._backbone.text_ids(part.text)
            if part.route is not None:
                tokens.append(self._tokens[part.route])
                if part.target is not None and part.route == self._route.spec.name:
                    routed.append((len(tokens), part.target.phrase))
            if not part.given:
                learnt += range(start, len(tokens))
        learnt.append(len(tokens))
        return [*tokens, self._end], learnt, routed


def _labels(
    rows: Sequence[Sequence[Segment]], layout: Layout, labelled: Sequence[Sequence[tuple[int, Sequence[int]]]]
) -> tuple[list[tuple[int, int]], list[int]]:
    """Places of the states that predict answer tokens, and the tokens."""
    places: list[tuple[int, int]] = []
    labels: list[int] = []
    for row, items in enumerate(labelled):
        for segment, indices in items:
            tokens, start = rows[row][segment].tokens, layout.spans[row][segment].start
            places += [(row, start + index - 1) for index in indices]
            labels += [tokens[index] for index in indices]
    return places, labels


def _targets(sample: Sample, route: str) -> BoxTargets:
    """Boxes of the forced phrases, then of the phrases in answers: the order of the batch's reads."""
    routed = [part for exchange in sample.exchanges for part in exchange.parts if part.route == route]
    return box_targets(sample, [*sample.phrases, *[part.target for part in routed if part.target is not None]])
