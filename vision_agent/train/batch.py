"""Samples to tensors: trees of text segments, labels, and the boxes of every phrase.

Shape suffixes as in `routing`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from vision_agent.adapter import Route
from vision_agent.backbone import Backbone
from vision_agent.decoder import BoxTargets
from vision_agent.router import FORCED_REQUEST, forced_segments
from vision_agent.routing import Layout, Segment, arrange
from vision_agent.train.samples import Exchange, PhraseTarget, Sample


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


class Collator:
    """Turns samples into a batch for one route. Holds the prompt's parts, which are the same for all."""

    def __init__(self, backbone: Backbone, route: Route, image_tokens: int) -> None:
        pictures = [image_tokens] if image_tokens else []
        self._backbone = backbone
        self._route = route
        self._before, self._after = backbone.prompt_parts(pictures)
        self._end = backbone.tokenizer.eos_token_id

    def pictures(self, samples: Sequence[Sample]) -> Batch:
        """Samples with pictures."""
        batch = self._text([(sample.phrases, sample.exchanges) for sample in samples])
        batch.pixels_NSS3 = torch.stack([sample.pixels for sample in samples])
        batch.targets = [_targets(sample) for sample in samples]
        return batch

    def text_only(self, rows: Sequence[tuple[Sequence[str], Sequence[Exchange]]]) -> Batch:
        """Phrases and exchanges without a picture."""
        return self._text([([PhraseTarget(p, ()) for p in phrases], exchanges) for phrases, exchanges in rows])

    def _text(self, samples: Sequence[tuple[Sequence[PhraseTarget], Sequence[Exchange]]]) -> Batch:
        rows: list[list[Segment]] = []
        labelled: list[list[tuple[int, int]]] = []  # per row: (segment, first labelled token)
        reads: list[list[tuple[int, str]]] = []  # per row: (segment, phrase)
        for targets, exchanges in samples:
            # The prompt of forced routes continues the picture's segment as one of its children.
            segments = [Segment(tokens=tuple(self._before))]
            forced = tuple(self._backbone.text_ids(FORCED_REQUEST) + self._after)
            segments.append(Segment(tokens=forced, parent=0))
            row_reads: list[tuple[int, str]] = []
            row_labels: list[tuple[int, int]] = []
            for target in targets:
                (lead, block) = forced_segments(self._backbone, self._route, [target.phrase], parent=1)
                segments += [lead, Segment(queries=block.queries, route=block.route, parent=len(segments))]
                row_reads.append((len(segments) - 1, target.phrase))
            for exchange in exchanges:
                request = self._backbone.text_ids(exchange.request) + self._after
                answer = self._backbone.text_ids(exchange.answer)
                if exchange.route:
                    answer = [*answer, self._route.token_id]
                segments.append(Segment(tokens=(*request, *answer, self._end), parent=0))
                row_labels.append((len(segments) - 1, len(request)))
                if exchange.route and exchange.target is not None:
                    block = Segment(
                        queries=self._route.spec.num_queries,
                        route=self._route.spec.name,
                        parent=len(segments) - 1,
                        cut=len(request) + len(answer),
                    )
                    segments.append(block)
                    row_reads.append((len(segments) - 1, exchange.target.phrase))
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
        )


def _labels(
    rows: Sequence[Sequence[Segment]], layout: Layout, labelled: Sequence[Sequence[tuple[int, int]]]
) -> tuple[list[tuple[int, int]], list[int]]:
    """Places of the states that predict answer tokens, and the tokens."""
    places: list[tuple[int, int]] = []
    labels: list[int] = []
    for row, items in enumerate(labelled):
        for segment, first in items:
            tokens, start = rows[row][segment].tokens, layout.spans[row][segment].start
            places += [(row, start + index - 1) for index in range(first, len(tokens))]
            labels += tokens[first:]
    return places, labels


def _targets(sample: Sample) -> BoxTargets:
    """Boxes of the forced phrases, then of the routed exchanges: the order of the batch's reads."""
    asked = [*sample.phrases, *[e.target for e in sample.exchanges if e.route and e.target is not None]]
    belongs = np.zeros((len(asked), len(sample.boxes)), dtype=bool)
    ignored: list[np.ndarray] = []
    ignored_phrase: list[int] = []
    for index, target in enumerate(asked):
        belongs[index, list(target.owned)] = True
        ignored += [box / sample.scale for box in target.ignored]
        ignored_phrase += [index] * len(target.ignored)
    return BoxTargets(
        boxes_G4=torch.from_numpy(np.asarray(sample.boxes, dtype=np.float32)).reshape(-1, 4),
        belongs_KG=torch.from_numpy(belongs),
        ignored_M4=torch.from_numpy(np.array(ignored, dtype=np.float32).reshape(-1, 4)),
        ignored_phrase_M=torch.tensor(ignored_phrase, dtype=torch.long),
    )
