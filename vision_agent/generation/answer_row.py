"""One answer as it grows: its grammar, how its next token is chosen, what ends it.

Shape suffixes: B rows, L tokens, V vocabulary.
"""

from typing import Literal, cast

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from vision_agent.generation.options import GenerationOptions
from vision_agent.generation.stopping import RepetitionWatcher, StopWatcher
from vision_agent.model.backbone import Backbone
from vision_agent.plugins.constraint import Constraint

FinishReason = Literal["stop", "length", "repetition"]
Alternatives = tuple[tuple[int, float], ...]  # tokens and the natural logarithms of their probabilities


class AnswerRow:
    """One answer. What it does depends on nothing but its own scores, whoever else is written beside it.

    Attributes:
        ids: its tokens, the end token included where the model wrote one.
        logprobs: of each token (natural logarithm), before its grammar, temperature and sampling filters.
        tops: of each token the likeliest ones in its place, as (token, logprob); as many as the options ask for.
        forced: whether its grammar left nothing else to write.
        finish_reason: why it ended.
        warnings: of its grammar.
        is_open: goes on.
        most_tops: how many alternatives it keeps of each token.
        generator: the random numbers of its draws; None for a greedy answer. Rows do not share them, so that each
            draws what it would draw alone.
    """

    def __init__(self, backbone: Backbone, options: GenerationOptions, constraint: Constraint | None) -> None:
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.tops: list[Alternatives] = []
        self.forced: list[bool] = []
        self.finish_reason: FinishReason = "length"
        self.warnings: tuple[str, ...] = ()
        self.is_open = True
        self.generator: torch.Generator | None = None
        if options.do_sample:
            self.generator = torch.Generator(backbone.device)
            _ = self.generator.seed() if options.seed is None else self.generator.manual_seed(options.seed)
        self.most_tops = options.top_logprobs or 0
        self._most = options.max_new_tokens
        self._state = constraint.start() if constraint is not None else None
        self._filters = sampling_filters(options)
        self._watcher = StopWatcher(backbone, options.stop)
        self._repetition = RepetitionWatcher(options.max_repeats)

    @property
    def is_plain(self) -> bool:
        """Whether the next token is simply the most probable one."""
        return self._state is None and self.generator is None and not self._filters

    def masked(self, scores_V: Tensor) -> Tensor:
        """Return the scores of the next token, minus infinity where the grammar does not allow it."""
        return scores_V if self._state is None else self._state.mask(scores_V)

    def choose(self, scores_V: Tensor) -> Tensor:
        """Return the next token, of shape (1,): drawn, or the most probable one, under the grammar and the filters."""
        scores_1V = self.masked(scores_V)[None]
        if self._filters:
            written_1L = torch.tensor([self.ids], dtype=torch.long, device=scores_V.device)
            scores_1V = self._filters(cast(torch.LongTensor, written_1L), cast(torch.FloatTensor, scores_1V))
        return drawn(scores_1V[0], self.generator) if self.generator is not None else scores_1V.argmax(dim=-1)

    def accept(self, token: int, logprob: float, is_end: bool, top: Alternatives = ()) -> None:
        """Go on with a token, or end with it. `top` may hold more alternatives than the row keeps."""
        self.ids.append(token)
        self.logprobs.append(logprob)
        self.tops.append(top[: self.most_tops])
        self.forced.append(self._state is not None and self._state.forces(token))
        if self._state is not None:
            self._state.accept(token)
            self.warnings = self._state.warnings
        if is_end or self._watcher.stops(self.ids):
            self.finish_reason, self.is_open = "stop", False
        elif self._repetition.stops(self.ids) and (self._state is None or self._state.complete):
            self.finish_reason, self.is_open = "repetition", False
        elif len(self.ids) == self._most:
            self.is_open = False


def drawn(scores_V: Tensor, generator: torch.Generator) -> Tensor:
    """Return a token, of shape (1,), drawn from the probabilities of scores. Of scores that are NaN, any token."""
    return torch.multinomial(scores_V.softmax(dim=-1).nan_to_num(1.0), 1, generator=generator)


def sampling_filters(options: GenerationOptions) -> LogitsProcessorList:
    """Return transformers' own processors, in the order in which `generate` applies them."""
    filters = LogitsProcessorList()
    if options.repetition_penalty != 1.0:
        filters.append(RepetitionPenaltyLogitsProcessor(options.repetition_penalty))
    if options.do_sample:
        if options.temperature != 1.0:
            filters.append(TemperatureLogitsWarper(options.temperature))
        if options.top_k:
            filters.append(TopKLogitsWarper(options.top_k))
        if options.top_p < 1.0:
            filters.append(TopPLogitsWarper(options.top_p))
    return filters
