"""Rows that are written side by side, and join and leave between steps.

A prompt is read in chunks, one chunk between two steps of the others, so that a long one stops nobody for long. Prompts
that fit into one chunk together are read together, whatever each has of its beginning from the prefix cache. Whatever
happens to a row (its end, an error of its own, its caller's going) changes nothing for the others.

Shape suffixes: B rows, L tokens, C hidden size, V vocabulary.
"""

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from transformers import DynamicCache

from vision_agent.generation.answer_row import AnswerRow
from vision_agent.generation.decoding import (
    GenerationOutput,
    PromptInputs,
    feed_tokens,
    overflow_error,
    prompt_marks,
    rest_of_prompt,
    step_scores,
    told_of,
)
from vision_agent.generation.joint_cache import continuing, joint_cache
from vision_agent.generation.options import GenerationOptions
from vision_agent.generation.prefix_cache import PrefixCache
from vision_agent.generation.recorded_step import RecordedSteps
from vision_agent.generation.row_cache import RowCache
from vision_agent.model.attention import full_cache, full_masks
from vision_agent.model.backbone import Backbone
from vision_agent.plugins.constraint import Constraint

CHUNK = 256  # tokens of prompts that are read between two steps, and twice as many where no others wait
_READ_ONCE = 128  # tokens; so many that another row is just reading are waited for
_MOST_COLUMNS = 32  # chunks; of keys and values that are padded to one length, to be read as one batch
_WORTH_TAKING = 64  # tokens; where others wait, shorter beginnings are read again, together with theirs


@dataclass(eq=False, repr=False)
class Row:
    """A prompt and its answer on their way through the batch.

    Attributes:
        backbone: of all rows of a batch.
        prefixes: cache of the beginnings of prompts; None for none.
        recorded: recorded steps for the batch that the row begins; None for steps as they are.
        forbidden: token ids that must not be generated.
        is_gone: asked before each step: whether nobody waits for the row any longer.
        answer: what was written so far.
        error: why the row failed; None while it did not.
        fed: prompt tokens that were read.
        reused: prompt tokens that came from the prefix cache.
        cache: keys and values of a row that is outside of the batch.
    """

    backbone: Backbone
    inputs: PromptInputs
    options: GenerationOptions
    forbidden: Sequence[int] = ()
    constraint: Constraint | None = None
    prefixes: PrefixCache | None = None
    recorded: RecordedSteps | None = None
    is_gone: Callable[[], bool] = lambda: False
    error: BaseException | None = None
    fed: int = 0
    reused: int = 0
    cache: DynamicCache | None = None
    answer: AnswerRow = field(init=False)

    def __post_init__(self) -> None:
        self.answer = AnswerRow(self.backbone, self.options, self.constraint)

    @cached_property
    def marks(self) -> tuple[int, ...]:
        """What names the prompt's tokens in the prefix cache; nothing where images have no names."""
        images = 0 if self.inputs.tokens_TC is None else len(self.inputs.tokens_TC)
        named = self.prefixes is not None and len(self.inputs.image_marks) == images
        return tuple(prompt_marks(self.backbone, self.inputs)) if named else ()

    def goes_on_like(self, other: "Row") -> bool:
        """Return whether another row's prompt has so much of what is left of this one's that it is worth waiting."""
        size = self.fed + _READ_ONCE
        return self is not other and len(self.marks) >= size and self.marks[:size] == other.marks[:size]

    @property
    def left(self) -> int:
        """Prompt tokens that are still to be read."""
        return len(self.inputs.ids) - self.fed

    @cached_property
    def banned(self) -> Tensor:
        """Ids that must not be generated, on the model's device."""
        return torch.tensor(sorted(self.forbidden), dtype=torch.long, device=self.backbone.device)

    @property
    def is_done(self) -> bool:
        """Whether nothing more comes: the answer ended, or failed."""
        return self.error is not None or not self.answer.is_open

    @property
    def most_tokens(self) -> int:
        """Tokens of the prompt and of the longest answer."""
        return len(self.inputs.ids) + self.options.max_new_tokens

    def output(self) -> GenerationOutput:
        """Return the answer so far, as that of a batch of one row."""
        answer, device = self.answer, self.backbone.device
        return GenerationOutput(
            answers=[list(answer.ids)],
            logprobs=[list(answer.logprobs)],
            tops=[list(answer.tops)],
            forced=[list(answer.forced)],
            finish_reasons=[answer.finish_reason],
            warnings=[answer.warnings],
            cache=self.cache or full_cache(),
            mask_BP=torch.ones(1, len(self.inputs.ids) + len(answer.ids), dtype=torch.bool, device=device),
            prompt_tokens=(len(self.inputs.ids),),
            reused_tokens=self.reused,
            new_BL=torch.tensor([answer.ids], dtype=torch.long, device=device),
        )


class StepBatch:
    """Rows of one model that are read and written side by side. For one thread.

    Args:
        recorded: the backbone's recorded steps, of which no other batch makes use; None for steps as they are.

    Attributes:
        reading: rows whose prompt is not read yet, in the order in which their turn comes.
        writing: rows that get a token with each step.
    """

    def __init__(self, backbone: Backbone, recorded: RecordedSteps | None = None) -> None:
        self.backbone = backbone
        self.reading: deque[Row] = deque()
        self.writing: list[Row] = []
        self._recorded = recorded
        self._cache = RowCache() if recorded is None else recorded.cache
        self._ends = torch.tensor(backbone.end_ids, device=backbone.device)
        self._banned: tuple[Tensor, Tensor] | None = None  # places in the scores (B, V)

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values of the rows that are written."""
        return self._cache.nbytes

    @property
    def rows(self) -> list[Row]:
        """All rows."""
        return [*self.reading, *self.writing]

    @torch.inference_mode()
    def add(self, row: Row) -> None:
        """Take a row: one whose prompt is still to be read, or one that was paused."""
        if row.cache is not None and row.answer.ids:
            self._join(row.cache, [row], [0], [0])
            row.cache = None
        else:
            self.reading.append(row)

    @torch.inference_mode()
    def pause(self, row: Row) -> None:
        """Let a row leave before its end, with its keys and values: `add` takes it again."""
        if row in self.writing:
            self._leave(row)
        else:
            self.reading.remove(row)

    @torch.inference_mode()
    def drop(self, row: Row) -> None:
        """Forget a row."""
        if row in self.writing:
            self._cache.leave(self._swap_out(row))
        elif row in self.reading:
            self.reading.remove(row)
        row.cache = None

    @torch.inference_mode()
    def read(self, *, short_only: bool = False) -> list[Row]:
        """Read one chunk of the prompts that wait; return the rows that wrote their first token, or failed.

        Args:
            short_only: leave prompts of which more than one chunk is left.
        """
        some = self._next_to_read(short_only)
        if not some:
            return []
        try:
            return self._read_together(some) if len(some) > 1 else self._read_chunk(some[0])
        except Exception as error:
            if len(some) == 1:
                return self._failed(some[0], error)
        # One of them is at fault: each by itself, so that the others go on.
        done: list[Row] = []
        for row in some:
            try:
                done += self._read_chunk(row)
            except Exception as error:
                done += self._failed(row, error)
        return done

    @torch.inference_mode()
    def step(self) -> list[Row]:
        """Write a token of every row; return the rows that did, those that failed among them."""
        rows = list(self.writing)
        if not rows:
            return []
        try:
            scores_BV = self._scores()
        except Exception as error:
            if len(rows) == 1:
                return self._failed(rows[0], error)
            return self._step_each(rows)
        self._cache.end_step()
        self._advance(rows, scores_BV, self._banned_places())
        for row in rows:
            if row.is_done:
                self._leave(row)
        return rows

    # Inside ----------------------------------------------------------------------------------------------------------

    def _next_to_read(self, short_only: bool) -> list[Row]:
        """The rows that are read now: the first one, and as many as fit into the chunk with it."""
        some: list[Row] = []
        most_left = most_columns = 0
        for row in list(self.reading):
            if not row.fed:
                self._take_known(row)
            if row.fed == row.reused and any(
                row.goes_on_like(other) for other in self.reading if self._is_read(other, some)
            ):
                row.cache, row.fed, row.reused = None, 0, 0  # by then more is known
                continue
            if short_only and row.left > CHUNK:
                continue
            most_left, most_columns = max(most_left, row.left), max(most_columns, len(row.inputs.ids))
            count = len(some) + 1
            if some and (most_left * count > CHUNK or most_columns * count > _MOST_COLUMNS * CHUNK):
                break
            some.append(row)
            if row.left > CHUNK:
                break
        return some

    @staticmethod
    def _is_read(row: Row, some: Sequence[Row]) -> bool:
        """Whether a row's prompt is being read, or is about to be, with some others."""
        return row in some or row.fed > row.reused

    def _take_known(self, row: Row) -> None:
        """Start with what the prefix cache has of a prompt."""
        if row.prefixes is None or not row.marks:
            return
        cache, known = row.prefixes.take(row.marks)
        if known and (len(self.reading) == 1 or known >= min(_WORTH_TAKING, len(row.marks) // 2)):
            row.cache, row.fed, row.reused = cache, known, known

    def _read_chunk(self, row: Row) -> list[Row]:
        """Read the next chunk of one prompt."""
        cache = row.cache if row.cache is not None else full_cache()
        if cache.get_seq_length() != row.fed:
            raise RuntimeError(f"the cache holds {cache.get_seq_length()} of {row.fed} tokens")
        rest = rest_of_prompt(self.backbone, row.inputs, row.fed)
        ids = rest.ids[: CHUNK if len(self.rows) > 1 else 2 * CHUNK]
        images = ids.count(self.backbone.model.config.image_token_id)
        ids_1L = torch.tensor([ids], device=self.backbone.device)
        tokens_TC = rest.tokens_TC[:images] if rest.tokens_TC is not None and images else None
        scores_1V = feed_tokens(self.backbone, ids_1L, torch.ones_like(ids_1L), cache, tokens_TC)
        row.cache, row.fed = cache, row.fed + len(ids)
        if row.fed < len(row.inputs.ids):
            self.reading.remove(row)
            self.reading.append(row)
            return []
        self._keep(row, cache)
        return self._begin_writing([row], cache, scores_1V)

    def _read_together(self, rows: list[Row]) -> list[Row]:
        """Read the rest of some prompts as one batch. Padding stands behind them, where no token of theirs sees it."""
        known = [row.fed for row in rows]
        rest = [rest_of_prompt(self.backbone, row.inputs, row.fed) for row in rows]
        lengths = [len(each.ids) for each in rest]
        ids_BL = torch.full((len(rows), max(lengths)), self.backbone.end_ids[0], device=self.backbone.device)
        for index, each in enumerate(rest):
            ids_BL[index, : lengths[index]] = torch.tensor(each.ids, device=self.backbone.device)
        images = [each.tokens_TC for each in rest if each.tokens_TC is not None]
        embeds_BLC = self.backbone.embed(ids_BL, torch.cat(images) if images else None)
        cache = joint_cache([row.cache for row in rows], known)
        language_model, device = self.backbone.model.model.language_model, ids_BL.device
        mask = None
        if any(known):
            mask = continuing(language_model.config, known, max(lengths), embeds_BLC.dtype, device)
        with full_masks(language_model) if mask is not None else nullcontext():
            hidden_BLC = language_model(
                inputs_embeds=embeds_BLC,
                attention_mask=mask,
                position_ids=torch.tensor(known, device=device)[:, None] + torch.arange(max(lengths), device=device),
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state
        last_B = torch.tensor(lengths, device=hidden_BLC.device) - 1
        scores_BV = self.backbone.token_scores(hidden_BLC[torch.arange(len(rows), device=last_B.device), last_B])
        starts = [max(known) - each for each in known]
        for index, row in enumerate(rows):
            if row.marks and any(other.goes_on_like(row) for other in self.reading if other not in rows):
                self._keep(row, _row_of(cache, index, len(row.inputs.ids), starts[index]))
        return self._begin_writing(rows, cache, scores_BV, starts)

    def _begin_writing(
        self, rows: list[Row], cache: DynamicCache, scores_BV: Tensor, starts: Sequence[int] = ()
    ) -> list[Row]:
        """Write the first token of prompts that were read.

        Args:
            cache: their keys and values.
            starts: the first column of each; none for 0.
        """
        starts = starts or [0] * len(rows)
        self._advance(rows, scores_BV, _places_of(rows))
        for index, row in enumerate(rows):
            self.reading.remove(row)
            row.fed, row.cache = len(row.inputs.ids), None
            if row.is_done:
                self._end(row, _row_of(cache, index, row.fed, starts[index]))
        going = [index for index, row in enumerate(rows) if not row.is_done]
        if going:
            self._join(cache, [rows[index] for index in going], going, [starts[index] for index in going])
        return rows

    def _join(self, cache: DynamicCache, rows: list[Row], places: list[int], starts: Sequence[int]) -> None:
        """Copy the rows at some places of a cache, and from some columns, into the batch."""
        fed = [len(row.inputs.ids) + len(row.answer.ids) - 1 for row in rows]  # the last token is fed by the next step
        self._cache.join(cache, places, fed, starts)
        self.writing += rows
        self._banned = None

    def _leave(self, row: Row) -> None:
        """Take a row out, with its keys and values."""
        cache = self._cache.copy_of(self.writing.index(row))
        self._cache.leave(self._swap_out(row))
        if row.is_done:
            self._end(row, cache)
        else:
            row.cache = cache

    def _swap_out(self, row: Row) -> int:
        """Take a row off the list as the cache does: the last row takes its place. Returns that place."""
        place = self.writing.index(row)
        self.writing[place] = self.writing[-1]
        self.writing.pop()
        self._banned = None
        return place

    @staticmethod
    def _end(row: Row, cache: DynamicCache) -> None:
        """Keep the keys and values of a row that ended; those of one that failed may be no numbers."""
        if row.error is None:
            row.cache = cache
            StepBatch._keep(row, cache)

    @staticmethod
    def _keep(row: Row, cache: DynamicCache) -> None:
        if row.prefixes is not None and row.marks:
            row.prefixes.keep([*row.marks, *row.answer.ids], cache)

    def _failed(self, row: Row, error: BaseException) -> list[Row]:
        row.error = error
        self.drop(row)
        return [row]

    def _scores(self) -> Tensor:
        """Feed the last token of every row; the float32 scores (B, V) of what comes next."""
        ids = [row.answer.ids[-1] for row in self.writing]
        scores_BV = None if self._recorded is None else self._recorded.scores(ids)
        if scores_BV is not None:
            return scores_BV
        config = self.backbone.model.model.language_model.config
        embeds_B1C = self.backbone.embed(torch.tensor(ids, device=self.backbone.device)[:, None])
        mask, positions_B1 = self._cache.begin_step(config, embeds_B1C.dtype, embeds_B1C.device)
        return step_scores(self.backbone, embeds_B1C, mask, positions_B1, self._cache.cache)

    def _step_each(self, rows: list[Row]) -> list[Row]:
        """Write a token of each row by itself, after a step of all failed: whoever is at fault fails alone."""
        for row in rows:
            self.pause(row)
        for row in rows:
            alone = StepBatch(self.backbone)
            alone.add(row)
            alone.step()
            if not row.is_done:
                alone.pause(row)
        going = [row for row in rows if not row.is_done]
        for row in going:
            self.add(row)
        return rows

    def _banned_places(self) -> tuple[Tensor, Tensor]:
        if self._banned is None:
            self._banned = _places_of(self.writing)
        return self._banned

    def _advance(self, rows: Sequence[Row], scores_BV: Tensor, banned: tuple[Tensor, Tensor]) -> None:
        """Choose the next token of each row."""
        finite_B = scores_BV.isfinite().all(dim=-1)
        scores_BV[banned] = -torch.inf
        logprobs_BV = scores_BV.log_softmax(dim=-1)
        next_B = scores_BV.argmax(dim=-1)
        for index, row in enumerate(rows):
            if not row.answer.is_plain:
                try:
                    next_B[index : index + 1] = row.answer.choose(scores_BV[index])
                except Exception as error:  # of its own grammar
                    row.error = error
        most_tops = max(row.answer.most_tops for row in rows)
        for row, told in zip(rows, told_of(next_B, logprobs_BV, finite_B, self._ends, most_tops), strict=True):
            if row.error is None and not told.is_finite:
                row.error = overflow_error(self.backbone, row.answer.ids)
            elif row.error is None:
                try:
                    row.answer.accept(told.token, told.logprob, told.is_end, told.top)
                except Exception as error:
                    row.error = error


def _row_of(cache: DynamicCache, row: int, length: int, start: int) -> DynamicCache:
    """One row of a cache, as a cache of its own."""
    alone = RowCache()
    alone.join(cache, [row], [length], [start])
    return alone.copy_of(0)


def _places_of(rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """Index of the scores (B, V) that the rows forbid."""
    columns = torch.cat([row.banned for row in rows])
    counts = torch.tensor([len(row.banned) for row in rows], device=columns.device)
    places = torch.arange(len(rows), device=columns.device).repeat_interleave(counts, output_size=len(columns))
    return places, columns
