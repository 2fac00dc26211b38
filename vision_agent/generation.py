"""Writes answers: greedy decoding that keeps its cache, so that routes can be read afterwards.

Shape suffixes: B rows, L tokens, P cached tokens, C hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig

from vision_agent.backbone import Backbone


@dataclass(frozen=True)
class Written:
    """Answers of a batch, with the cache that holds them.

    Attributes:
        answers: for each row its answer's token ids, the end token included where the model wrote one.
        cache: keys and values of all prompt and answer tokens.
        mask_BP: True at the cached tokens that are real.
        prompt_tokens: for each row.
    """

    answers: tuple[tuple[int, ...], ...]
    cache: DynamicCache
    mask_BP: Tensor
    prompt_tokens: tuple[int, ...]


@torch.inference_mode()
def write(
    backbone: Backbone,
    prompts: Sequence[Sequence[int]],
    tokens_TC: Tensor | None,
    *,
    max_new_tokens: int = 128,
    forbidden: Sequence[int] = (),
) -> Written:
    """Answer a batch of prompts, left-padded.

    Args:
        prompts: token ids of each row.
        tokens_TC: picture tokens of all rows, in order.
        forbidden: token ids that must not be written. With all routing tokens forbidden the text is that of the model
            without routes, token for token.
    """
    longest = max(map(len, prompts))
    pad = backbone.tokenizer.pad_token_id or backbone.end_ids[0]
    ids_BL = torch.full((len(prompts), longest), pad, device=backbone.device)
    mask_BL = torch.zeros(len(prompts), longest, dtype=torch.long, device=backbone.device)
    for row, prompt in enumerate(prompts):
        ids_BL[row, longest - len(prompt) :] = torch.tensor(prompt, device=backbone.device)
        mask_BL[row, longest - len(prompt) :] = 1
    cache = DynamicCache(config=backbone.model.config.text_config)
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=backbone.end_ids,
        pad_token_id=pad,
        suppress_tokens=sorted(forbidden) or None,
    )
    new_BL = backbone.model.generate(
        inputs_embeds=backbone.embed(ids_BL, tokens_TC),
        attention_mask=mask_BL,
        past_key_values=cache,
        generation_config=settings,
    )
    answers = tuple(_until_end(row, backbone.end_ids) for row in new_BL.tolist())
    real_BL = torch.zeros_like(new_BL, dtype=torch.bool)
    for row, answer in enumerate(answers):
        real_BL[row, : len(answer)] = True
    full_BP = torch.cat([mask_BL.bool(), real_BL], dim=1)
    # The last token was sampled but never fed; a route emitted last must not lose its state.
    while cache.get_seq_length() < full_BP.shape[1]:
        place = cache.get_seq_length()
        positions = full_BP[:, :place].sum(dim=1, keepdim=True)
        backbone.model.model.language_model(
            inputs_embeds=backbone.embed(new_BL[:, place - longest : place - longest + 1]),
            attention_mask=full_BP[:, : place + 1].long(),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
    return Written(answers, cache, full_BP, tuple(len(prompt) for prompt in prompts))


def _until_end(ids: Sequence[int], end_ids: Sequence[int]) -> tuple[int, ...]:
    """An answer up to and including its end token; what follows is padding."""
    for index, token in enumerate(ids):
        if token in end_ids:
            return tuple(ids[: index + 1])
    return tuple(ids)
