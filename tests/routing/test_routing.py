"""Routing: layouts, and the parity of teacher-forced and generated reading."""

import json
from pathlib import Path

import pytest
import torch
from conftest import tiny_backbone
from numerics import assert_same
from PIL import Image
from pydantic import ValidationError
from torch import Tensor

from vision_agent import RouteSpec
from vision_agent.decoders.mask.training import SEGMENT
from vision_agent.errors import RouteError
from vision_agent.generation.decoding import GenerationOutput, generate
from vision_agent.generation.options import GenerationOptions
from vision_agent.generation.prefix_cache import PrefixCache
from vision_agent.inference.joint_reads import JointReads
from vision_agent.model.attention import full_masks
from vision_agent.model.backbone import Backbone
from vision_agent.model.checkpoint import DEFAULT_CHECKPOINT
from vision_agent.routing.adapter import AdapterInfo, Route, new_route, save_adapter
from vision_agent.routing.layout import (
    Layout,
    QueryBank,
    Segment,
    Span,
    arrange,
    emitted_routes,
    read_segment,
    state_columns,
)
from vision_agent.routing.states import (
    Emitted,
    Forced,
    embed_layout,
    forced_segments,
    hidden_states,
    read_emitted,
    read_forced,
)
from vision_agent.train.trainer import DETECT

DET = RouteSpec(token="[DET]", decoder="box", num_queries=4)
SELF = RouteSpec(token="[SEG]", decoder="box", num_queries=0, read="self")
PREV = RouteSpec(token="[LISA]", decoder="box", num_queries=0, read="prev")
NO_IMAGES = torch.empty(0, 64)
WIDEST = 128  # terms of the longest sum: the feed-forward layers of the tiny backbone


@pytest.fixture
def routes(backbone: Backbone) -> dict[str, Route]:
    made = {spec.name: new_route(backbone, spec, torch.Generator().manual_seed(3)) for spec in (DET, SELF, PREV)}
    made["det"].queries.weight.requires_grad_(False).mul_(20)
    return made


def one_pass(backbone: Backbone, route: Route, sequence: list[int], place: int) -> Tensor:
    """States of the routing token at `place` as the definitions have them, from transformers alone.

    No cache, no padding, and nothing of the code under test: for a query block the sequence up to the token and then
    the queries, which see each other; otherwise the plain causal model.
    """
    language_model = backbone.model.model.language_model
    rows = backbone.model.get_input_embeddings().weight
    count = place + 1
    embeds_TC = rows[torch.tensor(sequence[:count])]
    if route.spec.read == "queries":
        embeds_TC = torch.cat([embeds_TC, route.queries.weight])
    seen_TT = torch.ones(len(embeds_TC), len(embeds_TC), dtype=torch.bool).tril()
    seen_TT[count:, count:] = True
    mask_TT = torch.zeros(seen_TT.shape).masked_fill(~seen_TT, torch.finfo(torch.float32).min)
    with full_masks(language_model):
        hidden_TC = language_model(
            inputs_embeds=embeds_TC[None],
            attention_mask=mask_TT[None, None],
            position_ids=torch.arange(len(embeds_TC))[None],
            use_cache=False,
        ).last_hidden_state[0]
    return {"queries": hidden_TC[count:], "self": hidden_TC[place : place + 1], "prev": hidden_TC[place - 1 : place]}[
        route.spec.read
    ]


def generated(backbone: Backbone, texts: list[str], tokens: int = 6) -> tuple[list[list[int]], GenerationOutput]:
    prompts = [backbone.prompt_ids(text, []) for text in texts]
    written = generate(backbone, prompts, GenerationOptions(max_new_tokens=tokens), forbidden=backbone.end_ids)
    written.fill_cache(backbone)
    return prompts, written


def use_token(backbone: Backbone, route: Route, token_id: int) -> None:
    """Make a token that a random model happens to write the route's token."""
    route.token_id = token_id


@pytest.mark.parametrize("name", ["det", "seg", "lisa"])
@pytest.mark.parametrize(
    "texts",
    [["where is the red car?"], ["a dog", "where is the red car? and the bus?", "is there", "cat on the grass yes"]],
    ids=["single", "left-padded batch"],
)
def test_generated_reading_equals_one_pass(
    backbone: Backbone, routes: dict[str, Route], texts: list[str], name: str
) -> None:
    prompts, written = generated(backbone, texts)
    for index in (1, 3, 5):  # the last one is the very last token, which generation sampled but did not feed
        for row, answer in enumerate(written.answers):
            use_token(backbone, routes[name], answer[index])
            (states,) = read_emitted(
                backbone, routes, written.cache, written.mask_BP, written.answers, [Emitted(row, index, name)]
            )
            expected = one_pass(backbone, routes[name], prompts[row] + list(answer), len(prompts[row]) + index)
            assert states.shape == (routes[name].spec.states_per_token, 64)
            assert_same(states, expected, WIDEST)
            assert expected.std() > 0.1  # states that are all alike would agree for no reason


def test_mixed_rows_and_routes_are_read_in_one_forward(backbone: Backbone, routes: dict[str, Route]) -> None:
    prompts, written = generated(backbone, ["a dog", "where is the red car?", "is there a bus", "cat"], tokens=8)
    emitted = [Emitted(0, 2, "det"), Emitted(0, 3, "det"), Emitted(2, 7, "det"), Emitted(3, 1, "det")]
    tokens = {written.answers[item.row][item.index] for item in emitted}
    calls = []
    hook = backbone.model.model.language_model.register_forward_hook(lambda *_: calls.append(1))
    states = []
    for token in tokens:  # the fixture's model writes whatever it writes: read each token's group at once
        use_token(backbone, routes["det"], token)
        group = [item for item in emitted if written.answers[item.row][item.index] == token]
        calls.clear()
        states += list(
            zip(
                group,
                read_emitted(backbone, routes, written.cache, written.mask_BP, written.answers, group),
                strict=True,
            )
        )
        assert len(calls) == 1
    hook.remove()
    assert len(states) == len(emitted)
    for item, state in states:
        sequence = prompts[item.row] + list(written.answers[item.row])
        expected = one_pass(backbone, routes["det"], sequence, len(prompts[item.row]) + item.index)
        assert_same(state, expected, WIDEST)


def test_reading_leaves_the_cache_as_it_was(backbone: Backbone, routes: dict[str, Route]) -> None:
    _, written = generated(backbone, ["a dog", "where is the red car?"])
    before = [layer.keys.clone() for layer in written.cache.layers]
    use_token(backbone, routes["det"], written.answers[1][2])
    read_emitted(backbone, routes, written.cache, written.mask_BP, written.answers, [Emitted(1, 2, "det")])
    for layer, keys in zip(written.cache.layers, before, strict=True):
        assert torch.equal(layer.keys, keys)


def test_a_route_in_the_history_does_not_move_later_ones(backbone: Backbone, routes: dict[str, Route]) -> None:
    """Reading one routing token gives the same states whether or not an earlier one is read beside it."""
    _, written = generated(backbone, ["where is the red car?"], tokens=8)
    answer = written.answers[0]
    pair = (2, 5)
    use_token(backbone, routes["det"], answer[pair[1]])
    use_token(backbone, routes["seg"], answer[pair[0]])
    alone = read_emitted(
        backbone, routes, written.cache, written.mask_BP, written.answers, [Emitted(0, pair[1], "det")]
    )
    both = read_emitted(
        backbone,
        routes,
        written.cache,
        written.mask_BP,
        written.answers,
        [Emitted(0, pair[0], "seg"), Emitted(0, pair[1], "det")],
    )
    assert_same(alone[0], both[1], WIDEST)


def test_blocks_do_not_change_the_text(backbone: Backbone, routes: dict[str, Route]) -> None:
    """Hidden states of the text are the same with and without blocks hanging off it."""
    text = Segment(tokens=tuple(backbone.prompt_ids("where is the red car?", [])))
    plain = arrange([[text]])
    rows = [[text, Segment(queries=4, route="det", parent=0, cut=5), Segment(queries=4, route="det", parent=0)]]
    layout = arrange(rows)
    alone = hidden_states(backbone, plain, embed_layout(backbone, routes, plain, [[text]], NO_IMAGES))
    beside = hidden_states(backbone, layout, embed_layout(backbone, routes, layout, rows, NO_IMAGES))
    assert_same(beside[:, : len(text)], alone, WIDEST)


def test_forced_phrases_do_not_influence_each_other(backbone: Backbone, routes: dict[str, Route]) -> None:
    image = backbone.encode_image(Image.new("RGB", (100, 60), "red"))
    counts = [len(image.tokens_TC)]
    together = read_forced(backbone, routes["det"], image.tokens_TC, counts, ["red car", "dog", "a bus? yes"])
    for index, phrase in enumerate(["red car", "dog", "a bus? yes"]):
        alone = read_forced(backbone, routes["det"], image.tokens_TC, counts, [phrase])
        assert_same(together[index], alone[0], WIDEST)
    assert (together[0] - together[1]).abs().max() > 0.01


def test_forced_routes_of_several_requests_are_read_as_each_alone(backbone: Backbone, routes: dict[str, Route]) -> None:
    """Other routes, images, numbers of phrases, and what is known of their prompts; many phrases, too."""
    tokens_TC = torch.randn(40, backbone.hidden_size, generator=torch.Generator().manual_seed(1))
    asks: list[tuple[str, int, tuple[str, ...]]] = [
        ("det", 8, ("red car", "dog")),
        ("seg", 8, ("a bus? yes",)),
        ("lisa", 40, ("cat", "dog", "grass")),
        ("det", 0, ("dog",)),
        ("det", 12, tuple("dog cat bus car grass".split())),
    ]
    prefixes = PrefixCache()
    reads = JointReads(backbone, routes, prefixes)
    for _ in range(2):  # with nothing known, and with all of it
        forced = [
            Forced(routes[name], tokens_TC[:count], (count,) if count else (), phrases, tuple(range(-count, 0)))
            for name, count, phrases in asks
        ]
        found = reads.forced(forced)
        for states, each in zip(found, forced, strict=True):
            alone = read_forced(backbone, each.route, each.tokens_TC, each.image_tokens, each.phrases)
            assert_same(states, alone, WIDEST)
            assert alone.std() > 0.1


def test_routes_in_answers_of_several_requests_are_read_as_each_alone(
    backbone: Backbone, routes: dict[str, Route]
) -> None:
    """Of answers that were written alone and as a batch, whose last tokens were not fed."""
    groups = [
        ["where is the red car?"],
        ["a dog"],
        ["is there a bus? yes", "cat on the grass"],
        ["a dog and a cat " * 40],
    ]
    asked, expected = [], []
    outputs = [
        generate(backbone, prompts, GenerationOptions(max_new_tokens=6), forbidden=backbone.end_ids)
        for prompts in ([backbone.prompt_ids(text, []) for text in texts] for texts in groups)
    ]
    token = routes["det"].token_id = outputs[0].answers[0][-1]
    for output, texts in zip(outputs, groups, strict=True):
        for row, text in enumerate(texts):
            output.answers[row][-1] = token
            sequence = [*backbone.prompt_ids(text, []), *output.answers[row]]
            expected.append(one_pass(backbone, routes["det"], sequence, len(sequence) - 1))
        asked.append((output, [Emitted(row, 5, "det") for row in range(len(texts))]))
    passes: list[int] = []
    hook = backbone.model.model.language_model.register_forward_hook(lambda *_: passes.append(1))
    found = JointReads(backbone, routes, PrefixCache()).emitted(asked)
    hook.remove()
    assert len(passes) == 3, "one of the short ones, one of the long one, one of the batch"
    for states, own in zip([each for some in found for each in some], expected, strict=True):
        assert_same(states, own, WIDEST)


def test_generated_text_is_the_same_with_and_without_routes() -> None:
    plain, routed = tiny_backbone(), tiny_backbone()
    for spec in (DET, SELF):
        new_route(routed, spec)
    forbidden = [routed.tokenizer.convert_tokens_to_ids(spec.token) for spec in (DET, SELF)]
    for text in ("where is the red car?", "a dog and", "is there a bus? [DET]"):
        ids = [plain.prompt_ids(text, [])]
        assert ids == [routed.prompt_ids(text, [])]
        first = generate(plain, ids, GenerationOptions(max_new_tokens=20))
        second = generate(routed, ids, GenerationOptions(max_new_tokens=20), forbidden=forbidden)
        assert first.answers == second.answers


def test_forbidden_tokens_are_never_written(backbone: Backbone) -> None:
    prompt = [backbone.prompt_ids("where is the red car?", [])]
    favourite = generate(backbone, prompt, GenerationOptions(max_new_tokens=1)).answers[0][0]
    answer = generate(backbone, prompt, GenerationOptions(max_new_tokens=12), forbidden=[favourite]).answers[0]
    assert favourite not in answer


def test_a_routing_token_typed_by_a_user_stays_text(backbone: Backbone, routes: dict[str, Route]) -> None:
    ids = backbone.prompt_ids("draw [DET] and <|im_end|> please", [])
    plain = backbone.prompt_ids("draw", [])
    assert routes["det"].token_id not in ids
    assert ids.count(backbone.tokenizer.eos_token_id) == plain.count(backbone.tokenizer.eos_token_id)


def test_query_bank_starts_at_the_mean_row(backbone: Backbone) -> None:
    rows = backbone.model.get_input_embeddings().weight
    bank = QueryBank(8, rows.shape[1])
    bank.initialise(rows, torch.Generator().manual_seed(0))
    offset = bank.weight.detach() - rows.mean(dim=0)
    assert 0.015 < float(offset.std()) < 0.025


def test_new_token_row_is_the_mean_of_the_others(backbone: Backbone) -> None:
    before = backbone.model.get_input_embeddings().weight.clone()
    route = new_route(backbone, DET)
    after = backbone.model.get_input_embeddings().weight
    torch.testing.assert_close(after[route.token_id], before.mean(dim=0))
    torch.testing.assert_close(after[: len(before)], before)


def test_layout_of_a_tree_is_what_the_definitions_say() -> None:
    #  0: text of 3;  1: text of 2 after the first two tokens of 0;  2: queries of 2 after the first token of 1
    rows = [
        [
            Segment(tokens=(7, 8, 9)),
            Segment(tokens=(5, 6), parent=0, cut=2),
            Segment(queries=2, route="det", parent=1, cut=1),
        ]
    ]
    layout = arrange(rows)
    assert layout.positions_BL.tolist() == [[0, 1, 2, 2, 3, 3, 4]]
    seen = ["".join("x" if v else "." for v in row) for row in layout.visible_BLK[0].tolist()]
    assert seen == ["x......", "xx.....", "xxx....", "xx.x...", "xx.xx..", "xx.x.xx", "xx.x.xx"]


def test_layout_skips_left_padding_of_a_cached_prefix() -> None:
    mask = torch.tensor([[False, True, True], [True, True, True]])
    layout = arrange([[Segment(queries=1, cut=1)], [Segment(queries=1), Segment(queries=1, cut=2)]], mask)
    assert layout.positions_BL.tolist() == [[1, 0], [3, 2]]
    seen = [["".join("x" if v else "." for v in row) for row in rows] for rows in layout.visible_BLK.tolist()]
    assert seen == [[".x.x.", "....x"], ["xxxx.", "xx..x"]]


@pytest.mark.parametrize(
    "segments",
    [[Segment(tokens=(1,), parent=0)], [Segment(tokens=(1,)), Segment(queries=1, parent=0, cut=2)]],
    ids=["parent after child", "cut beyond parent"],
)
def test_impossible_trees_are_refused(segments: list[Segment]) -> None:
    with pytest.raises(RouteError, match="segment"):
        arrange([segments])


def test_reading_a_token_that_is_not_there_is_refused(backbone: Backbone, routes: dict[str, Route]) -> None:
    _, written = generated(backbone, ["a dog"])
    with pytest.raises(RouteError, match=r"is not '\[DET\]'"):
        read_emitted(backbone, routes, written.cache, written.mask_BP, written.answers, [Emitted(0, 0, "det")])


@pytest.mark.parametrize(
    "settings",
    [{"token": "DET"}, {"token": "[det]"}, {"num_queries": 0}, {"read": "self"}, {"decoder": ""}, {"loss_weight": -1}],
)
def test_route_specs_that_make_no_sense_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RouteSpec(**({"token": "[DET]", "decoder": "box", "num_queries": 4} | settings))


def test_emitted_routes_come_in_order() -> None:
    assert emitted_routes([5, 9, 5, 7], {5: DET, 7: SELF}) == [(0, DET), (2, DET), (3, SELF)]


def test_forced_text_is_phrase_and_token(backbone: Backbone, routes: dict[str, Route], tmp_path: Path) -> None:
    lead, block = forced_segments(backbone, routes["det"], ["red car"], parent=0)
    assert lead.tokens == (*backbone.text_ids("red car"), routes["det"].token_id)
    assert (block.parent, block.queries) == (1, 4)


@pytest.mark.parametrize(
    ("route", "segment"),
    [
        (DET, Segment(queries=4, route="det", cut=10)),
        (SELF, Segment(tokens=(52,), route="seg", cut=9)),
        (PREV, Segment(tokens=(51, 52), route="lisa", cut=8)),
    ],
)
def test_what_is_read_for_the_third_token_after_a_prompt_of_seven(route: RouteSpec, segment: Segment) -> None:
    assert read_segment(route, 7, 2, (50, 51, 52, 53)) == segment


def test_what_comes_before_the_first_token_is_refused() -> None:
    with pytest.raises(RouteError, match="the answer's first token"):
        read_segment(PREV, 7, 0, (52, 53))


@pytest.mark.parametrize(
    ("route", "start", "end", "columns"),
    [(DET, 10, 14, (10, 14)), (SELF, 10, 11, (10, 11)), (SELF, 10, 15, (14, 15)), (PREV, 10, 15, (13, 14))],
)
def test_columns_that_a_decoder_gets(route: RouteSpec, start: int, end: int, columns: tuple[int, int]) -> None:
    assert state_columns(route, Span(0, 1, start, end)) == slice(*columns)


def test_attention_is_open_where_visible_and_shut_elsewhere() -> None:
    mask = torch.tensor([[False, True]])
    layout = arrange([[Segment(tokens=(5, 6)), Segment(queries=1, parent=0, cut=1)]], mask)
    low = torch.finfo(torch.float32).min
    #        left padding, cached, 5, 6, query
    assert layout.additive_mask(torch.float32).tolist() == [
        [[[low, 0, 0, low, low], [low, 0, 0, 0, low], [low, 0, 0, low, 0]]]
    ]
    assert layout.positions_BL.tolist() == [[1, 2, 2]]


def test_the_first_columns_of_a_layout() -> None:
    layout = arrange([[Segment(tokens=(7, 8)), Segment(queries=2, route="det", parent=0, cut=1)]]).first(3)
    assert layout.ids_BL.tolist() == [[7, 8, -1]] and layout.positions_BL.tolist() == [[0, 1, 1]]
    assert layout.visible_BLK.int().tolist() == [[[1, 0, 0], [1, 1, 0], [1, 0, 1]]]


def test_padding_of_shorter_rows_sees_itself_alone() -> None:
    layout = arrange([[Segment(tokens=(7,))], [Segment(tokens=(7, 8, 9))]], torch.ones(2, 2, dtype=torch.bool))
    assert layout.visible_BLK[0].int().tolist() == [[1, 1, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]]


@pytest.mark.parametrize("name", ["det", "seg", "lisa"])
def test_a_forced_route_is_read_after_its_phrase(backbone: Backbone, routes: dict[str, Route], name: str) -> None:
    phrases = ["where is the red car", "dog"]
    states = read_forced(backbone, routes[name], NO_IMAGES, [], phrases)
    for phrase, state in zip(phrases, states, strict=True):
        sequence = [
            *backbone.prompt_ids("Find each thing.", []),
            *backbone.tokenizer(phrase, add_special_tokens=False)["input_ids"],
            routes[name].token_id,
        ]
        assert_same(state, one_pass(backbone, routes[name], sequence, len(sequence) - 1), WIDEST)


@torch.inference_mode()
def test_a_causal_block_is_read_as_any_engine_reads_text(backbone: Backbone, routes: dict[str, Route]) -> None:
    """What a language model alone, without a mask of ours, gives of the text and the queries after it."""
    full, phrases = routes["det"], ["where is the red car", "dog"]
    spec = full.spec.model_copy(update={"block": "causal"})
    route = Route(spec, full.token_id, full.queries, full.decoder)
    rows = backbone.model.get_input_embeddings().weight

    def alone(ids: list[int]) -> Tensor:
        embeds_TC = torch.cat([rows[torch.tensor(ids)], route.queries.weight])
        states: Tensor = backbone.model.model.language_model(inputs_embeds=embeds_TC[None]).last_hidden_state
        return states[0, len(ids) :]

    prompt = backbone.prompt_ids("Find each thing.", [])
    causal, both = (read_forced(backbone, each, NO_IMAGES, [], phrases) for each in (route, full))
    for phrase, state, other in zip(phrases, causal, both, strict=True):
        ids = [*prompt, *backbone.text_ids(phrase), route.token_id]
        assert_same(state, alone(ids), WIDEST)
        assert (state[0] - other[0]).abs().max() > 0.01  # the first query of a full block sees the others
        assert_same(state[-1], read_last(backbone, full, ids), WIDEST)
    prompts, written = generated(backbone, ["a dog", "where is the red car? and the bus?"])
    for row, answer in enumerate(written.answers):
        use_token(backbone, route, answer[3])
        emitted = [Emitted(row, 3, "det")]
        (states,) = read_emitted(backbone, {"det": route}, written.cache, written.mask_BP, written.answers, emitted)
        assert_same(states, alone([*prompts[row], *answer[:4]]), WIDEST)


def read_last(backbone: Backbone, route: Route, ids: list[int]) -> Tensor:
    """The state of the last query of a causal block, by a mask that is written out."""
    rows = backbone.model.get_input_embeddings().weight
    embeds_TC = torch.cat([rows[torch.tensor(ids)], route.queries.weight])
    mask_TT = torch.full((len(embeds_TC), len(embeds_TC)), torch.finfo(torch.float32).min).triu(1)
    with full_masks(backbone.model.model.language_model):
        states: Tensor = backbone.model.model.language_model(
            inputs_embeds=embeds_TC[None], attention_mask=mask_TT[None, None], use_cache=False
        ).last_hidden_state
    return states[0, -1]


def test_a_forced_route_has_a_mask_for_its_phrases_alone(
    backbone: Backbone, routes: dict[str, Route], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = backbone.encode_image(Image.new("RGB", (200, 120), "green"))
    count, phrases = len(image.tokens_TC), ["dog", "a red car"]
    laid_out: list[int] = []
    real = Layout.additive_mask

    def watched(layout: Layout, dtype: torch.dtype, window: int | None = None) -> Tensor:
        laid_out.append(layout.visible_BLK.shape[1])
        return real(layout, dtype, window)

    monkeypatch.setattr(Layout, "additive_mask", watched)
    read_forced(backbone, routes["det"], image.tokens_TC, [count], phrases)
    own = sum(len(backbone.text_ids(phrase)) + 1 + 4 for phrase in phrases)
    assert set(laid_out) == {1 + own} and count > own  # the prompt's last token goes with them


def test_detecting_and_segmenting_are_trained_causally_and_old_adapters_keep_what_they_have(
    tmp_path: Path, backbone: Backbone, routes: dict[str, Route]
) -> None:
    assert DETECT.block == SEGMENT.block == "causal"
    assert RouteSpec(token="[X]", decoder="box").block == "full"
    det = routes["det"]
    route = Route(det.spec.model_copy(update={"block": "causal"}), det.token_id, det.queries, det.decoder)
    save_adapter(tmp_path / "new", route, backbone, torch.float32)
    content = json.loads((tmp_path / "new" / "adapter.json").read_text("utf-8"))
    assert content["route"]["block"] == "causal"
    assert AdapterInfo.model_validate(content).route.block == "causal"
    del content["route"]["block"]
    assert AdapterInfo.model_validate(content).route.block == "full"
    with pytest.raises(ValidationError, match="block"):
        RouteSpec(token="[X]", decoder="box", block="both")  # type: ignore[arg-type]
    # Those of the shipped model were trained fully.
    for name in ("det", "seg", "gen"):
        shipped = json.loads((DEFAULT_CHECKPOINT / "adapters" / name / "adapter.json").read_text("utf-8"))
        assert AdapterInfo.model_validate(shipped).route.block == "full"


def test_each_route_is_read_with_its_own_queries(backbone: Backbone) -> None:
    specs = [DET, DET.model_copy(update={"token": "[OTHER]", "num_queries": 3})]
    routes = {
        spec.name: new_route(backbone, spec, torch.Generator().manual_seed(3 + len(spec.token))) for spec in specs
    }
    for route in routes.values():
        route.queries.weight.requires_grad_(False).mul_(20)
    prompts, written = generated(backbone, ["where is the red car?"])
    (answer,) = written.answers
    for route, token in zip(routes.values(), (answer[1], answer[4]), strict=True):
        use_token(backbone, route, token)
    emitted = [Emitted(0, 4, "other"), Emitted(0, 1, "det")]
    found = read_emitted(backbone, routes, written.cache, written.mask_BP, written.answers, emitted)
    for item, states in zip(emitted, found, strict=True):
        sequence = prompts[0] + list(answer)
        assert_same(states, one_pass(backbone, routes[item.route], sequence, len(prompts[0]) + item.index), WIDEST)
