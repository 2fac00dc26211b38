"""Which dialogues a step learns from, and in which rows: all of it follows from the seed and the step's number.

A step is the same for any number of processes, packed or not: only how it is parted into passes differs.

Shape suffixes: B rows, L tokens, N tiles, S tile side.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from vision_agent.data.dialogues.dialogue_lines import DialogueLine
from vision_agent.train.tuning.dialogue_encoding import DialogueEncoder, EncodedDialogue, Extent
from vision_agent.train.tuning.tuning_settings import Tuning

IGNORED = -100  # the label of what is not learned
PADDING = -1  # the segment of padding
_GROUPED = 50  # batches whose dialogues are ordered by length together
_MOST_TILES = 48  # of a packed row
_WEIGHTS = {"token": 0.0, "square": 0.5, "sample": 1.0}

Rows = tuple[tuple[int, ...], ...]  # of each row of one pass, the numbers of its dialogues in the run


@dataclass(frozen=True)
class Batch:
    """One pass.

    Attributes:
        ids_BL, labels_BL, positions_BL: int64; labels are `IGNORED` where nothing is learned.
        weights_BL: of each label.
        segments_BL: which dialogue of its row a token belongs to; `PADDING` for none.
        tiles_NSS3: uint8, of all images in order.
        shown_N: False for a white tile that stands in no dialogue.
    """

    ids_BL: Tensor
    labels_BL: Tensor
    positions_BL: Tensor
    weights_BL: Tensor
    segments_BL: Tensor
    tiles_NSS3: Tensor
    shown_N: Tensor

    @property
    def packed(self) -> bool:
        return bool((self.segments_BL > 0).any())


class StepPlan:
    """The dialogues of each step.

    Args:
        extents: of the dialogues, in their order.
    """

    def __init__(self, extents: Sequence[Extent], settings: Tuning) -> None:
        self._extents, self._settings = extents, settings
        self.steps = settings.steps_for(len(extents))
        whole = self.steps * settings.batch
        self._total = whole if settings.steps else min(whole, max(1, int(len(extents) * settings.rounds)))
        self._orders: dict[int, list[int]] = {}

    def round_and_index(self, number: int) -> tuple[int, int]:
        """Return the round that a dialogue of the run belongs to, and which dialogue it is."""
        turn, place = divmod(number, len(self._extents))
        if turn not in self._orders:
            self._orders[turn] = self._order(turn)
        return turn, self._orders[turn][place]

    def passes(self, step: int) -> list[Rows]:
        """Return the rows of each pass of a step."""
        batch = self._settings.batch
        numbers = list(range(step * batch, min((step + 1) * batch, self._total)))
        lengths = {number: self._extents[self.round_and_index(number)[1]] for number in numbers}
        numbers.sort(key=lambda number: (-lengths[number].tokens, number))
        if self._settings.pack:
            return [(row,) for row in _packed(numbers, lengths, self._settings.max_length)]
        micro = self._settings.micro
        return [tuple((each,) for each in numbers[first : first + micro]) for first in range(0, len(numbers), micro)]

    def _order(self, turn: int) -> list[int]:
        rng = np.random.default_rng((self._settings.seed, turn))
        order: list[int] = rng.permutation(len(self._extents)).tolist()
        if not self._settings.group_by_length:
            return order
        batch, grouped = self._settings.batch, []
        for first in range(0, len(order), batch * _GROUPED):
            group = sorted(order[first : first + batch * _GROUPED], key=lambda index: -self._extents[index].tokens)
            batches = [group[start : start + batch] for start in range(0, len(group), batch)]
            full = [each for each in batches if len(each) == batch]
            # A short one stays at the end: all others would be cut anew behind it.
            mixed = [full[place] for place in rng.permutation(len(full))] + batches[len(full) :]
            grouped += [index for each in mixed for index in each]
        return grouped


def _packed(numbers: Sequence[int], lengths: dict[int, Extent], most: int) -> list[tuple[int, ...]]:
    """Rows by first fit; the longest come first."""
    rows: list[list[int]] = []
    left: list[tuple[int, int]] = []
    for number in numbers:
        extent = lengths[number]
        fitting = (row for row, (tokens, tiles) in enumerate(left) if tokens >= extent.tokens and tiles >= extent.tiles)
        row = next(fitting, len(rows))
        if row == len(rows):
            rows.append([])
            left.append((most, max(_MOST_TILES, extent.tiles)))
        rows[row].append(number)
        left[row] = (left[row][0] - extent.tokens, left[row][1] - extent.tiles)
    return [tuple(row) for row in rows]


class Passes(Dataset[Batch]):
    """The passes of one process from a step on: pass `rank`, `rank + world` ... of each step.

    Where a step has fewer passes than its turn, a process gets its last one with weights of zero: all take part in
    every step.
    """

    def __init__(
        self,
        plan: StepPlan,
        lines: Sequence[DialogueLine],
        encoder: DialogueEncoder,
        settings: Tuning,
        *,
        first: int,
        rank: int,
        world: int,
        white: bool,
        pad: int,
    ) -> None:
        self._plan, self._lines, self._encoder, self._settings = plan, lines, encoder, settings
        self._white, self._pad = white, pad
        self.turns = [
            (step, number, number < len(passes), turn + world >= len(passes))
            for step in range(first, plan.steps)
            for passes in [plan.passes(step)]
            for turn in range(0, len(passes), world)
            for number in [turn + rank]
        ]

    def __len__(self) -> int:
        return len(self.turns)

    def __getitem__(self, index: int) -> Batch:
        if not 0 <= index < len(self):
            raise IndexError(index)
        step, number, real, _ = self.turns[index]
        passes = self._plan.passes(step)
        rows = passes[min(number, len(passes) - 1)]
        encoded = [[self._encoded(each) for each in row] for row in rows]
        batch = collate(encoded, self._settings.loss_weight, self._pad, white=self._white)
        return batch if real else _weightless(batch)

    def _encoded(self, number: int) -> EncodedDialogue:
        turn, index = self._plan.round_and_index(number)
        return self._encoder.encode(self._lines[index], (self._settings.seed, turn, index))


def collate(
    rows: Sequence[Sequence[EncodedDialogue]], loss_weight: str = "token", pad: int = 0, *, white: bool = False
) -> Batch:
    """Put dialogues into rows, padded on the right.

    Args:
        rows: of each row its dialogues.
        white: where there is no image, show a white tile that stands in no dialogue, as the official loader does.
    """
    ids, labels, weights, positions, segments = [], [], [], [], []
    for row in rows:
        ids.append(torch.cat([each.ids for each in row]))
        labels.append(torch.cat([torch.where(each.learned, each.ids, IGNORED) for each in row]))
        weights.append(torch.cat([_weights(each.learned, loss_weight) for each in row]))
        positions.append(torch.cat([torch.arange(len(each.ids)) for each in row]))
        segments.append(torch.cat([torch.full((len(each.ids),), place) for place, each in enumerate(row)]))
    tiles_NSS3 = torch.cat([each.tiles_NSS3 for row in rows for each in row])
    shown_N = torch.ones(len(tiles_NSS3), dtype=torch.bool)
    if white and not len(tiles_NSS3):
        tiles_NSS3 = torch.full((1, *tiles_NSS3.shape[1:]), 255, dtype=torch.uint8)
        shown_N = torch.zeros(1, dtype=torch.bool)
    return Batch(
        ids_BL=pad_sequence(ids, batch_first=True, padding_value=pad),
        labels_BL=pad_sequence(labels, batch_first=True, padding_value=IGNORED),
        positions_BL=pad_sequence(positions, batch_first=True),
        weights_BL=pad_sequence(weights, batch_first=True),
        segments_BL=pad_sequence(segments, batch_first=True, padding_value=PADDING),
        tiles_NSS3=tiles_NSS3,
        shown_N=shown_N,
    )


def whole_passes(
    lines: Sequence[DialogueLine], encoder: DialogueEncoder, settings: Tuning, *, rank: int, world: int, pad: int
) -> Iterator[Batch]:
    """Yield every dialogue once, in its order: how lines that are kept back are read."""
    for first in range(rank * settings.micro, len(lines), world * settings.micro):
        some = range(first, min(first + settings.micro, len(lines)))
        yield collate([[encoder.encode(lines[index], (settings.seed, 0, index))] for index in some], "token", pad)


def _weights(learned: Tensor, loss_weight: str) -> Tensor:
    return learned.float() / learned.sum().clamp(min=1) ** _WEIGHTS[loss_weight]


def _weightless(batch: Batch) -> Batch:
    return Batch(**{**vars(batch), "weights_BL": torch.zeros_like(batch.weights_BL)})
