"""Grounding in words: whatever a random model wishes, its answer is a short list of different, upright boxes."""

import math
import random
import re
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_grammar import DEFAULT, PIECES
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from vision_agent.decoders.grounding import GroundingDecoder
from vision_agent.errors import CheckpointError, InputError
from vision_agent.generation.vocabulary import vocabulary_of
from vision_agent.geometry.frames import TileGrid
from vision_agent.plugins.decoder import DecodeRequest, WrittenAnswer

MARKS = ("<ref>", "</ref>", "<box>", "</box>")
Scores = Callable[[list[int]], torch.Tensor]
GRID = TileGrid.for_image(800, 200)


@cache
def joining_tokenizer() -> PreTrainedTokenizerFast:
    """InternVL's marks as special tokens; digits and brackets in groups such as "12", "]]" and ", 3"."""
    source = random.Random(0)
    lists = [str([[source.randrange(1001) for _ in range(4)] for _ in range(2)]) for _ in range(400)]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        [*lists, "none", "red car"] * 2,
        trainers.BpeTrainer(vocab_size=520, initial_alphabet=alphabet, special_tokens=["<end>"], show_progress=False),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")
    tokenizer.add_tokens([AddedToken(mark, special=True) for mark in MARKS])
    return tokenizer


def grounding(tokenizer: Any, limit: int = 50) -> GroundingDecoder:
    backbone = SimpleNamespace(tokenizer=tokenizer, end_ids=[tokenizer.eos_token_id])
    return GroundingDecoder(backbone, limit)


@cache
def decoder_of(name: str, limit: int = 50) -> GroundingDecoder:
    return grounding({"default": DEFAULT, "pieces": PIECES, "joining": joining_tokenizer()}[name], limit)


NAMES = ["default", "pieces", "joining"]


def write(decoder: GroundingDecoder, phrase: str, scores: Scores) -> WrittenAnswer:
    """The greedy answer under the grammar, which must end within the tokens the decoder says are enough."""
    state = decoder.constraint(phrase).start()
    end_ids = decoder.backbone.end_ids
    ids: list[int] = []
    logprobs: list[float] = []
    for _ in range(decoder.max_new_tokens(phrase)):
        scores_V = scores(ids)
        mask_V = state.mask(scores_V)
        token = int(mask_V.argmax())
        assert mask_V[token] > -torch.inf, f"a dead end after {ids}"
        assert (
            bool(torch.isin((mask_V > -torch.inf).nonzero().flatten(), torch.tensor(end_ids)).any()) == state.complete
        )
        state.accept(token)
        if token in end_ids:
            return WrittenAnswer(text_of(decoder, ids), tuple(ids), tuple(logprobs))
        logprobs.append(float(scores_V.log_softmax(-1)[token]))
        ids.append(token)
    raise AssertionError(f"no end after {ids}")


def text_of(decoder: GroundingDecoder, ids: Any) -> str:
    names = {number: mark for mark, number in vocabulary_of(decoder.backbone.tokenizer).marks.items()}
    pieces = vocabulary_of(decoder.backbone.tokenizer).pieces
    return b"".join(names[number].encode() if number in names else pieces[number] for number in ids).decode()


def random_scores(seed: int, size: int, spread: float, wanted: dict[int, float] | None = None) -> Scores:
    """Seeded noise, and more or less of it for some tokens."""
    generator = torch.Generator().manual_seed(seed)

    more_V = torch.zeros(size)
    for token, more in (wanted or {}).items():
        more_V[token] = more
    return lambda _: torch.randn(size, generator=generator) * spread + more_V


def request(*phrases: str, grid: TileGrid = GRID, threshold: float | None = None) -> DecodeRequest:
    return DecodeRequest(phrases, grid, "toy", threshold)


def boxes_in(text: str) -> list[list[int]]:
    """The boxes of a well-formed answer, read independently of the decoder; fails for any other text."""
    number = "(?:0|[1-9][0-9]{0,3})"
    box = rf"\[{number}, {number}, {number}, {number}\]"
    found = re.fullmatch(rf" ?<ref> ?red car</ref> ?<box> ?\[((?:{box}(?:, {box})*)?)\]</box>", text)
    assert found, text
    return [[int(each) for each in re.findall(r"\d+", part)] for part in re.findall(box, found[1])]


# --- any scores at all ----------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(NAMES),
    st.integers(0, 10**6),
    st.sampled_from([0.0, 1.0, 10.0]),
    st.sampled_from([1, 2, 7]),
    st.sampled_from([-8.0, 0.0, 8.0]),
)
def test_every_answer_is_a_list_of_upright_boxes(
    name: str, seed: int, spread: float, limit: int, endless: float
) -> None:
    decoder = decoder_of(name, limit)
    vocabulary = vocabulary_of(decoder.backbone.tokenizer)
    # Closing or not is a matter of taste: models that end at once, and models that never would.
    wanted = {token: -endless for token, piece in enumerate(vocabulary.pieces) if piece.endswith(b"]]")}
    wanted |= {token: endless for token, piece in enumerate(vocabulary.pieces) if b"]," in piece or piece == b","}
    answer = write(decoder, "red car", random_scores(seed, len(vocabulary.pieces) + 64, spread, wanted))
    found = decoder.decode([answer], request("red car"))
    if answer.text.strip() == "none":
        assert len(found) == 0
        return
    boxes = boxes_in(answer.text)
    assert len(boxes) <= limit and len({tuple(box) for box in boxes}) == len(boxes)
    assert all(0 <= x0 < x1 <= 1000 and 0 <= y0 < y1 <= 1000 for x0, y0, x1, y1 in boxes)
    pixels = sorted([x0 * 0.8, y0 * 0.2, x1 * 0.8, y1 * 0.2] for x0, y0, x1, y1 in boxes)
    assert np.array(sorted(each.box.xyxy for each in found)).ravel() == pytest.approx(np.array(pixels).ravel())
    assert all(0 < each.score <= 1 and each.label == "red car" for each in found)
    assert all(better.score >= worse.score for better, worse in pairwise(found))


@pytest.mark.parametrize("name", NAMES)
def test_boxes_in_the_last_corner_run_out_and_the_list_goes_on(name: str) -> None:
    """A model that wants 999 and 1000 only: (999, 999, 1000, 1000) is the one box with that corner."""
    decoder = decoder_of(name, 7)
    pieces = vocabulary_of(decoder.backbone.tokenizer).pieces
    wanted = {token: 9.0 * piece.count(b"9") for token, piece in enumerate(pieces)}
    wanted |= {token: -50.0 * piece.count(b"]") for token, piece in enumerate(pieces) if b"]" in piece}
    wanted[vocabulary_of(decoder.backbone.tokenizer).text_ids("none")[0]] = -50.0
    answer = write(decoder, "red car", random_scores(5, len(pieces) + 9, 0.01, wanted))
    boxes = boxes_in(answer.text)
    assert len({tuple(box) for box in boxes}) == len(boxes) == 7, boxes
    assert [999, 999, 1000, 1000] in boxes or name in ("joining", "default")  # whose pieces join digits


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("start", "allowed", "closed"),
    [
        ("", "[ ", "],0123456789"),
        ("[", "[]", ", 0123456789"),
        ("[[", "0123456789", "[], "),
        ("[[0", ",", "0123456789[] "),
        ("[[99", "0123456789,", "[] "),
        ("[[100", ",", "0123456789"),  # x0 = 1000 would leave no room for x1
        ("[[999, 0, ", "1", "023456789"),
        ("[[500, 0, 5", "0123456789", ", ]"),
        ("[[500, 0, 50", "123456789", "0,"),
        ("[[500, 0, 6", "0123456789", ","),
        ("[[5, 0, 6", "0123456789,", " ]"),
        ("[[0, 0, 1000", ",", "0123456789"),
        ("[[1, 1, 2, 2", "0123456789]", ", "),
        ("[[1, 1, 2, 2]", "],", "[ 0123456789"),
        ("[[1, 1, 2, 2], [1, 1, 2, 2", "0123456789", "], "),  # the same box again
        ("[[0, 0, 1, 1], [0, 0, 1, ", "23456789", "0"),
        ("[[999, 999, 1000, 1000], [999, 99", "012345678,", "9"),
        ("[[0, 999, 1, 1000], [0, 999, ", "23456789", "0"),
        ("[[0, 999, 1, 1000], [0, 999, 1", "0123456789", ","),
        ("[[1, 1, 2, 2], [3, 3, 4, 4]", "]", ","),  # the limit
    ],
)
def test_what_may_come_next(name: str, start: str, allowed: str, closed: str) -> None:
    decoder = decoder_of(name, 2)
    vocabulary = vocabulary_of(decoder.backbone.tokenizer)
    state = decoder.constraint("red car").start()
    for token in decoder.opening("red car"):
        state.accept(token)
    for letter in start:
        state.accept(vocabulary.ids_of[letter.encode()][0])
    mask_V = state.mask(torch.zeros(len(vocabulary.pieces)))
    single = {letter: bool(mask_V[vocabulary.ids_of[letter.encode()][0]] == 0) for letter in allowed + closed}
    assert single == {letter: letter in allowed for letter in single}
    for token in (mask_V == 0).nonzero().flatten().tolist():  # longer tokens: all of their letters fit
        state_letters = (start + vocabulary.pieces[token].decode()).removeprefix(" ")
        assert re.fullmatch(r"[\[\], 0-9]*", state_letters) and "[[[" not in state_letters


def test_tokens_of_several_letters_are_used() -> None:
    decoder = decoder_of("joining", 2)
    vocabulary = vocabulary_of(decoder.backbone.tokenizer)
    state = decoder.constraint("red car").start()
    for token in decoder.opening("red car"):
        state.accept(token)
    for token in vocabulary.encode(b"[[10, 20, 30"):
        state.accept(token)
    mask_V = state.mask(torch.zeros(len(vocabulary.pieces)))
    open_pieces = {vocabulary.pieces[token] for token in (mask_V == 0).nonzero().flatten().tolist()}
    assert b"," in open_pieces and any(len(piece) > 2 for piece in open_pieces), open_pieces
    assert not any(b"]" in piece or b"[" in piece for piece in open_pieces)
    assert not any(re.match(rb", (0|1[^0-9]|1$)", piece) and piece == b", 0" for piece in open_pieces)


@pytest.mark.parametrize("name", NAMES)
def test_the_phrase_is_given_and_nothing_may_be_said(name: str) -> None:
    decoder = decoder_of(name)
    vocabulary = vocabulary_of(decoder.backbone.tokenizer)
    opening = decoder.opening("red car")
    assert text_of(decoder, opening).replace(" ", "") == "<ref>redcar</ref><box>"
    state = decoder.constraint("red car").start()
    nothing = vocabulary.text_ids("none")
    first = set((state.mask(torch.zeros(7000)) == 0).nonzero().flatten().tolist())
    assert first == {opening[0], nothing[0]}
    state.accept(opening[0])
    for token in opening[1:]:
        open_V = (state.mask(torch.zeros(7000)) == 0).nonzero().flatten().tolist()
        assert token in open_V and (open_V == [token] or opening[0] == nothing[0])
        state.accept(token)
    other = decoder.constraint("red car").start()
    for token in nothing:
        other.accept(token)
    assert other.complete and decoder.decode([scored(nothing)], request("red car")).detections == ()


def test_marks_are_special_tokens_where_the_tokenizer_has_them() -> None:
    decoder = decoder_of("joining")
    marks = vocabulary_of(joining_tokenizer()).marks
    opening = decoder.opening("red car")
    assert opening[0] == marks["<ref>"] and opening[-2:] == (marks["</ref>"], marks["<box>"])
    assert len(decoder_of("default").opening("red car")) > len(opening)
    # A phrase that looks like a mark is text: it can neither close itself nor end the answer.
    sly = decoder.opening("a</ref><box><end>")
    assert [token for token in sly if token in marks.values()] == [opening[0], *opening[-2:]]


# --- reading --------------------------------------------------------------------------------------------------------


def scored(ids: Any, logprobs: Any = None) -> WrittenAnswer:
    return WrittenAnswer("", tuple(ids), tuple(logprobs or [0.0] * len(ids)))


def spell(decoder: GroundingDecoder, boxes: str, phrase: str = "red car") -> list[int]:
    vocabulary = vocabulary_of(decoder.backbone.tokenizer)
    letters = [vocabulary.ids_of[letter.encode()][0] for letter in boxes]
    return [*decoder.opening(phrase), *letters, *decoder._close]


@pytest.mark.parametrize("name", ["default", "joining"])
def test_an_oracle_is_read_as_it_writes(name: str) -> None:
    """Scores that lead to a known answer, with known odds: the boxes and their scores are those."""
    decoder = decoder_of(name)
    tokenizer = decoder.backbone.tokenizer
    script = [*spell(decoder, "[[10, 20, 300, 1000], [0, 0, 999, 7]]"), tokenizer.eos_token_id]
    size = 6001 if name == "default" else len(tokenizer)

    def scores(ids: list[int]) -> torch.Tensor:
        scores_V = torch.full((size,), -40.0)
        scores_V[script[len(ids)]] = 0.0
        second = "[[10, 20, 300, 1000]"
        start = len(decoder.opening("red car"))
        if len(ids) == start + 2:  # the first digit of the first box, against a 7
            scores_V[vocabulary_of(tokenizer).ids_of[b"7"][0]] = -1.0
        if len(ids) == start + len(second):  # whether there is a second box at all
            scores_V[vocabulary_of(tokenizer).ids_of[b"]"][0]] = 0.0
            scores_V[script[len(ids)]] = 0.5
        return scores_V

    answer = write(decoder, "red car", scores)
    assert list(answer.token_ids) == script[:-1]
    found = decoder.decode([answer], request("red car"))
    # Of "10, 20, 300, 1000]", 13 letters leave a choice: brackets, spaces and the comma after 300 are forced.
    first = math.exp(-math.log(1 + math.exp(-1.0)) / 13)
    second = 1 / (1 + math.exp(-0.5))
    assert [each.score for each in found] == pytest.approx([first, second], rel=1e-5)
    assert found[0].box.xyxy == pytest.approx((8, 4, 240, 200))
    assert found[1].box.xyxy == pytest.approx((0, 0, 799.2, 1.4))
    assert (found.decoder, found.model, found.phrases, found.image_size) == (
        "grounding",
        "toy",
        ("red car",),
        (800, 200),
    )


def test_a_score_is_the_presence_the_opening_and_the_geometric_mean_of_the_digits() -> None:
    decoder = decoder_of("joining")
    ids = spell(decoder, "[[1, 2, 3, 4], [5, 6, 7, 8]]")
    start = len(decoder.opening("red car"))
    chances = {"s": 0.8, "1": 0.5, "c": 0.25, "2": 0.36}  # there is a list, first box, one more, second box
    free = ".s11.11.11.11c..22.22.22.22"  # a dot where the grammar leaves no choice, which never counts
    logprobs = [-9.0] * start + [math.log(chances[each]) if each != "." else -9.0 for each in free]
    logprobs[0] = math.log(0.9)  # that there is something, and not "none"
    logprobs += [-9.0] * (len(ids) - len(logprobs))
    found = decoder.decode([scored(ids, logprobs)], request("red car"))
    assert [each.score for each in found] == pytest.approx([0.9 * 0.8 * 0.5, 0.9 * 0.25 * 0.36])
    # A token over two boxes counts for both.
    vocabulary = vocabulary_of(joining_tokenizer())
    piece = max((piece for piece in vocabulary.ids_of if b"], [5".startswith(piece)), key=len)
    assert len(piece) > 1, "the tokenizer of this test should join ] and ,"
    text = b"[[1, 2, 3, 4" + piece
    rest = b"], [5, 6, 7, 8]]".removeprefix(piece)
    letters = [vocabulary.ids_of[bytes([byte])][0] for byte in text.removesuffix(piece)]
    tail = [vocabulary.ids_of[bytes([byte])][0] for byte in rest]
    ids = [*decoder.opening("red car"), *letters, vocabulary.ids_of[piece][0], *tail, *decoder._close]
    logprobs = [0.0] * len(ids)
    logprobs[start + len(letters)] = math.log(0.5)
    found = decoder.decode([scored(ids, logprobs)], request("red car"))
    assert sorted(each.score for each in found) == pytest.approx(
        sorted([0.5 ** (1 / 8), 0.5])  # one of the first box's eight; that there is a second one
    )


@pytest.mark.parametrize(("threshold", "kept"), [(None, 2), (0.0, 2), (0.5, 1), (0.95, 0)])
def test_boxes_below_the_threshold_are_dropped(threshold: float | None, kept: int) -> None:
    decoder = decoder_of("joining")
    ids = spell(decoder, "[[1, 2, 3, 4], [5, 6, 7, 8]]")
    start, first = len(decoder.opening("red car")), len("[[1, 2, 3, 4]")
    logprobs = [0.0] * start + [math.log(0.3)] * first + [math.log(0.9)] * (len(ids) - start - first)
    found = decoder.decode([scored(ids, logprobs)], request("red car", threshold=threshold))
    assert len(found) == kept
    if kept == 2:
        assert found[0].box.xyxy == pytest.approx((4, 1.2, 5.6, 1.6)), "best first"
        exact = request("red car", threshold=found[1].score)
        assert len(decoder.decode([scored(ids, logprobs)], exact)) == 2, "a score that is the threshold reaches it"


def test_several_phrases_keep_their_order() -> None:
    decoder = decoder_of("joining")
    answers = [scored(spell(decoder, boxes, phrase)) for phrase, boxes in (("b", "[[0, 0, 5, 5]]"), ("a", "[]"))]
    answers.append(scored(spell(decoder, "[[0, 0, 5, 5], [1, 1, 2, 2]]", "c")))
    found = decoder.decode(answers, request("b", "a", "c"))
    assert found.labels == ["b", "c", "c"] and found.phrases == ("b", "a", "c")
    with pytest.raises(InputError, match="`answers` must be 2"):
        decoder.decode(answers, request("b", "a"))


def test_an_answer_cut_off_in_the_middle_keeps_its_whole_boxes() -> None:
    decoder = decoder_of("joining")
    whole = spell(decoder, "[[1, 2, 3, 4], [5, 6, 7, 8]]")
    start = len(decoder.opening("red car"))
    for length, boxes in ((0, 0), (start, 0), (start + 12, 0), (start + 13, 1), (start + 20, 1), (start + 27, 2)):
        assert len(decoder.decode([scored(whole[:length])], request("red car"))) == boxes


@pytest.mark.parametrize(
    "boxes",
    [
        "[[3, 2, 1, 4]]",
        "[[1, 2, 3, 4], [1, 2, 3, 4]]",
        "[[01, 2, 3, 4]]",
        "[[1, 2, 3]]",
        "[[1,2,3,4]]",
        "[[1, 2, 3, 1001]]",
    ],
)
def test_what_the_grammar_does_not_allow_is_not_read(boxes: str) -> None:
    decoder = decoder_of("joining")
    with pytest.raises(InputError, match=r"`answers\[0\]` must be written under the grounding grammar"):
        decoder.decode([scored(spell(decoder, boxes))], request("red car"))


def test_another_phrase_or_missing_probabilities_are_refused() -> None:
    decoder = decoder_of("joining")
    ids = spell(decoder, "[]")
    with pytest.raises(InputError, match="grounding grammar"):
        decoder.decode([scored(ids)], request("a dog"))
    with pytest.raises(InputError, match=r"answers\[0\].logprobs"):
        decoder.decode([WrittenAnswer("", tuple(ids), ())], request("red car"))


def test_the_question_is_the_one_internvl_was_taught() -> None:
    asked = decoder_of("default").request("the dog")
    assert asked == (
        "Please provide the bounding box coordinate of the region this sentence describes: <ref>the dog</ref>"
    )


@pytest.mark.parametrize("limit", [0, -1, 1001])
def test_a_limit_has_limits(limit: int) -> None:
    with pytest.raises(InputError, match="`limit` must be from 1 to 1000"):
        grounding(DEFAULT, limit)


def test_a_tokenizer_that_cannot_write_boxes_is_refused() -> None:
    backend = Tokenizer(models.WordLevel({"x": 0, "</s>": 1, "[": 2}, unk_token="x"))
    with pytest.raises(CheckpointError, match="no tokens for"):
        grounding(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="x"))
