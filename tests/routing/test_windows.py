"""Language models whose layers see a window: routes, caches and batches give what transformers gives of the text alone.

The window has 8 tokens and every prompt many more, so a mask without it, or a cache that dropped what it passed, shows.
"""

from typing import Any

import original_format as official
import pytest
import torch
from PIL import Image
from torch import Tensor

from vision_agent import RouteSpec
from vision_agent.generation.decoding import GenerationOutput, PromptInputs, generate
from vision_agent.generation.options import GenerationOptions
from vision_agent.generation.prefix_cache import PrefixCache
from vision_agent.generation.step_batch import Row, StepBatch
from vision_agent.model.backbone import Backbone
from vision_agent.model.checkpoint import load_backbone
from vision_agent.routing.adapter import Route, new_route
from vision_agent.routing.layout import Segment, arrange
from vision_agent.routing.states import Emitted, read_emitted, read_forced
from vision_agent.train.adapter_training import forced_states

WINDOW = 8
SWITCHED = {"llm_config__use_sliding_window": True, "llm_config__sliding_window": WINDOW}
# Every layer, every second one, and the last one alone.
MODELS: dict[str, tuple[str, dict[str, Any], list[bool]]] = {
    "gpt_oss": ("gpt_oss", {}, [True, False, True, False]),
    "phi3": ("phi3", {"llm_config__sliding_window": WINDOW}, [True, True]),
    "qwen2": ("qwen2", SWITCHED | {"llm_config__max_window_layers": 1}, [False, True]),
    "qwen3_moe": ("qwen3_moe", SWITCHED | {"llm_config__max_window_layers": 0}, [True, True]),
}
SPECS = {
    "queries": RouteSpec(token="[DET]", decoder="box", num_queries=4),
    "self": RouteSpec(token="[SEG]", decoder="box", num_queries=0, read="self"),
    "prev": RouteSpec(token="[LISA]", decoder="box", num_queries=0, read="prev"),
}
OPTIONS = GenerationOptions(max_new_tokens=14, max_repeats=100)


@pytest.fixture(scope="module", params=MODELS)
def windowed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Backbone, list[bool]]:
    family, changes, layers = MODELS[request.param]
    folder = tmp_path_factory.mktemp("windowed")
    official.write_folder(folder, family, **changes)
    return load_backbone(folder, device="cpu", dtype="fp32"), layers


@pytest.fixture(scope="module")
def routes(windowed: tuple[Backbone, list[bool]]) -> dict[str, Route]:
    made = {read: new_route(windowed[0], spec, torch.Generator().manual_seed(3)) for read, spec in SPECS.items()}
    made["queries"].queries.weight.requires_grad_(False).mul_(20)
    return {route.spec.name: route for route in made.values()}


def alone(backbone: Backbone, layers: list[bool], embeds_TC: Tensor, queries_NC: Tensor | None) -> Tensor:
    """States (T + N, C) of a text, and of queries after it, of transformers' model without cache and batch."""
    language_model = backbone.model.model.language_model
    if queries_NC is None:  # transformers' own masks
        states: Tensor = language_model(inputs_embeds=embeds_TC[None], use_cache=False).last_hidden_state[0]
        return states
    size, count = len(embeds_TC), len(queries_NC)
    masks = []
    for window in (None, WINDOW):
        rows = [
            [
                (place <= row or row >= size) and (window is None or row - place < window)
                for place in range(size + count)
            ]
            for row in range(size + count)
        ]
        masks.append(torch.zeros(size + count, size + count).masked_fill(~torch.tensor(rows), -1e30)[None, None])
    kinds: Any = {"full_attention": masks[0], "sliding_attention": masks[1]}
    states = language_model(
        inputs_embeds=torch.cat([embeds_TC, queries_NC])[None],
        attention_mask=masks[1] if all(layers) else kinds,
        use_cache=False,
    ).last_hidden_state[0]
    return states


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)
    assert expected.std() > 0.1  # states that are all alike would agree for no reason


def written(backbone: Backbone, texts: list[str], prefixes: PrefixCache | None = None) -> GenerationOutput:
    prompts = [PromptInputs(tuple(backbone.prompt_ids(text, []))) for text in texts]
    return generate(backbone, prompts, OPTIONS, forbidden=backbone.end_ids, prefixes=prefixes)


@pytest.mark.parametrize("name", ["det", "seg", "lisa"])
@torch.inference_mode()
def test_routes_in_answers_see_what_the_text_alone_sees(
    windowed: tuple[Backbone, list[bool]], routes: dict[str, Route], name: str
) -> None:
    backbone, layers = windowed
    texts = ["a dog", "Where is the red car? The red car is on the left of the street."]
    output = written(backbone, texts)
    output.fill_cache(backbone)
    route, given = routes[name], routes[name].token_id
    try:
        for row, answer in enumerate(output.answers):
            for index in (1, 5, 13):  # the first are out of the window of what follows
                route.token_id = answer[index]
                (states,) = read_emitted(
                    backbone, routes, output.cache, output.mask_BP, output.answers, [Emitted(row, index, name)]
                )
                ids = [*backbone.prompt_ids(texts[row], []), *answer[: index + 1]]
                assert len(ids) > 3 * WINDOW
                embeds_TC = backbone.model.get_input_embeddings().weight[torch.tensor(ids)]
                queries = route.queries.weight if name == "det" else None
                expected = alone(backbone, layers, embeds_TC, queries)
                places = {"det": slice(len(ids), None), "seg": slice(-1, None), "lisa": slice(-2, -1)}[name]
                close(states, expected[places])
    finally:
        route.token_id = given


@torch.inference_mode()
def test_forced_phrases_with_and_without_a_kept_prompt(
    windowed: tuple[Backbone, list[bool]], routes: dict[str, Route]
) -> None:
    backbone, layers = windowed
    image = backbone.encode_image(Image.effect_mandelbrot((100, 60), (-2, -1, 1, 1), 20).convert("RGB"))
    count, route, phrases = len(image.tokens_TC), routes["det"], ["the red car on the street", "dog"]
    prefixes = PrefixCache()
    marks = tuple(range(10**6, 10**6 + count))
    whole = read_forced(backbone, route, image.tokens_TC, [count], phrases)
    for _ in range(2):  # the second one finds the prompt in the cache
        kept = read_forced(backbone, route, image.tokens_TC, [count], phrases, marks, prefixes)
        close(kept, whole)
    assert prefixes.nbytes > 0
    ids = backbone.prompt_ids("Find each thing.", [count])
    for phrase, states in zip(phrases, whole, strict=True):
        own = torch.tensor([[*ids, *backbone.text_ids(phrase), route.token_id]])
        embeds_TC = backbone.embed(own, image.tokens_TC)[0]
        close(states, alone(backbone, layers, embeds_TC, route.queries.weight)[own.shape[1] :])


@torch.inference_mode()
def test_causal_blocks_are_read_as_text(windowed: tuple[Backbone, list[bool]], routes: dict[str, Route]) -> None:
    backbone, layers = windowed
    full = routes["det"]
    route = Route(full.spec.model_copy(update={"block": "causal"}), full.token_id, full.queries, full.decoder)
    phrases, ids = ["the red car on the street", "dog"], backbone.prompt_ids("Find each thing.", [])
    found = read_forced(backbone, route, torch.empty(0, backbone.hidden_size), [], phrases)
    for phrase, states in zip(phrases, found, strict=True):
        own = torch.tensor([*ids, *backbone.text_ids(phrase), route.token_id])
        embeds_TC = torch.cat([backbone.model.get_input_embeddings().weight[own], route.queries.weight])
        close(states, alone(backbone, layers, embeds_TC, None)[len(own) :])


def test_training_reads_what_detecting_reads(windowed: tuple[Backbone, list[bool]], routes: dict[str, Route]) -> None:
    backbone, _ = windowed
    route = routes["det"]
    images = [Image.new("RGB", size, "red") for size in ((30, 30), (100, 60))]
    tokens = [backbone.encode_image(image).tokens_TC.clone() for image in images]
    asked = [["a dog", "the red car on the street"], ["street"]]
    row_C = backbone.model.get_input_embeddings().weight[route.token_id].clone().requires_grad_(True)
    trained = forced_states(backbone, route, row_C, tokens, asked)
    for states, tokens_TC, phrases in zip(trained, tokens, asked, strict=True):
        close(states.detach(), read_forced(backbone, route, tokens_TC, [len(tokens_TC)], phrases))
    sum(states.square().sum() for states in trained).backward()
    assert row_C.grad is not None and row_C.grad.isfinite().all() and row_C.grad.norm() > 0


@torch.inference_mode()
def test_answers_from_the_prefix_cache_and_in_batches_are_those_of_one_prompt(
    windowed: tuple[Backbone, list[bool]],
) -> None:
    backbone, _ = windowed
    texts = ["Where is the red car? And the dog?", "Where is the red car? It is on the left of the street.", "a dog"]
    single = [written(backbone, [text]) for text in texts]
    together = written(backbone, texts)
    prefixes = PrefixCache()
    for text, alone_, row in zip(texts, single, range(3), strict=True):
        kept = written(backbone, [text], prefixes)
        assert kept.answers[0] == alone_.answers[0] == together.answers[row]
        assert (kept.reused_tokens > 2 * WINDOW) == (row > 0)
        torch.testing.assert_close(torch.tensor(kept.logprobs[0]), torch.tensor(alone_.logprobs[0]), atol=1e-4, rtol=0)
    ids = torch.tensor(backbone.prompt_ids(texts[1], []))
    scores = backbone.logits(ids)[-1]
    scores[backbone.end_ids] = -torch.inf
    assert int(scores.argmax()) == single[1].answers[0][0]


@torch.inference_mode()
def test_beams_continue_beyond_the_window(windowed: tuple[Backbone, list[bool]]) -> None:
    backbone, _ = windowed
    prompt = backbone.prompt_ids("Where is the red car?", [])
    options = GenerationOptions(max_new_tokens=12, num_beams=2, max_repeats=100)
    output = generate(backbone, [prompt], options, forbidden=backbone.end_ids)
    scores = backbone.logits(torch.tensor([*prompt, *output.answers[0]]))[len(prompt) - 1 : -1]
    scores[:, backbone.end_ids] = -torch.inf
    expected = scores.log_softmax(-1).gather(1, torch.tensor(output.answers[0])[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(output.logprobs[0]), expected, atol=1e-4, rtol=0)


def test_a_window_is_counted_along_the_segments() -> None:
    """Not along the columns, between which other segments lie."""
    rows = [[Segment(tokens=(1, 2, 3)), Segment(tokens=(4, 5), parent=0), Segment(queries=2, route="det", parent=0)]]
    seen = [
        "".join("x" if value == 0 else "." for value in row)
        for row in arrange(rows, torch.tensor([[False, True, True]])).additive_mask(torch.float32, 3)[0, 0].tolist()
    ]
    # Cached: nothing, two tokens; then three tokens, two after them, and two queries after the three.
    assert seen == [
        ".xxx......",
        "..xxx.....",
        "...xxx....",
        "....xxx...",
        ".....xxx..",
        "....xx..xx",
        ".....x..xx",
    ]


@torch.inference_mode()
def test_prompts_that_are_read_together_see_what_each_sees_alone(windowed: tuple[Backbone, list[bool]]) -> None:
    """The beginnings that are known of them are of other lengths, and longer than the window."""
    backbone, _ = windowed
    texts = ["Where is the red car? The red car is on the left of the street.", "Where is the red car? Yes.", "a dog"]
    prompts = [PromptInputs(tuple(backbone.prompt_ids(text, []))) for text in texts]
    alone = [generate(backbone, [prompt], OPTIONS) for prompt in prompts]
    prefixes = PrefixCache()
    generate(backbone, [prompts[0]], OPTIONS, prefixes=prefixes)
    rows = [Row(backbone, prompt, OPTIONS, prefixes=prefixes) for prompt in prompts]
    batch = StepBatch(backbone)
    for row in rows:
        batch.add(row)
    first = batch.read()
    assert len({row.reused for row in first}) > 1
    while batch.rows:
        batch.read()
        batch.step()
    assert [row.answer.ids for row in rows] == [output.answers[0] for output in alone]
    for row, output in zip(rows, alone, strict=True):
        assert row.answer.logprobs == pytest.approx(output.logprobs[0], abs=1e-3)
