"""Steps of writing whose operations are recorded once and replayed, so that a GPU waits for no Python between them.

What is recorded reads and writes the same memory each time: token ids and lengths of all places of the row buffers,
those of no row too, and the buffers' whole width, in which what is not written yet is masked out. Rows may come and go
meanwhile; where the buffers are made anew, the step is recorded anew.

Shape suffixes: P places, V vocabulary.
"""

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vision_agent.generation.decoding import step_scores
from vision_agent.generation.row_cache import RowCache
from vision_agent.model.backbone import Backbone

_ROOM = 1024  # tokens; a row that outgrows it takes a new recording

_log = logging.getLogger(__name__)


class RecordedSteps:
    """The step of one backbone, with the buffers that it reads and writes. For one thread.

    Args:
        record: runs a function, and returns what does the same to the same memory again, such as
            `cuda_graphs.record_cuda_graph`.

    Attributes:
        cache: keys and values of the rows; buffers of few rows stay when all rows have left.
        recordings: how often the step was recorded.
    """

    def __init__(self, backbone: Backbone, record: Callable[[Callable[[], None]], Callable[[], None]]) -> None:
        self.cache = RowCache(_ROOM, keeps_buffers=True)
        self.recordings = 0
        self._backbone, self._record = backbone, record
        self._replay: Callable[[], None] | None = None
        self._buffers = 0  # which of the cache's buffers are recorded
        self._inputs_2P = self._scores_PV = torch.empty(0)
        self._works = True

    def scores(self, ids: Sequence[int]) -> Tensor | None:
        """Feed the last token of every row of `cache`; the float32 scores (rows, V) of what comes next.

        They are overwritten by the next step. None where this model's step cannot be recorded, which is logged once: it
        has to run as it is then.
        """
        if not self._works:
            return None
        self.cache.make_room()
        if self._replay is None or self._buffers != self.cache.buffers_made:
            self._inputs_2P = torch.zeros(2, self.cache.places, dtype=torch.long, device=self._backbone.device)
            self._fill(ids)  # first, for the step may run while it is recorded
            if not self._make_recording():
                return None
        self._fill(ids)
        assert self._replay is not None
        self._replay()
        return self._scores_PV[: len(ids)]

    def forget(self) -> None:
        """Give up the recording, and the buffers where they hold no row."""
        self._replay, self._inputs_2P, self._scores_PV = None, torch.empty(0), torch.empty(0)
        if not self.cache.lengths:
            self.cache.drop_buffers()

    def _fill(self, ids: Sequence[int]) -> None:
        self._inputs_2P[:, : len(ids)] = torch.tensor([list(ids), self.cache.lengths], device=self._inputs_2P.device)

    def _make_recording(self) -> bool:
        self._replay = None  # its memory is free for the next one
        try:
            self._replay = self._record(self._run)
        except RuntimeError as error:
            _log.warning("this model's steps cannot be recorded, and run as they are: %s", error)
            self._works = False
            return False
        self._buffers = self.cache.buffers_made
        self.recordings += 1
        return True

    def _run(self) -> None:
        backbone, (ids_P, lengths_P) = self._backbone, self._inputs_2P
        config, embeds_P1C = backbone.model.model.language_model.config, backbone.embed(ids_P[:, None])
        mask, positions_P1 = self.cache.begin_whole_step(config, embeds_P1C.dtype, lengths_P)
        self._scores_PV = step_scores(backbone, embeds_P1C, mask, positions_P1, self.cache.cache)
