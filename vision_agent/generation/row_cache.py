"""Keys and values of rows of different lengths that are written side by side.

Each row begins in the first column of a place of its own, in buffers with room for more rows and more tokens. A step
writes its token into the room; a row that joins is copied in, and one that leaves gives its place to the last row.
So keys and values are copied at joins and leaves, and where the room is used up, but not at each token.

Shape suffixes: B rows, P columns, H heads, D head size.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from vision_agent.model.attention import cache_of, layer_masks

_ROOM = 256  # tokens; buffers are made with so many more than are needed now, and longer ones with a quarter more
_PLACES = 4  # several rows are given places in multiples of this


class RowCache:
    """Keys and values of a growing and shrinking batch.

    Args:
        room: tokens that buffers are made longer than is needed; longer ones have a quarter more.
        keeps_buffers: those of few rows stay when the last row has left.

    Attributes:
        lengths: tokens of each row.
        cache: as the language model's forward pass takes it; its layers hold the next token of every row.
        buffers_made: how often buffers were made, for those who keep what depends on their place in memory.
    """

    def __init__(self, room: int = _ROOM, *, keeps_buffers: bool = False) -> None:
        self.lengths: list[int] = []
        self.cache = Cache(layers=[])
        self.buffers_made = 0
        self._room, self._keeps_buffers = room, keeps_buffers
        self._layers: list[_RowLayer] = []
        self._place = _Place()

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers."""
        return sum(buffer.nbytes for layer in self._layers for buffer in layer.buffers)

    @property
    def places(self) -> int:
        """Rows that the buffers have room for."""
        return int(self._layers[0].buffers[0].shape[0]) if self._layers else 0

    def join(self, cache: DynamicCache, rows: Sequence[int], lengths: Sequence[int], starts: Sequence[int]) -> None:
        """Copy rows of another cache in, as the last rows.

        Args:
            rows: which of the other cache's rows.
            lengths: tokens of each row.
            starts: the column of each row's first token.
        """
        if not self._layers:
            self._layers = [_RowLayer(self._place, self._room) for _ in cache.layers]
            self.cache = Cache(layers=list(self._layers))
        count = len(self.lengths)
        columns = max(*self.lengths, *lengths) if count else max(lengths)
        plain: Any
        for layer, plain in zip(self._layers, cache.layers, strict=True):
            made = layer.make_room((plain.keys, plain.values), count, count + len(rows), columns + 1)
            self.buffers_made += made
            for place, (row, length, start) in enumerate(zip(rows, lengths, starts, strict=True), start=count):
                layer.put(place, (plain.keys[row, :, start:], plain.values[row, :, start:]), length)
        self.lengths += lengths

    def leave(self, row: int) -> None:
        """Give up a row's place; the last row takes it."""
        last = len(self.lengths) - 1
        if row < last:
            for layer in self._layers:
                keys, values = layer.buffers
                layer.put(row, (keys[last], values[last]), self.lengths[last])
            self.lengths[row] = self.lengths[last]
        del self.lengths[last]
        if not self.lengths and not (self._keeps_buffers and self.places <= _PLACES):
            self.drop_buffers()

    def drop_buffers(self) -> None:
        """Give up the buffers, which hold no row."""
        self._layers, self.cache = [], Cache(layers=[])

    def copy_of(self, row: int) -> DynamicCache:
        """Return a row's keys and values as a cache of its own."""
        length = self.lengths[row]
        pairs = []
        for layer in self._layers:
            keys_1HPD, values_1HPD = (buffer[row : row + 1, :, :length].clone() for buffer in layer.buffers)
            pairs.append((keys_1HPD, values_1HPD))
        return cache_of(pairs)

    def begin_step(self, config: Any, dtype: torch.dtype, device: torch.device) -> tuple[Any, Tensor]:
        """Make ready for the next token of every row; return its attention mask, None for none, and positions (B, 1).

        Args:
            config: of the language model.
            dtype: of the mask.
        """
        self.make_room()
        columns_B = torch.tensor(self.lengths, device=device)
        self._place.begin(self.lengths, columns_B)
        if len(set(self.lengths)) == 1:  # every row sees all columns, and attention takes its fast path
            return None, columns_B[:, None]
        return _masks(config, dtype, columns_B, max(self.lengths) + 1), columns_B[:, None]

    def begin_whole_step(self, config: Any, dtype: torch.dtype, columns_B: Tensor) -> tuple[Any, Tensor]:
        """Make ready for a step of all places over all columns, whatever rows there are; otherwise as `begin_step`.

        Args:
            columns_B: where the token of each place is written, int64. Nobody may read what it writes to places of no
                row.
        """
        width = self._layers[0].buffers[0].shape[2]
        self._place.begin_whole(columns_B, width)
        return _masks(config, dtype, columns_B, width), columns_B[:, None]

    def make_room(self) -> None:
        """See that there is room for the next token of every row."""
        for layer in self._layers:
            self.buffers_made += layer.make_room(
                layer.buffers, len(self.lengths), len(self.lengths), max(self.lengths) + 1
            )

    def end_step(self) -> None:
        """Take the tokens of the step as read. Without it they are written anew by the next step."""
        self.lengths = [length + 1 for length in self.lengths]


def _masks(config: Any, dtype: torch.dtype, columns_B: Tensor, width: int) -> Any:
    """Masks that hide what comes behind each row's column, and what a window has passed."""
    behind_BP = columns_B[:, None] - torch.arange(width, device=columns_B.device)

    def mask(window: int | None) -> Tensor:
        hidden_BP = behind_BP < 0 if window is None else (behind_BP < 0) | (behind_BP >= window)
        lowest = torch.finfo(dtype).min
        return torch.zeros_like(behind_BP, dtype=dtype).masked_fill_(hidden_BP, lowest)[:, None, None]

    return layer_masks(config, mask)


class _Place:
    """Where the tokens of a step are written, the same in all layers."""

    def __init__(self) -> None:
        self.rows, self.width = 0, 0
        self.column: int | None = None  # the same for all rows; None where they differ
        self._columns: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def begin(self, lengths: Sequence[int], columns_B: Tensor) -> None:
        self.rows, self.width = len(lengths), max(lengths) + 1
        self.column = lengths[0] if len(set(lengths)) == 1 else None
        self._columns = {columns_B.device: (torch.arange(self.rows, device=columns_B.device), columns_B)}

    def begin_whole(self, columns_B: Tensor, width: int) -> None:
        self.rows, self.width, self.column = len(columns_B), width, None
        self._columns = {columns_B.device: (torch.arange(self.rows, device=columns_B.device), columns_B)}

    def columns(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Index of the rows, and of the column of each."""
        if device not in self._columns:
            rows_B, columns_B = next(iter(self._columns.values()))
            self._columns[device] = (rows_B.to(device), columns_B.to(device))
        return self._columns[device]


class _RowLayer(DynamicLayer):
    """One layer's keys and values, in buffers with room."""

    def __init__(self, place: _Place, room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.is_initialized = True
        self.buffers: tuple[Tensor, ...] = ()
        self._place, self._room = place, room

    def make_room(self, like: Sequence[Any], used: int, needed: int, columns: int) -> bool:
        """See that the buffers hold `needed` rows and so many columns; `used` rows are in use.

        Args:
            like: keys and values (B, H, P, D) of any such layer.

        Returns:
            whether they had to be made.
        """
        if self.buffers and self.buffers[0].shape[0] >= needed and self.buffers[0].shape[2] >= columns:
            return False
        # One row at a time is the common case, and gets no room for others.
        places = needed if needed == 1 else -(-needed // _PLACES) * _PLACES
        made = []
        for number, plain in enumerate(like):
            size = (places, plain.shape[1], columns + max(self._room, columns // 4), plain.shape[3])
            buffer = plain.new_zeros(size)  # what is masked out must still be numbers
            if used:
                kept = self.buffers[number][:used, :, : size[2]]  # longer rows than those in use may have left
                buffer[:used, :, : kept.shape[2]] = kept
            made.append(buffer)
        self.buffers = tuple(made)
        return True

    def put(self, place: int, row: Sequence[Any], length: int) -> None:
        """Copy keys and values (H, P, D) into a place. What stood there is wiped: it may have been no numbers."""
        for buffer, plain_HPD in zip(self.buffers, row, strict=True):
            buffer[place, :, :length] = plain_HPD[:, :length]
            buffer[place, :, length:] = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the next token of every row, and return the keys and values of all."""
        place, found = self._place, []
        for buffer, new_BH1D in zip(self.buffers, (key_states, value_states), strict=True):
            if place.column is not None:
                buffer[: place.rows, :, place.column] = new_BH1D[:, :, 0]
            else:
                rows_B, columns_B = place.columns(buffer.device)
                buffer[rows_B, :, columns_B] = new_BH1D[:, :, 0]
            found.append(buffer[: place.rows, :, : place.width])
        return found[0], found[1]

    def get_seq_length(self) -> int:
        """Return the tokens before the step, of the longest row."""
        return self._place.width - 1
