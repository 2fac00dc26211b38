"""Remembered prompts: what is taken over, what is kept, and that it stays bounded."""

import pytest
import torch
from conftest import tiny_backbone
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from vision_agent.generation.decoding import PromptInputs, generate
from vision_agent.generation.options import GenerationOptions
from vision_agent.generation.prefix_cache import LEAST_SHARED, PrefixCache, common_beginning
from vision_agent.model.backbone import Backbone

CONFIG = tiny_backbone().model.config.text_config


def filled(length: int, value: float = 0.0) -> DynamicCache:
    cache = DynamicCache(config=CONFIG)
    for layer in range(CONFIG.num_hidden_layers):
        tokens = torch.arange(length, dtype=torch.float32).reshape(1, 1, length, 1).expand(1, 2, length, 16) + value
        cache.update(tokens.clone(), tokens.clone(), layer)
    return cache


def test_the_longest_common_beginning_is_taken_and_one_token_is_left_to_feed() -> None:
    prefixes = PrefixCache()
    prefixes.keep(list(range(40)), filled(40))
    prefixes.keep([*range(25), 99, 98], filled(27, value=0.5))
    cache, known = prefixes.take([*range(40), 77])
    assert known == 40 and cache.get_seq_length() == 40
    cache, known = prefixes.take([*range(25), 99, 5])
    assert known == 26 and float(cache.layers[0].keys[0, 0, -1, 0]) == 25.5
    _, known = prefixes.take(list(range(40)))
    assert known == 39
    assert prefixes.take([*range(LEAST_SHARED - 1), 99])[1] == 0
    assert prefixes.take([50, *range(40)])[1] == 0


def test_taking_over_never_changes_what_is_remembered() -> None:
    prefixes = PrefixCache()
    prefixes.keep(list(range(30)), filled(30))
    first, _ = prefixes.take([*range(30), 7])
    first.update(torch.full((1, 2, 5, 16), 9.0), torch.full((1, 2, 5, 16), 9.0), 0)
    second, known = prefixes.take([*range(30), 7])
    assert known == 30 and second.layers[0].keys.shape[2] == 30
    assert float(second.layers[0].keys.max()) == 29


def test_memory_is_bounded_and_the_oldest_go_first() -> None:
    one = filled(40)
    size = sum(layer.keys.nbytes + layer.values.nbytes for layer in one.layers)
    prefixes = PrefixCache(max_bytes=3 * size)
    for number in range(10):
        prefixes.keep([1000 * number + place for place in range(40)], filled(40))
        assert prefixes.nbytes <= 3 * size
    known = [prefixes.take([1000 * n + place for place in range(40)])[1] for n in range(10)]
    assert [n for n, value in enumerate(known) if value] == [7, 8, 9]
    prefixes.clear()
    assert prefixes.nbytes == 0


def test_what_a_longer_entry_contains_is_not_kept_twice() -> None:
    prefixes = PrefixCache()
    prefixes.keep(list(range(40)), filled(40))
    before = prefixes.nbytes
    prefixes.keep(list(range(60)), filled(60))
    assert prefixes.nbytes == before * 60 // 40


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=5))
@settings(max_examples=80, deadline=None)
def test_the_common_beginning_is_the_longest(rows: list[list[int]]) -> None:
    size = common_beginning(rows)
    assert all(row[:size] == rows[0][:size] for row in rows)
    longer = [row[: size + 1] for row in rows]
    assert min(map(len, rows)) == size or any(row != longer[0] for row in longer)


@pytest.mark.parametrize("batch", [1, 3])
def test_answers_on_a_remembered_prefix_equal_answers_without(batch: int) -> None:
    backbone: Backbone = tiny_backbone()
    options = GenerationOptions(max_new_tokens=8)
    shared = backbone.text_ids("a dog and a cat on the grass find each thing where is the red car")
    prompts = [[*shared, *backbone.text_ids(text)] for text in ("yes", "no no", "is there a bus?")][:batch]
    plain = generate(backbone, prompts, options)
    prefixes = PrefixCache()
    for _ in range(2):
        again = generate(backbone, [PromptInputs(tuple(p)) for p in prompts], options, prefixes=prefixes)
        assert again.answers == plain.answers
        for one, other in zip(again.logprobs, plain.logprobs, strict=True):
            assert one == pytest.approx(other, abs=1e-4)
    assert again.reused_tokens >= len(shared)
    again.fill_cache(backbone)
    plain.fill_cache(backbone)
    assert again.cache.get_seq_length() == again.mask_BP.shape[1]
