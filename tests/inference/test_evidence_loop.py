"""Evidence: what is written of what was seen, and a model that answers by it."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_backbone
from hypothesis import given
from hypothesis import strategies as st

from vision_agent import Box, Detections, GenerationOptions
from vision_agent.data.text.dialogue import Exchange, Part
from vision_agent.generation.decoding import PromptInputs
from vision_agent.generation.prefix_cache import PrefixCache
from vision_agent.inference.colors import COLOURS
from vision_agent.inference.evidence import (
    EVIDENCE_REQUEST,
    PLACES,
    RELATIONS,
    UNCLEAR,
    Comparison,
    Evidence,
    Observation,
    place_of,
)
from vision_agent.inference.evidence_loop import (
    MAX_EVIDENCE_REQUESTS,
    EvidenceFinder,
    GroundedAnswer,
    answer_with_evidence,
    turns_of,
)
from vision_agent.model.backbone import Backbone
from vision_agent.routing.adapter import new_route
from vision_agent.routing.states import embed_layout, hidden_states
from vision_agent.train.collate import Collator
from vision_agent.train.trainer import DETECT

SEEN = st.builds(
    Evidence,
    phrase=st.just("dog"),
    count=st.integers(1, 11),
    colour=st.sampled_from([*COLOURS, UNCLEAR]),
    place=st.sampled_from(PLACES),
    verdict=st.sampled_from([None, "yes", "no", "even"]),
)


MAYBE = SEEN.map(lambda seen: seen.model_copy(update={"count": 0, "maybe": True}))


@given(SEEN | MAYBE | st.just(Evidence(phrase="dog", count=0)))
def test_evidence_survives_its_text(evidence: Evidence) -> None:
    assert Evidence.parse("dog", evidence.text) == evidence


def test_evidence_reads_as_documented() -> None:
    seen = Evidence(phrase="dog", count=2, colour="red", place="top left", verdict="even")
    assert seen.text == "two, red, top left; even."
    assert Evidence(phrase="dog", count=0).text == "none."
    assert Evidence(phrase="dog", count=0, maybe=True, colour="red", place="left").text == "maybe, red, left."
    assert Evidence(phrase="dog", count=40, colour="red", place="middle").text == "many, red, middle."


@pytest.mark.parametrize(
    ("middle", "place"),
    [((5, 5), "top left"), ((45, 5), "top"), ((45, 30), "middle"), ((90, 60), "bottom right"), ((1, 31), "left")],
)
def test_places_are_ninths_of_the_image(middle: tuple[float, float], place: str) -> None:
    x, y = middle
    assert place_of(Box(x0=x - 1, y0=y - 1, x1=x + 1, y1=y + 1), (90, 60)) == place


def test_a_comparison_and_its_opposite_agree() -> None:
    small, large = Observation(3, Box(x0=0, y0=50, x1=10, y1=60)), Observation(1, Box(x0=50, y0=0, x1=90, y1=40))
    assert Comparison.of(small, large, (100, 100)).words == ("left", "below", "smaller", "more")
    assert Comparison.of(large, small, (100, 100)).words == ("right", "above", "bigger", "fewer")
    assert set(Comparison.of(small, small, (100, 100)).words) == {"even"}
    assert [Comparison.of(small, large, (100, 100)).verdict(each) for each in ("left", "right", "fewer")] == [
        *("yes", "no", "no")
    ]
    assert {Comparison.of(small, small, (100, 100)).verdict(each) for each in RELATIONS} == {"even"}


def found(*things: tuple[str, float, tuple[float, float, float, float]]) -> Detections:
    labels, scores, boxes = zip(*things, strict=True) if things else ((), (), ())
    return Detections.from_arrays(boxes, scores, labels, image_size=(90, 60), model="drawn")


DOGS = found(
    ("dog", 0.9, (0, 0, 20, 20)),
    ("dog", 0.5, (60, 0, 80, 20)),
    ("dog", 0.2, (60, 40, 80, 60)),
    ("red dog", 0.3, (1, 0, 20, 20)),
    ("cat", 0.25, (60, 30, 90, 60)),
)


def looker(least: float = 0.4, surely_one: float | None = None, maybe_one: float | None = None) -> EvidenceFinder:
    def find(phrase: str, score: float) -> Detections:
        return DOGS.filter(score, phrase)

    def colour(box: Box) -> str | None:
        return "blue" if box.x0 < 50 else None

    return EvidenceFinder(find, colour, least, surely_one, maybe_one)


def test_looking_counts_what_is_sure_and_names_the_colour_of_the_clearest() -> None:
    assert looker()("dog").text == "two, blue, top left."
    assert looker(0.1)("dog").count == 3
    assert looker()("red dog").count == 0
    assert looker(0.3)("red dog").text == "one, red, top left."
    assert looker()("zebra").text == "none."


def test_one_thing_may_be_surer_than_their_number() -> None:
    assert looker(0.4)("cat").count == 0
    assert looker(0.4, surely_one=0.2)("cat").text == "one, unclear, bottom right."
    assert looker(0.4, surely_one=0.2)("dog").count == 2


def test_what_may_be_there_is_told_as_such_and_compared() -> None:
    assert looker(0.4, 0.3, 0.26)("cat").text == "none."
    look = looker(0.4, 0.3, 0.2)
    assert look("cat").text == "maybe, unclear, bottom right."
    assert look("dog", "below").text == "two, blue, top left; yes."


def test_the_second_look_compares_with_the_first() -> None:
    look = looker(0.2)
    assert look("dog", "left").verdict is None
    for relation, verdict in (("left", "yes"), ("below", "no"), ("smaller", "yes"), ("more", "yes"), ("fewer", "no")):
        look("dog")
        assert look("cat", relation).verdict == verdict
    assert look("zebra", "left").text == "none." and look("dog", "left").verdict is None


QUESTION = "is there a red car?"
SEEN_TEXTS = {"none.": "no", "one, red, left.": "yes", "two, red, left.": "yes"}
PAIR = "is there a dog and a cat?"


@pytest.fixture(scope="module")
def trained() -> Iterator[tuple[Backbone, int]]:
    """A tiny model that learned to look before it answers three questions."""
    backbone = tiny_backbone()
    route = new_route(backbone, DETECT, torch.Generator().manual_seed(0))
    exchanges = [
        Exchange(QUESTION, "red car", "det", None, (Part(EVIDENCE_REQUEST), Part(seen, given=True), Part(words)))
        for seen, words in SEEN_TEXTS.items()
    ]
    looks = [(Part(EVIDENCE_REQUEST), Part(seen, given=True)) for seen in ("none.", "one, red, left.")]
    cats = (Part("cat", "det"), *looks[0], Part("no"))
    exchanges.append(Exchange(PAIR, "dog", "det", None, (*looks[1], *cats)))
    said = (Part(EVIDENCE_REQUEST, given=True), Part("one, red, left.", given=True), Part("on the left"))
    exchanges += [Exchange("where is it?", "it", "det", None, said), Exchange("where is it?", "it", "det")]
    exchanges.append(Exchange("hello", "hello"))
    batch = Collator(backbone, route, {"det": route.token_id}, 0).text_only([([], exchanges)])
    model = backbone.model.train().requires_grad_(True)
    optimiser = torch.optim.AdamW(model.model.language_model.parameters(), lr=3e-3)
    for _ in range(150):
        embeds = embed_layout(backbone, {"det": route}, batch.layout, batch.rows, torch.empty(0, backbone.hidden_size))
        hidden = hidden_states(backbone, batch.layout, embeds)
        scores = model.lm_head(hidden[batch.label_places[:, 0], batch.label_places[:, 1]])
        loss = F.cross_entropy(scores, batch.labels)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        if loss.item() < 0.05:
            break
    model.eval().requires_grad_(False)
    yield backbone, route.token_id


def answered(trained: tuple[Backbone, int], request: str, *seen: str, say: bool = True) -> GroundedAnswer:
    backbone, token = trained
    inputs = PromptInputs(tuple(backbone.prompt_ids(request, [])))
    write = turns_of(backbone, inputs, GenerationOptions(max_new_tokens=24), [], PrefixCache())
    texts = iter(seen)
    return answer_with_evidence(
        write, lambda phrase, relation: Evidence.parse(phrase, next(texts)), backbone, token, say=say
    )


@pytest.mark.parametrize(("seen", "words"), SEEN_TEXTS.items())
def test_an_answer_follows_what_was_seen(trained: tuple[Backbone, int], seen: str, words: str) -> None:
    answer = answered(trained, QUESTION, seen)
    assert (answer.words, [each.phrase for each in answer.evidence]) == (words, ["red car"])
    assert len(answer.turns) == 2 and answer.turns[1].finish_reasons == ["stop"]


def test_a_model_may_look_twice(trained: tuple[Backbone, int]) -> None:
    answer = answered(trained, PAIR, "one, red, left.", "none.")
    assert answer.words == "no" and [each.phrase for each in answer.evidence] == ["dog", "cat"]


def test_a_bare_place_is_put_in_words_where_words_are_wanted(trained: tuple[Backbone, int]) -> None:
    assert answered(trained, "where is it?", "one, red, left.").words == "on the left"
    silent = answered(trained, "where is it?", say=False)
    assert silent.words == "" and not silent.evidence


def test_plain_words_need_no_look(trained: tuple[Backbone, int]) -> None:
    answer = answered(trained, "hello")
    assert answer.words == "hello" and not answer.evidence and len(answer.turns) == 1


def test_looking_ends(trained: tuple[Backbone, int]) -> None:
    backbone, token = trained
    inputs = PromptInputs(tuple(backbone.prompt_ids(QUESTION, [])))
    first = turns_of(backbone, inputs, GenerationOptions(max_new_tokens=24), [])(())
    answer = answer_with_evidence(
        lambda start: first, lambda phrase, relation: Evidence(phrase=phrase, count=0), backbone, token
    )
    assert len(answer.evidence) == MAX_EVIDENCE_REQUESTS and answer.words == ""


def test_evidence_is_read_and_never_predicted() -> None:
    backbone = tiny_backbone()
    route = new_route(backbone, DETECT, torch.Generator().manual_seed(0))
    parts = (Part(EVIDENCE_REQUEST), Part("two, blue, top.", given=True), Part("yes"))
    exchange = Exchange("any dog?", "dog", "det", None, parts)
    batch = Collator(backbone, route, {"det": route.token_id}, 0).text_only([([], [exchange])])
    learnt = backbone.decode_text(batch.labels.tolist())
    assert "blue" not in learnt and all(word in learnt for word in ("dog", "[DET]", "look:", "yes"))
    assert len(np.unique(batch.label_places[:, 1])) == len(batch.labels)
