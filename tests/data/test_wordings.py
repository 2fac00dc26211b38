"""What the model is taught to say: requests of all kinds, what they ask to copy, and what is never trained."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vision_agent.data.samples import make_sample
from vision_agent.data.scene import Scene
from vision_agent.data.text import question_templates as questions
from vision_agent.data.text import request_templates as requests
from vision_agent.data.text.dialogue import Exchange, Part, PhraseTarget
from vision_agent.data.text.evidence_questions import random_question, scene_question
from vision_agent.data.text.held_out import CONTRASTS, HELD_OUT
from vision_agent.data.text.human_templates import human_request, human_templates
from vision_agent.data.text.language_mix import LanguageMix, corpus, routed
from vision_agent.data.text.phrases import Phrases
from vision_agent.data.text.sentence_templates import SentenceGrammar
from vision_agent.inference.colors import COLOURS
from vision_agent.inference.evidence import COUNT_WORDS, EVIDENCE_REQUESTS, Evidence

NAMES = ["dog", "traffic light", "bus", "bat (animal)", "wine glass"]
CAPTIONS = ["A man rides a brown horse on the beach.", "Two cats, asleep on the old couch"]
GRAMMARS = {
    **{kind: (one,) for kind, one in requests.ROUTED.items()},
    "text": (*questions.QUESTIONS.values(), requests.DESCRIBE),
}
# What a question about a property may ask for, in the place of a `#` of its grammar, and of an `@`.
ASKED = (*COLOURS, *COUNT_WORDS[1:], "left", "right", "top", "bottom")
COMPARED = (*questions.WHICH_WORDS, *(word for words in questions.RELATION_WORDS.values() for word in words), "more")


def made_by(kind: str, request: str, phrases: list[str]) -> bool:
    """Whether a grammar of the kind can make the request about one of the phrases, or about two of them."""
    texts = {request}
    for words, mark in ((COMPARED, "@"), ((*ASKED, *phrases), "#"), ((*ASKED, *phrases), "#")):
        found = [(text, word) for text in texts for word in words if re.search(rf"\b{re.escape(word)}\b", text)]
        texts |= {re.sub(rf"\b{re.escape(word)}\b", mark, text) for text, word in found}
    grammars = GRAMMARS[kind]
    return any(grammar.makes(text, phrase) for grammar in grammars for text in texts for phrase in ("", *phrases))


def test_each_grammar_makes_thousands_of_requests_and_knows_its_own() -> None:
    rng = np.random.default_rng(0)
    for grammar in requests.ROUTED.values():
        made = {grammar.make("red kite", rng) for _ in range(2000)}
        assert len(made) > 1000 and grammar.size > 100_000
        assert all(grammar.makes(request, "red kite") for request in made)


@given(st.integers(0, 2**32), st.sampled_from(sorted(requests.ROUTED)), st.text("abz <>{}#", min_size=1, max_size=12))
def test_a_request_holds_its_phrase_as_it_is(seed: int, kind: str, phrase: str) -> None:
    if kind != "ocr":
        assert phrase in requests.ROUTED[kind].make(phrase, np.random.default_rng(seed))


def test_the_size_of_a_grammar_is_the_number_of_its_requests() -> None:
    grammar = SentenceGrammar(
        ("<a> {}", "<a> {}", "{}<end>"), {"a": ("see", "see", "<b> find"), "b": ("do", "go"), "end": ("", "!")}
    )
    rng = np.random.default_rng(0)
    made = {grammar.make("zebra", rng) for _ in range(300)}
    plain = {"see zebra", "do find zebra", "go find zebra", "zebra", "zebra!"}
    assert made >= plain and all(request.endswith(tuple(plain)) for request in made)
    assert any("yesterday" in request for request in made)  # some come after a remark
    assert all(grammar.makes(request, "zebra") for request in made)
    assert grammar.size == 5
    assert grammar.makes("Do find ZEBRA!", "zebra") and not grammar.makes("go see zebra", "zebra")


def test_held_out_wordings_are_made_by_no_grammar() -> None:
    assert set(HELD_OUT) == {*requests.ROUTED, "text"}
    for kind, all_wordings in HELD_OUT.items():
        assert len({wording.request for wording in all_wordings}) == len(all_wordings) == 20
        for request, phrase in all_wordings:
            asked = request.format("zebra")
            phrases = ["zebra", "zebras", "chair", *([phrase.format("zebra")] if phrase else [])]
            assert kind == "ocr" or phrase is None or phrase.format("zebra") in asked
            assert not [other for other in GRAMMARS if made_by(other, asked, phrases)], request


def test_requests_that_look_alike_are_trained_for_what_they_mean() -> None:
    phrases = ["dog", "dogs", "sign", "car", "a dog", "a red car", "a picture"]
    changes = ["make the car red", "add a red car", "paint the car red", "put a hat on the car", "take out the car"]
    for kind, request in CONTRASTS:
        assert made_by(kind, request, changes if kind == "edit" else phrases), request


@given(st.integers(0, 2**32))
def test_things_to_copy_do_not_begin_or_end_with_words_of_the_request(seed: int) -> None:
    phrase = Phrases(NAMES, CAPTIONS).phrase(np.random.default_rng(seed))
    words = phrase.split()
    assert 1 <= len(words) and " ".join(words) == phrase == phrase.lower()
    assert not {words[0], words[-1]} & {"a", "the", "in", "on", "please"} and "(" not in phrase


def test_most_things_to_copy_are_no_known_names() -> None:
    phrases, rng = Phrases(NAMES, CAPTIONS), np.random.default_rng(0)
    drawn = [phrases.phrase(rng) for _ in range(400)]
    known = re.compile("|".join(f"({'|'.join(COLOURS)} )?{name}(s|es)?" for name in phrases.names))
    assert np.mean([known.fullmatch(phrase) is None for phrase in drawn]) > 0.6
    assert len(set(drawn)) > 250


def test_a_routed_answer_is_the_phrase_as_it_stands_in_the_request() -> None:
    phrases, rng = Phrases(NAMES, CAPTIONS), np.random.default_rng(0)
    for kind in ("det", "seg", "gen", "edit"):
        for exchange in [routed(kind, phrases, rng) for _ in range(100)]:
            assert exchange.answer in exchange.request and exchange.route == kind
    assert {routed("ocr", phrases, rng).answer for _ in range(20)} == {requests.READ_PHRASE}


def told(exchange: Exchange) -> tuple[list[Evidence], str]:
    """The evidence of an exchange and what is said in the end."""
    evidence, before = [], Part("")
    for part in exchange.parts:
        if part.given and part.text not in EVIDENCE_REQUESTS:
            evidence.append(Evidence.parse(before.text, part.text))
        elif part.route is not None:
            before = part
    return evidence, exchange.parts[-1].text


def test_questions_are_answered_by_what_the_evidence_says() -> None:
    phrases, rng = Phrases(NAMES, CAPTIONS), np.random.default_rng(0)
    kinds: set[str] = set()
    for exchange in [random_question(phrases, rng) for _ in range(1500)]:
        evidence, words = told(exchange)
        first, request = evidence[0], exchange.request
        assert all(each.phrase in request for each in evidence)
        if words.startswith(("i can't see ", "no, i can't see ")):
            kinds.add("refused")
            assert evidence[-1].count == 0 and words.endswith(evidence[-1].phrase)
        elif re.search(r"\b(how many|count|number of)\b", request) and words in (*COUNT_WORDS, "many"):
            kinds.add("count")
            assert words == (COUNT_WORDS[first.count] if first.count <= 10 else "many")
        elif words in COLOURS:
            kinds.add("colour")
            assert words == first.colour
        elif words.endswith(", i think"):
            kinds.add("unsure")
            assert any(each.maybe for each in evidence) and not re.search(r"\bis there\b", request)
        elif words == "yes":
            kinds.add("yes")
            assert all(each.count for each in evidence)
        elif words.startswith("the "):
            kinds.add("which")
            assert words.removeprefix("the ") in {each.phrase for each in evidence}
        elif words in ("on the left", "on the right") and len(evidence) == 1:
            kinds.add("side")
            assert words.split()[-1] in str(first.place)
        elif words in ("on the left", "on the right"):
            kinds.add("side of")
            assert words == {"yes": "on the left", "no": "on the right"}[str(evidence[1].verdict)]
    assert kinds == {"refused", "count", "colour", "unsure", "yes", "which", "side", "side of"}


def test_no_answer_is_much_more_frequent_than_its_opposite() -> None:
    phrases, rng = Phrases(NAMES, CAPTIONS), np.random.default_rng(0)
    words = [told(random_question(phrases, rng))[1] for _ in range(4000)]
    first = [re.split(r"\W", word)[0] for word in words]
    yes, no = first.count("yes"), first.count("no")
    assert 0.7 < yes / no < 1.4


def test_questions_about_a_scene_follow_its_boxes() -> None:
    image = Image.new("RGB", (90, 60))
    boxes = np.array([[0, 0, 20, 20], [60, 40, 90, 60], [2, 30, 8, 40]], dtype=np.float32)
    scene = Scene(
        image, boxes, ("dog", "bus", "dog"), ("red", "blue", None), known_names=frozenset({"dog", "bus", "cat"})
    )
    present = [PhraseTarget("dog", (0, 2)), PhraseTarget("bus", (1,))]
    rng = np.random.default_rng(0)
    seen: set[str] = set()
    for exchange in [scene_question(scene, present, [PhraseTarget("cat", ())], rng) for _ in range(300)]:
        evidence, _ = told(exchange)
        for each in evidence:
            name = next(name for name in ("dog", "bus", "cat") if each.phrase.startswith(name))
            seen.add("maybe" if each.maybe else name)
            if each.maybe:
                assert each.count == 0 and each.colour and each.place
                continue
            expected = {"dog": (2, "red", "top left"), "bus": (1, "blue", "bottom right"), "cat": (0, None, None)}[name]
            assert (each.count, each.colour, each.place) == expected
        if any(each.maybe for each in evidence):
            continue
        if len(evidence) == 2 and evidence[1].verdict and evidence[0].phrase.startswith("dog"):
            relation = exchange.parts[-3].text.removeprefix("look ").removesuffix(":")
            assert (evidence[1].verdict == "yes") == (relation in ("left", "above", "smaller", "more"))
            seen.add("compared")
    assert seen == {"dog", "bus", "cat", "maybe", "compared"}


def test_a_training_image_is_asked_in_all_ways() -> None:
    boxes = np.array([[0, 0, 20, 20]], dtype=np.float32)
    known = frozenset({"dog", "bus", "cat"})
    scene = Scene(Image.new("RGB", (90, 60)), boxes, ("dog",), ("red",), known_names=known, captions=("A dog.",))
    rng = np.random.default_rng(0)
    exchanges = [exchange for _ in range(30) for exchange in make_sample(scene, 64, rng).exchanges]
    assert {exchange.route for exchange in exchanges} == {"det", "seg", "ocr", "gen", "edit", None}
    assert any(part.given for exchange in exchanges for part in exchange.parts)
    targets = [part.target for exchange in exchanges for part in exchange.parts if part.route in ("det", "seg")]
    assert all(target is not None for target in targets)


def test_rows_follow_from_their_number() -> None:
    mix = LanguageMix((3,), NAMES, CAPTIONS, phrases=3)
    assert mix.row(7) == LanguageMix((3,), NAMES, CAPTIONS, phrases=3).row(7) != mix.row(8)
    names, exchanges = mix.row(7)
    assert len(names) == 3 and set(names) <= set(NAMES) and len(exchanges) == 12


@settings(max_examples=5)
@given(st.integers(0, 100))
def test_the_tokenizer_learns_from_what_is_said(rows: int) -> None:
    texts = corpus(NAMES, CAPTIONS, rows)
    assert set(NAMES) | set(CAPTIONS) | set(COLOURS) <= set(texts)


def test_colour_words_are_the_same_everywhere() -> None:
    assert sorted(COLOURS) == sorted(COLOURS)


@pytest.mark.parametrize("text", ["two", "none", "one, red.", "12, red, left.", "one, red, left; first left."])
def test_what_is_no_evidence_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="evidence"):
        Evidence.parse("dog", text)


def test_human_requests_are_none_of_those_held_out() -> None:
    def bare(text: str) -> str:
        return re.sub(r"\W+", " ", text.lower()).strip()

    held_out = {bare(wording.request.format("zebra")) for wordings in HELD_OUT.values() for wording in wordings}
    fillings = {
        "object": "zebra",
        "the_object": "the zebra",
        "an_object": "a zebra",
        "objects": "zebras",
        "colour": "red",
    }
    assert set(human_templates()) == set(requests.ROUTED)
    for sentences in human_templates().values():
        assert len(set(sentences)) == len(sentences) > 100
        assert not held_out & {bare(sentence.format(**fillings)) for sentence in sentences}


def test_a_human_request_holds_what_is_written_before_the_token() -> None:
    phrases, rng = Phrases(NAMES, CAPTIONS), np.random.default_rng(0)
    for kind in requests.ROUTED:
        for exchange in [human_request(kind, phrases, rng) for _ in range(150)]:
            assert exchange.route == kind and "{" not in exchange.request
            assert kind == "ocr" or exchange.answer in exchange.request
