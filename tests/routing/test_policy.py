"""Which routes an answer may take, token by token."""

import pytest
import torch

from vision_agent import RouteSpec
from vision_agent.errors import ArgumentTypeError, InputError, RouteError
from vision_agent.model.backbone import Backbone
from vision_agent.routing.adapter import Route, new_route
from vision_agent.routing.policy import RouteChoice, RouteRule

A, B, END, WORD, OTHER = 0, 1, 2, 3, 4  # a vocabulary of two routing tokens, an end, two words
SHUT = -float("inf")


def allowed(rule: RouteRule, *written: int, wants: int = WORD) -> set[int]:
    """The tokens that may follow what was written, where the model would write `wants` next."""
    state = rule.start()
    for token in written:
        state.accept(token)
    scores = torch.zeros(5)
    scores[wants] = 1.0
    return set((state.mask(scores) > SHUT).nonzero().flatten().tolist())


EVERYTHING = {A, B, END, WORD, OTHER}


def test_at_most_so_many_routes() -> None:
    rule = RouteRule(tokens=(A, B), end_ids=(END,), most=2)
    assert allowed(rule) == allowed(rule, A, WORD) == EVERYTHING
    assert allowed(rule, A, WORD, B) == allowed(rule, A, B, WORD) == {END, WORD, OTHER}
    assert allowed(RouteRule(tokens=(A, B), end_ids=(END,), most=0)) == {END, WORD, OTHER}


def test_a_first_route_comes_after_a_phrase_and_where_the_model_would_end_it() -> None:
    rule = RouteRule(tokens=(A, B), end_ids=(END,), first=B, latest=4)
    assert allowed(rule) == allowed(rule, wants=END) == allowed(rule, wants=A) == {WORD, OTHER}
    assert allowed(rule, WORD) == {WORD, OTHER}
    assert allowed(rule, WORD, wants=END) == allowed(rule, WORD, wants=A) == {B}
    assert allowed(rule, *[WORD] * 3) == {WORD, OTHER}
    assert allowed(rule, *[WORD] * 4) == {B}  # at the latest
    assert allowed(rule, WORD, B) == EVERYTHING


def test_an_answer_is_not_complete_without_its_first_route() -> None:
    state = RouteRule(tokens=(A, B), end_ids=(END,), first=B).start()
    assert not state.complete
    state.accept(WORD)
    assert not state.complete
    state.accept(B)
    assert state.complete and RouteRule(tokens=(A,), end_ids=(END,), most=1).start().complete


def test_nothing_but_the_end_follows_a_last_route() -> None:
    rule = RouteRule(tokens=(A, B), end_ids=(END,), last=(B,))
    assert allowed(rule, WORD, A) == EVERYTHING and allowed(rule, WORD, B) == {END}


@pytest.fixture
def loaded(backbone: Backbone) -> dict[str, Route]:
    specs = [RouteSpec(token=f"[{name}]", decoder="box", num_queries=1) for name in ("DET", "SEG")]
    return {spec.name: new_route(backbone, spec) for spec in specs}


def test_a_choice_of_routes(loaded: dict[str, Route]) -> None:
    free = RouteChoice.of(loaded, "tiny", None, None, None)
    assert free.allowed == ("det", "seg") and not free.narrows(loaded) and not free.forbidden(loaded)
    assert free.constraint(loaded, [END], 20) is None
    one = RouteChoice.of(loaded, "tiny", ["seg"], "seg", 1)
    assert one.narrows(loaded) and one.forbidden(loaded) == [loaded["det"].token_id]
    both = (loaded["det"].token_id, loaded["seg"].token_id)
    rule = one.constraint(loaded, [END], 20)
    assert rule == RouteRule(tokens=both, end_ids=(END,), first=both[1], latest=19, most=1)
    none = RouteChoice.of(loaded, "tiny", [], None, None)
    assert none.narrows(loaded) and none.forbidden(loaded) == list(both)
    assert RouteChoice.of(loaded, "tiny", None, None, 0).narrows(loaded)


@pytest.mark.parametrize(
    ("routes", "first", "most", "error", "words"),
    [
        ("det", None, None, ArgumentTypeError, "`routes`"),
        ([1], None, None, ArgumentTypeError, "`routes`"),
        (None, 1, None, ArgumentTypeError, "`first_route`"),
        (None, None, -1, InputError, "`max_routes` must be a whole number from 0"),
        (None, "det", 0, InputError, "`max_routes` must be a whole number from 1"),
        (None, None, True, InputError, "`max_routes`"),
        (["cat"], None, None, RouteError, "no 'cat' route; it has .*det.*seg"),
        (None, "cat", None, RouteError, "no 'cat' route"),
        (["det"], "seg", None, RouteError, "`first_route` is 'seg'"),
    ],
)
def test_choices_that_cannot_be_are_refused(
    loaded: dict[str, Route], routes: object, first: object, most: object, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        RouteChoice.of(loaded, "tiny", routes, first, most)  # type: ignore[arg-type]
