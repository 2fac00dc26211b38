"""Generates answers, token by token, and keeps the cache, so that routes can be read and prompts reused afterwards.

The loop is ours rather than `transformers.generate`, because answers are streamed without a thread, follow a grammar
row by row, continue a cached prefix, and report the probability of what they say. Beam search alone is
transformers' own.

Shape suffixes: B rows, L tokens, P cached tokens, C hidden size, V vocabulary.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, GenerationConfig, StoppingCriteria, StoppingCriteriaList

from vision_agent.errors import AnswerError, InputError, bad_argument
from vision_agent.generation.answer_row import Alternatives, AnswerRow, FinishReason, drawn, sampling_filters
from vision_agent.generation.options import GenerationOptions
from vision_agent.generation.prefix_cache import LEAST_SHARED, PrefixCache, common_beginning
from vision_agent.generation.stopping import RepetitionWatcher, StopWatcher
from vision_agent.model.attention import full_cache, full_masks
from vision_agent.model.backbone import Backbone
from vision_agent.plugins.cancellation import CANCELLED, raise_if_cancelled, until_cancelled
from vision_agent.plugins.constraint import Constraint


@dataclass(frozen=True)
class PromptInputs:
    """A prompt as the model reads it.

    Attributes:
        ids: token ids.
        tokens_TC: tokens of its images, in order; None without images.
        image_marks: for each image token a number that names the image and the token's place in it.
    """

    ids: tuple[int, ...]
    tokens_TC: Tensor | None = None
    image_marks: tuple[int, ...] = ()


@dataclass
class GenerationOutput:
    """Answers of a batch, with the cache that holds them.

    Attributes:
        answers: for each row its answer's token ids, the end token included where the model wrote one.
        logprobs: of each of these tokens (natural logarithm), before its grammar, temperature and sampling filters.
        tops: of each of these tokens the likeliest ones in its place, with their logprobs, as many as were asked for.
        forced: whether its grammar left nothing else to write; such a token says nothing about how sure the model is.
        finish_reasons: why each row ended.
        warnings: of each row's grammar.
        cache: keys and values of prompts and answers.
        mask_BP: True at the cached tokens that are real, all answer tokens included.
        prompt_tokens: for each row.
        reused_tokens: how many tokens of the prompt came from the prefix cache.
        new_BL: the answers' tokens, padded.
    """

    answers: list[list[int]]
    logprobs: list[list[float]]
    tops: list[list[Alternatives]]
    forced: list[list[bool]]
    finish_reasons: list[FinishReason]
    warnings: list[tuple[str, ...]]
    cache: DynamicCache
    mask_BP: Tensor
    prompt_tokens: tuple[int, ...]
    reused_tokens: int = 0
    new_BL: Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.long))

    def probability(self, row: int, index: int) -> float:
        """Return how probable a token was, 0-1; 1 for one that the grammar forced."""
        return 1.0 if self.forced[row][index] else min(1.0, math.exp(self.logprobs[row][index]))

    def confidence(self, row: int) -> float:
        """Return the geometric mean of the probabilities of a row's tokens, those that were forced left out.

        0 where a phrase was repeated until that ended the answer: each repetition makes the next more probable,
        so their probabilities mean nothing.
        """
        if self.finish_reasons[row] == "repetition":
            return 0.0
        free = [p for p, forced in zip(self.logprobs[row], self.forced[row], strict=True) if not forced]
        return min(1.0, math.exp(sum(free) / max(1, len(free))))

    @torch.inference_mode()
    def fill_cache(self, backbone: Backbone) -> None:
        """Feed tokens that were generated but never fed: a route emitted last must not lose its state."""
        size = self.mask_BP.shape[1]
        while (place := self.cache.get_seq_length()) < size:
            column = place - (size - self.new_BL.shape[1])
            feed_tokens(backbone, self.new_BL[:, column : column + 1], self.mask_BP[:, : place + 1], self.cache, None)


def check_context(backbone: Backbone, prompt_tokens: int, image_tokens: int, options: GenerationOptions) -> None:
    """Raise InputError where a prompt and its answer would not fit the model."""
    if prompt_tokens + options.max_new_tokens > backbone.context:
        raise InputError(
            f"the prompt has {prompt_tokens} tokens ({image_tokens} of them for images) and the answer may have "
            f"`max_new_tokens`={options.max_new_tokens}, but {backbone.name!r} takes {backbone.context} in all: use "
            "fewer images, a smaller `max_tiles`, a shorter history or a smaller `max_new_tokens`"
        )


def generate(
    backbone: Backbone,
    prompts: Sequence[PromptInputs | Sequence[int]],
    options: GenerationOptions | None = None,
    *,
    forbidden: Sequence[int] = (),
    constraints: Sequence[Constraint | None] | None = None,
    prefixes: PrefixCache | None = None,
) -> GenerationOutput:
    """Answer a batch of prompts. See `generate_steps` for the arguments.

    Raises:
        CancelledError: nobody waits for the answers any longer; asked after every token.
    """
    steps = generate_steps(backbone, prompts, options, forbidden=forbidden, constraints=constraints, prefixes=prefixes)
    (output,) = deque(until_cancelled(steps), maxlen=1)
    return output


def generate_steps(
    backbone: Backbone,
    prompts: Sequence[PromptInputs | Sequence[int]],
    options: GenerationOptions | None = None,
    *,
    forbidden: Sequence[int] = (),
    constraints: Sequence[Constraint | None] | None = None,
    prefixes: PrefixCache | None = None,
) -> Iterator[GenerationOutput]:
    """Answer a batch of prompts, left-padded; yields the growing answers after every token.

    The same object is yielded each time. Closing the iterator stops the work.

    Args:
        prompts: one a row.
        options: None for greedy answers of the default length.
        forbidden: token ids that must not be generated. With all routing tokens forbidden the text is that of the model
            without routes, token for token.
        constraints: the grammar of each row's answer, None for a free one.
        prefixes: cache of the beginnings of prompts; used for single rows.

    Raises:
        InputError: a prompt that does not fit the model's context, or a grammar with beam search.
        AnswerError: the model's scores are NaN or infinite.
        CancelledError: beam search, which yields once, was cancelled; asked after every token.
    """
    options = options or GenerationOptions()
    inputs = [prompt if isinstance(prompt, PromptInputs) else PromptInputs(tuple(prompt)) for prompt in prompts]
    grammars = list(constraints or [None] * len(inputs))
    for prompt in inputs:
        image_tokens = 0 if prompt.tokens_TC is None else len(prompt.tokens_TC)
        check_context(backbone, len(prompt.ids), image_tokens, options)
    if options.num_beams > 1:
        if any(grammars):
            raise InputError(bad_argument("num_beams", "1 for answers under a grammar", options.num_beams))
        yield _search(backbone, inputs, options, forbidden)
        return
    named = all(len(r.image_marks) == (0 if r.tokens_TC is None else len(r.tokens_TC)) for r in inputs)
    yield from _decode(backbone, inputs, options, forbidden, grammars, prefixes if named else None)


def _decode(
    backbone: Backbone,
    inputs: Sequence[PromptInputs],
    options: GenerationOptions,
    forbidden: Sequence[int],
    grammars: Sequence[Constraint | None],
    prefixes: PrefixCache | None,
) -> Iterator[GenerationOutput]:
    rows = [AnswerRow(backbone, options, grammar) for grammar in grammars]
    marks = [prompt_marks(backbone, prompt) for prompt in inputs] if prefixes is not None else []
    cache, known = _begin(backbone, inputs, marks, prefixes)
    rest = [rest_of_prompt(backbone, prompt, known) for prompt in inputs]
    ids_BL, mask_BL = _padded(backbone, rest)
    output = GenerationOutput(
        answers=[row.ids for row in rows],
        logprobs=[row.logprobs for row in rows],
        tops=[row.tops for row in rows],
        forced=[row.forced for row in rows],
        finish_reasons=[row.finish_reason for row in rows],
        warnings=[row.warnings for row in rows],
        cache=cache,
        mask_BP=torch.cat([mask_BL.new_ones(len(rows), known), mask_BL], dim=1).bool(),
        prompt_tokens=tuple(len(prompt.ids) for prompt in inputs),
        reused_tokens=known,
        new_BL=ids_BL[:, :0],
    )
    filters = sampling_filters(options)
    generators = [row.generator for row in rows if row.generator is not None]
    banned = torch.tensor(sorted(forbidden), dtype=torch.long, device=backbone.device)
    ends = torch.tensor(backbone.end_ids, device=backbone.device)
    feed_BL, tokens_TC = ids_BL, _images(rest)
    while any(row.is_open for row in rows):
        with torch.inference_mode():
            scores_BV = feed_tokens(backbone, feed_BL, output.mask_BP, cache, tokens_TC)
            finite_B = scores_BV.isfinite().all(dim=-1)
            scores_BV[:, banned] = -torch.inf
            logprobs_BV = scores_BV.log_softmax(dim=-1)
            for index, row in enumerate(rows):
                if row.is_open and grammars[index] is not None:
                    scores_BV[index] = row.masked(scores_BV[index])
            filtered_BV = filters(cast(torch.LongTensor, output.new_BL), scores_BV) if filters else scores_BV
            if generators:
                next_B = torch.cat([drawn(each, own) for each, own in zip(filtered_BV, generators, strict=True)])
            else:
                next_B = filtered_BV.argmax(dim=-1)
            open_B = torch.tensor([row.is_open for row in rows], device=backbone.device)
            next_B = torch.where(open_B, next_B, ends[0])
            output.new_BL = torch.cat([output.new_BL, next_B[:, None]], dim=1)
            output.mask_BP = torch.cat([output.mask_BP, open_B[:, None]], dim=1)
            told = told_of(next_B, logprobs_BV, finite_B, ends, rows[0].most_tops)
        for index, row in enumerate(rows):
            if row.is_open:
                if not told[index].is_finite:
                    raise overflow_error(backbone, row.ids)
                row.accept(told[index].token, told[index].logprob, told[index].is_end, told[index].top)
                output.finish_reasons[index], output.warnings[index] = row.finish_reason, row.warnings
        yield output
        feed_BL, tokens_TC = next_B[:, None], None
    if prefixes is not None and len(inputs) == 1:
        prefixes.keep([*marks[0], *output.answers[0]], cache)


class Told(NamedTuple):
    """What the host has to know of a row's next token."""

    token: int
    logprob: float
    is_end: bool
    is_finite: bool
    top: Alternatives


def told_of(next_B: Tensor, logprobs_BV: Tensor, finite_B: Tensor, ends: Tensor, most_tops: int) -> list[Told]:
    """Return what the host has to know of the next tokens, in one transfer: any other would be one more wait a token.

    Token ids are exact in float32, up to 2^24.

    Args:
        most_tops: how many of the likeliest tokens are told.
    """
    chosen_B = logprobs_BV.gather(1, next_B[:, None])[:, 0]
    told_BX = torch.stack([next_B.float(), chosen_B, torch.isin(next_B, ends).float(), finite_B.float()], dim=1)
    if most_tops:
        likely = logprobs_BV.topk(min(most_tops, logprobs_BV.shape[1]), dim=1)
        told_BX = torch.cat([told_BX, likely.indices.float(), likely.values], dim=1)
    told = []
    for token, logprob, end, finite, *likeliest in told_BX.tolist():
        half = len(likeliest) // 2
        top = tuple(zip(map(int, likeliest[:half]), likeliest[half:], strict=True))
        told.append(Told(int(token), logprob, bool(end), bool(finite), top))
    return told


def overflow_error(backbone: Backbone, answer: Sequence[int] = ()) -> AnswerError:
    """Return the error for a model whose scores are NaN or infinite; `answer` is what it wrote before."""
    precision = str(backbone.dtype).removeprefix("torch.")
    if backbone.dtype == torch.float16:
        remedy = 'its numbers overflow: load it with `dtype="bfloat16"` or `dtype="float32"`'
    else:
        remedy = 'its weights are damaged, or of another architecture: load it again, or with `dtype="float32"`'
    text = backbone.decode_text(answer) if answer else ""
    return AnswerError(f"{backbone.name!r} gives scores that are NaN or infinite in {precision}; {remedy}", text)


def feed_tokens(
    backbone: Backbone, ids_BL: Tensor, mask_BP: Tensor, cache: DynamicCache, tokens_TC: Tensor | None
) -> Tensor:
    """Feed tokens that follow the cache; return the float32 scores (B, V) of what comes next."""
    rows, new = ids_BL.shape
    # Without padding before or between real tokens no mask is needed, and attention takes its fast path. What an
    # ended row is fed does not matter.
    plain = rows == 1 or bool((mask_BP[:, :-1] >= mask_BP[:, 1:]).all())
    if plain:
        start = cache.get_seq_length()
        positions_BL = torch.arange(start, start + new, device=ids_BL.device).expand(rows, new)
    else:
        positions_BL = (mask_BP.long().cumsum(dim=1) - 1).clamp(min=0)[:, -new:]
    output = backbone.model.model.language_model(
        inputs_embeds=backbone.embed(ids_BL, tokens_TC),
        attention_mask=None if plain else mask_BP.long(),
        position_ids=positions_BL,
        past_key_values=cache,
        use_cache=True,
    )
    return backbone.token_scores(output.last_hidden_state[:, -1])


def step_scores(backbone: Backbone, embeds_B1C: Tensor, mask: Any, positions_B1: Tensor, cache: Cache) -> Tensor:
    """Feed one embedded token of each row; return the float32 scores (B, V) of what comes next.

    Args:
        mask: what each row sees of the cache, with the token itself, as `attention.layer_masks` makes it; None for all.
    """
    language_model = backbone.model.model.language_model
    with full_masks(language_model):
        output = language_model(
            inputs_embeds=embeds_B1C,
            attention_mask=mask,
            position_ids=positions_B1,
            past_key_values=cache,
            use_cache=True,
        )
    return backbone.token_scores(output.last_hidden_state[:, -1])


def _search(
    backbone: Backbone, inputs: Sequence[PromptInputs], options: GenerationOptions, forbidden: Sequence[int]
) -> GenerationOutput:
    """Beam search by transformers; the best answer of each row is then read once more for its probabilities."""
    ids_BL, mask_BL = _padded(backbone, inputs)
    settings = GenerationConfig(
        max_new_tokens=options.max_new_tokens,
        num_beams=options.num_beams,
        do_sample=False,
        repetition_penalty=options.repetition_penalty,
        eos_token_id=backbone.end_ids,
        pad_token_id=backbone.end_ids[0],
        suppress_tokens=sorted(forbidden) or None,
        stop_strings=list(options.stop) or None,
    )
    repetition = RepetitionWatcher(options.max_repeats)
    with torch.inference_mode():
        new_BL = backbone.model.generate(
            inputs_embeds=backbone.embed(ids_BL, _images(inputs)),
            attention_mask=mask_BL,
            generation_config=settings,
            stopping_criteria=StoppingCriteriaList([_EachStep(repetition)]),
            tokenizer=backbone.tokenizer if options.stop else None,
        )
        watcher = StopWatcher(backbone, options.stop)
        ended = [_until_end(row, backbone.end_ids, watcher, repetition) for row in new_BL.tolist()]
        answers, reasons = zip(*ended, strict=True)
        real_BL = torch.zeros_like(new_BL, dtype=torch.bool)
        for row, answer in enumerate(answers):
            real_BL[row, : len(answer)] = True
        full_BL, full_mask_BL = torch.cat([ids_BL, new_BL], dim=1), torch.cat([mask_BL.bool(), real_BL], dim=1)
        cache = full_cache()
        hidden_BLC = backbone.model.model.language_model(
            inputs_embeds=backbone.embed(full_BL, _images(inputs)),
            attention_mask=full_mask_BL.long(),
            position_ids=(full_mask_BL.long().cumsum(dim=1) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        count = new_BL.shape[1]
        scores_BLV = backbone.token_scores(hidden_BLC[:, -count - 1 : -1])
        if not bool(scores_BLV.isfinite().all()):
            raise overflow_error(backbone, answers[0])
        scores_BLV[..., sorted(forbidden)] = -torch.inf
        logprobs_BLV = scores_BLV.log_softmax(dim=-1)
        chosen_BL = logprobs_BLV.gather(2, new_BL[..., None])[..., 0]
        likely = logprobs_BLV.topk(min(options.top_logprobs or 0, logprobs_BLV.shape[2]), dim=2)
        tops = [
            [tuple(zip(*each, strict=True)) for each in zip(ids, logprobs, strict=True)]
            for ids, logprobs in zip(likely.indices.tolist(), likely.values.tolist(), strict=True)
        ]
    return GenerationOutput(
        answers=list(answers),
        logprobs=[row[: len(answer)] for row, answer in zip(chosen_BL.tolist(), answers, strict=True)],
        tops=[row[: len(answer)] for row, answer in zip(tops, answers, strict=True)],
        forced=[[False] * len(answer) for answer in answers],
        finish_reasons=list(reasons),
        warnings=[() for _ in answers],
        cache=cache,
        mask_BP=full_mask_BL,
        prompt_tokens=tuple(len(prompt.ids) for prompt in inputs),
        new_BL=new_BL,
    )


def _padded(backbone: Backbone, inputs: Sequence[PromptInputs]) -> tuple[Tensor, Tensor]:
    """Left-padded ids and mask (1 at real tokens), (B, L)."""
    longest = max(len(prompt.ids) for prompt in inputs)
    ids_BL = torch.full((len(inputs), longest), backbone.end_ids[0], device=backbone.device)
    mask_BL = torch.zeros(len(inputs), longest, dtype=torch.long, device=backbone.device)
    for row, prompt in enumerate(inputs):
        ids_BL[row, longest - len(prompt.ids) :] = torch.tensor(prompt.ids, device=backbone.device)
        mask_BL[row, longest - len(prompt.ids) :] = 1
    return ids_BL, mask_BL


def _images(inputs: Sequence[PromptInputs]) -> Tensor | None:
    tokens = [prompt.tokens_TC for prompt in inputs if prompt.tokens_TC is not None]
    return torch.cat(tokens) if tokens else None


def _begin(
    backbone: Backbone,
    inputs: Sequence[PromptInputs],
    marks: Sequence[Sequence[int]],
    prefixes: PrefixCache | None,
) -> tuple[DynamicCache, int]:
    """A cache with the beginning that all rows share, and its length: from the prefix cache, or fed once for all."""
    if prefixes is None:
        return full_cache(), 0
    # Every row must have a token of its own left to be fed.
    shared = min(common_beginning(marks), *(len(row) - 1 for row in marks))
    cache, known = prefixes.take(marks[0][: shared + 1])
    if len(inputs) == 1:
        return cache, known
    if shared < LEAST_SHARED:
        return full_cache(), 0
    if known < shared:
        first = rest_of_prompt(backbone, inputs[0], known)
        ids_BL = torch.tensor([first.ids[: shared - known]], device=backbone.device)
        count = int((ids_BL == backbone.model.config.image_token_id).sum())
        with torch.inference_mode():
            tokens_TC = first.tokens_TC[:count] if first.tokens_TC is not None and count else None
            feed_tokens(backbone, ids_BL, torch.ones_like(ids_BL), cache, tokens_TC)
        prefixes.keep(marks[0][:shared], cache)
    cache.batch_repeat_interleave(len(inputs))
    return cache, shared


def rest_of_prompt(backbone: Backbone, prompt: PromptInputs, known: int) -> PromptInputs:
    """Return the part of a prompt that is still to be fed."""
    if not known:
        return prompt
    fed = prompt.ids[:known].count(backbone.model.config.image_token_id)
    tokens_TC = None if prompt.tokens_TC is None else prompt.tokens_TC[fed:]
    return PromptInputs(prompt.ids[known:], tokens_TC if tokens_TC is not None and len(tokens_TC) else None)


def prompt_marks(backbone: Backbone, prompt: PromptInputs) -> list[int]:
    """Return token ids, with each image token replaced by a number that names it."""
    image = iter(prompt.image_marks)
    context = backbone.model.config.image_token_id
    return [next(image, -1) if token == context else token for token in prompt.ids]


class _EachStep(StoppingCriteria):
    """What is looked at after each step of beam search: whether anybody still waits, and beams that repeat themselves.

    A beam that does is complete, as with an end token, and takes part with the score that it has.
    """

    def __init__(self, repetition: RepetitionWatcher) -> None:
        self._repetition, self._cancelled = repetition, CANCELLED.get()

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Any:
        raise_if_cancelled(self._cancelled)
        stops = [self._repetition.stops(beam) for beam in input_ids.tolist()]
        return torch.tensor(stops, dtype=torch.bool, device=input_ids.device)


def _until_end(
    ids: Sequence[int], end_ids: Sequence[int], watcher: StopWatcher, repetition: RepetitionWatcher
) -> tuple[list[int], FinishReason]:
    """An answer up to and including what ended it, and why it ended; what follows is padding."""
    for size, token in enumerate(ids, start=1):
        if token in end_ids or watcher.stops(ids[:size]):
            return list(ids[:size]), "stop"
        if repetition.stops(ids[:size]):
            return list(ids[:size]), "repetition"
    return list(ids), "length"
