"""Grammars: answers of random models under them parse, validate and end, whatever the tokenizer."""

import enum
import gc
import json
import re
import sys
import uuid
import weakref
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
import torch
from conftest import tiny_backbone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, HttpUrl, NaiveDatetime, SecretStr, create_model
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from vision_agent.errors import ArgumentTypeError, CheckpointError, InputError, MissingExtraError
from vision_agent.generation.grammar import choice_constraint, json_constraint
from vision_agent.generation.vocabulary import Vocabulary, vocabulary_of
from vision_agent.model.checkpoint import DEFAULT_CHECKPOINT
from vision_agent.plugins.constraint import Constraint

pytest.importorskip("llguidance")
DEFAULT = AutoTokenizer.from_pretrained(DEFAULT_CHECKPOINT)
TINY = tiny_backbone().tokenizer
Scores = Callable[[list[int]], torch.Tensor]


def piece_tokenizer() -> PreTrainedTokenizerFast:
    """In sentencepiece's spelling: spaces as U+2581, other bytes as <0x..>, a space before every text."""
    letters = [chr(code) for code in range(0x21, 0x7F)]
    joined = ["\u2581", '\u2581"', '"}', '":', "12", "345", "\u25811", "ye", "yes", "[[", "]]", "\u2581[[", ",\u2581"]
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters, *joined]
    model = models.BPE({word: number for number, word in enumerate(words)}, [], byte_fallback=True, unk_token="<unk>")
    backend = Tokenizer(model)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    backend.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


PIECES = piece_tokenizer()
TOKENIZERS = pytest.mark.parametrize("tokenizer", [DEFAULT, TINY, PIECES], ids=["default", "tiny", "pieces"])


def random_scores(seed: int, vocabulary: int, spread: float = 3.0) -> Scores:
    generator = torch.Generator().manual_seed(seed)
    return lambda _: torch.randn(vocabulary, generator=generator) * spread


def write(constraint: Constraint, scores: Scores, end_ids: list[int], most: int = 400) -> tuple[list[int], bool]:
    """The greedy answer without its end token, and whether it ended."""
    state = constraint.start()
    ids: list[int] = []
    while len(ids) < most:
        plain_V = scores(ids)
        mask_V = state.mask(plain_V.clone())
        open_V = mask_V > -torch.inf
        assert bool(open_V.any()), f"a dead end after {ids}"
        assert torch.equal(mask_V[open_V], plain_V[open_V])
        token = int(mask_V.argmax())
        state.accept(token)
        if token in end_ids:
            return ids, True
        ids.append(token)
    return ids, False


def text_of(tokenizer: Any, ids: list[int]) -> str:
    return vocabulary_of(tokenizer).write(ids).decode()


def answer(schema: Any, seed: int, most: int, tokenizer: Any = DEFAULT, spread: float = 3.0) -> str:
    end = tokenizer.eos_token_id
    constraint = json_constraint(tokenizer, schema, [end], max_new_tokens=most)
    ids, ended = write(constraint, random_scores(seed, len(tokenizer) + 40, spread), [end], most)
    assert ended, text_of(tokenizer, ids)
    return text_of(tokenizer, ids)


# --- vocabulary -----------------------------------------------------------------------------------------------------


@TOKENIZERS
def test_pieces_are_what_tokens_write(tokenizer: Any) -> None:
    vocabulary = vocabulary_of(tokenizer)
    for text in ("a red car, 12", 'Name: "Größe"\n\t猫', "", " x"):
        ids = vocabulary.encode(text.encode())
        assert vocabulary.write(ids) == text.encode()
    assert vocabulary.write(vocabulary.text_ids("a red car")).decode().strip() == "a red car"
    assert not vocabulary.pieces[tokenizer.eos_token_id]
    assert vocabulary.write(vocabulary.encode(b"\xf0\x9f")) == b"\xf0\x9f", "part of a character"
    shortest_first = vocabulary.starts(b"yes")
    assert shortest_first == sorted(shortest_first, key=lambda token: len(vocabulary.pieces[token]))
    assert all(b"yes".startswith(vocabulary.pieces[token]) for token in shortest_first)


def test_marks_in_text_stay_text() -> None:
    vocabulary = vocabulary_of(DEFAULT)
    ids = vocabulary.encode(b"<|im_end|>")
    assert DEFAULT.eos_token_id not in ids and vocabulary.write(ids) == b"<|im_end|>"
    assert vocabulary.marks["<|im_end|>"] == DEFAULT.eos_token_id
    assert vocabulary.marked_ids("<|im_end|>") == [DEFAULT.eos_token_id]


def test_a_vocabulary_is_read_once_until_tokens_are_added() -> None:
    tokenizer = piece_tokenizer()
    first = vocabulary_of(tokenizer)
    assert vocabulary_of(tokenizer) is first
    tokenizer.add_tokens([AddedToken("<box>", special=True)])
    assert "<box>" not in first.marks and "<box>" in vocabulary_of(tokenizer).marks


def test_caches_let_a_tokenizer_go() -> None:
    tokenizer = piece_tokenizer()
    json_constraint(tokenizer, {"type": "boolean"}, [2], max_new_tokens=9)
    gone = [weakref.ref(tokenizer), weakref.ref(vocabulary_of(tokenizer))]
    del tokenizer
    gc.collect()
    assert [each() for each in gone] == [None, None]


# --- choices --------------------------------------------------------------------------------------------------------


@TOKENIZERS
@pytest.mark.parametrize("seed", range(12))
def test_an_answer_is_one_of_the_choices(tokenizer: Any, seed: int) -> None:
    choices = ["yes", "yes, a lot", "No", "Größe 12", "猫"]
    end_ids = [tokenizer.eos_token_id, 0]
    ids, ended = write(choice_constraint(tokenizer, choices, end_ids), random_scores(seed, len(tokenizer) + 7), end_ids)
    assert ended and text_of(tokenizer, ids).removeprefix(" ") in choices  # many tokenizers begin words with a space


@pytest.mark.parametrize("choice", ["yes", "yes, a lot", "No", "猫"])
def test_every_choice_can_be_written_in_the_tokenizers_own_way(choice: str) -> None:
    choices = ["yes", "yes, a lot", "No", "猫"]
    written = b""
    state = choice_constraint(DEFAULT, choices, [2]).start()
    for token in [*vocabulary_of(DEFAULT).encode(choice.encode()), 2]:
        mask_V = state.mask(torch.zeros(6001))
        assert mask_V[token] == 0
        assert bool(mask_V[2] == 0) == state.complete == (written.decode(errors="replace") in choices)
        state.accept(token)
        written += vocabulary_of(DEFAULT).pieces[token]


def test_the_end_is_open_exactly_after_a_choice() -> None:
    state = choice_constraint(PIECES, ["yes", "yes, 12"], [2]).start()
    ends_after = {}
    written = b""
    for token in vocabulary_of(PIECES).encode(b"yes, 12"):
        ends_after[written] = bool(state.mask(torch.zeros(400))[2] == 0)
        state.accept(token)
        written += vocabulary_of(PIECES).pieces[token]
    assert [text for text, ends in ends_after.items() if ends] == [b"yes"] and state.complete
    last = state.mask(torch.zeros(400))
    assert (last > -torch.inf).nonzero().flatten().tolist() == [2]


def test_tokens_that_lead_nowhere_are_closed() -> None:
    # "é" is only there inside of "né": after "n" the word could not go on.
    words = ["</s>", "n", "né", "e", "x"]
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="x"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="x")
    state = choice_constraint(tokenizer, ["né", "ne"], [0]).start()
    assert set((state.mask(torch.zeros(5)) == 0).nonzero().flatten().tolist()) == {1, 2}
    alone = choice_constraint(tokenizer, ["né"], [0]).start()
    assert set((alone.mask(torch.zeros(5)) == 0).nonzero().flatten().tolist()) == {2}
    with pytest.raises(CheckpointError, match="'é'"):
        choice_constraint(tokenizer, ["é"], [0])


@pytest.mark.parametrize(
    ("choices", "error", "message"),
    [
        ([], InputError, "`choices` must be at least one string"),
        (["a", " "], InputError, r"`choices\[1\]` must be some words"),
        (["a", "b", "a"], InputError, r"`choices\[2\]` must be different from the others, but got 'a'"),
        ("ab", ArgumentTypeError, "`choices` must be a list of strings"),
        (["a", 1], ArgumentTypeError, "`choices`"),
    ],
)
def test_choices_that_make_no_sense(choices: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        choice_constraint(DEFAULT, choices, [2])


# --- JSON -----------------------------------------------------------------------------------------------------------


class Color(enum.Enum):
    RED = "red"
    Blue = "Blue"
    third = 3


class Line(BaseModel):
    Text: str
    amount: Annotated[float, Field(gt=0, le=99)]
    quantity: int | None = None


class Tree(BaseModel):
    name: Annotated[str, Field(max_length=5)]
    branches: "list[Tree]" = []


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str


class Everything(BaseModel):
    model_config = ConfigDict(extra="forbid")

    Name: str
    color: Color
    lines: list[Line]
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    tree: Tree | None
    on: date
    at: datetime
    local: NaiveDatetime
    clock: time
    took: timedelta
    price: Annotated[Decimal, Field(max_digits=6, decimal_places=2)]
    rate: Decimal
    id: uuid.UUID
    page: HttpUrl
    tags: set[str]
    pair: tuple[int, bool]
    named: dict[str, float]
    code: Annotated[str, Field(pattern="^[A-Z]{2}-[0-9]{3}$")]
    short: Annotated[str, Field(min_length=2, max_length=3)]
    secret: SecretStr
    anything: Any = None


@TOKENIZERS
@pytest.mark.parametrize("model", [Line, Tree])
@pytest.mark.parametrize("seed", range(4))
def test_an_answer_is_the_model(tokenizer: Any, model: type[BaseModel], seed: int) -> None:
    text = answer(model, seed, 130, tokenizer)
    model.model_validate_json(text)
    outside_strings = re.sub(r'"(\\.|[^"\\])*"', '""', text)
    assert "  " not in outside_strings and "\n" not in outside_strings


@pytest.mark.parametrize("seed", range(3))
def test_every_supported_type(seed: int) -> None:
    found = Everything.model_validate_json(answer(Everything, seed, 700))
    assert found.Name is not None


@pytest.mark.parametrize(
    "type_", [date, datetime, NaiveDatetime, time, timedelta, HttpUrl, uuid.UUID, Decimal, Color, int, float]
)
def test_what_is_written_of_a_type_always_parses(type_: Any) -> None:
    model = create_model("Model", values=(list[type_], ...))
    for seed in range(3):
        text = answer(model, seed, 300)
        model.model_validate_json(text)
    # The same grammar, led by a text: all of these are there to be written.
    good = {
        date: ["2024-02-29", "2000-02-29", "1999-12-31"],
        datetime: ["2024-02-29T23:59:59Z", "2023-01-31T00:00:00.5+02:00", "2023-01-31T00:00:00"],
        Decimal: [12.5, -3],
        int: [0, -12, 10**12],
        float: [0.25, -1e3],
    }
    bad = {date: ["2023-02-29", "1900-02-29", "2023-04-31", "0000-01-01"], int: [10**18 + 1, "1"], float: ["x"]}
    for values, allowed in ((good, True), (bad, False)):
        for value in values.get(type_, []):
            assert accepts(model, json.dumps({"values": [value]})) is allowed, value


def accepts(schema: Any, text: str, tokenizer: Any = DEFAULT) -> bool:
    """Whether a model that wants to write `text`, letter by letter, may, and may end then."""
    vocabulary = vocabulary_of(tokenizer)
    state = json_constraint(tokenizer, schema, [tokenizer.eos_token_id]).start()
    written = 0
    while written < len(text.encode()):
        open_V = state.mask(torch.zeros(len(tokenizer))) > -torch.inf
        starts = [token for token in vocabulary.starts(text.encode()[written:]) if open_V[token]]
        if not starts:
            return False
        state.accept(starts[0])
        written += len(vocabulary.pieces[starts[0]])
    return bool(state.mask(torch.zeros(len(tokenizer)))[tokenizer.eos_token_id] == 0)


@pytest.mark.parametrize(
    ("schema", "text", "allowed"),
    [
        (Line, '{"Text": "a", "amount": 1.5}', True),
        (Line, '{"Text": "a", "amount": 1.5, "quantity": null}', True),
        (Line, '{"Text": "é \\n \\" {", "amount": 99}', True),
        (Line, '{"Text":"a","amount":1.5}', False),
        (Line, '{"Text": "a",  "amount": 1.5}', False),
        (Line, '{ "Text": "a", "amount": 1.5}', False),
        (Line, '{"Text": "a", "amount": 100}', False),
        (Line, '{"Text": "a", "amount": 1.5, "more": 1}', False),
        (Line, '{"text": "a", "amount": 1.5}', False),
        (Line, '{"amount": 1.5, "Text": "a"}', False),
        (Line, '{"Text": "a\nb", "amount": 1.5}', False),
        ({"type": ["integer", "null"]}, "null", True),
        ({"enum": ["a", 2]}, "2", True),
        ({"enum": ["a", 2]}, '"b"', False),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, '{"a": 1, "b": 2}', True),
        ({"type": "object", "properties": {"a": {}}}, '{"a": [{"b": null}]}', True),
        ({"type": "object", "properties": {"a": {}}}, '{"b": 1}', False),
        ({"$defs": {"n": {"const": 7}}, "type": "array", "items": {"$ref": "#/$defs/n"}}, "[7, 7]", True),
        ({"allOf": [{"properties": {"a": {"type": "null"}}}], "type": "object"}, '{"a": null}', True),
    ],
)
def test_what_a_schema_allows(schema: Any, text: str, allowed: bool) -> None:
    assert accepts(schema, text) is allowed


def test_several_end_tokens_and_ids_that_no_token_has() -> None:
    state = json_constraint(DEFAULT, {"const": "x"}, [2, 0, 6000]).start()
    for token in vocabulary_of(DEFAULT).encode(b'"x"'):
        mask_V = state.mask(torch.zeros(6100))
        assert bool((mask_V[[2, 0, 6000]] == -torch.inf).all()) and bool((mask_V[6001:] == -torch.inf).all())
        assert not state.complete
        state.accept(token)
    assert state.complete
    assert (state.mask(torch.zeros(6100)) == 0).nonzero().flatten().tolist() == [0, 2, 6000]
    state.accept(6000)
    assert state.complete


def test_states_do_not_share_their_place() -> None:
    constraint = json_constraint(DEFAULT, Line, [2], max_new_tokens=90)
    first = write(constraint, random_scores(3, 6001), [2], 90)
    second = write(constraint, random_scores(4, 6001), [2], 90)
    assert first != second and write(constraint, random_scores(3, 6001), [2], 90) == first


def test_half_precision_scores() -> None:
    state = json_constraint(DEFAULT, Line, [2], max_new_tokens=60).start()
    mask_V = state.mask(torch.zeros(6001, dtype=torch.bfloat16))
    assert mask_V.dtype == torch.bfloat16 and int((mask_V == 0).sum()) == 1


# --- ending in time -------------------------------------------------------------------------------------------------


def simple(label: str) -> st.SearchStrategy[Any]:
    kinds = [str, int, float, bool, date, None, Literal["a", "bb", "Long choice"], Annotated[str, Field(min_length=3)]]
    return st.recursive(
        st.sampled_from(kinds),
        lambda inner: st.one_of(
            inner.map(lambda kind: list[kind]),
            inner.map(lambda kind: kind | None if kind is not None else None),
            inner.map(lambda kind: Annotated[list[kind], Field(min_length=2)]),
            inner.map(lambda kind: dict[str, kind]),
            st.lists(inner, min_size=1, max_size=3).map(
                lambda kinds: create_model(label, **{f"Key{n}": (kind, ...) for n, kind in enumerate(kinds)})
            ),
            st.lists(inner, min_size=1, max_size=2).map(
                lambda kinds: create_model(label, **{f"opt{n}": (kind, None) for n, kind in enumerate(kinds)})
            ),
        ),
        max_leaves=5,
    )


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(simple("Inner"), st.integers(0, 99), st.integers(0, 60), st.sampled_from([0.0, 0.5, 5.0]))
def test_answers_under_any_schema_end_in_time(kind: Any, seed: int, spare: int, spread: float) -> None:
    model = create_model("Outer", value=(kind, ...))
    with pytest.raises(InputError, match="`max_new_tokens` must be at least") as caught:
        json_constraint(TINY, model, [2], max_new_tokens=1)
    least = int(str(caught.value).split("at least ")[1].split(",")[0])
    for most in {least, least + spare}:
        model.model_validate_json(answer(model, seed, most, TINY, spread))


@pytest.mark.parametrize("seed", range(3))
def test_a_wish_for_long_texts_is_cut_in_time(seed: int) -> None:
    """Scores that want every string and every list to go on."""
    quote = [token for token, piece in enumerate(vocabulary_of(DEFAULT).pieces) if b'"' in piece or b"]" in piece]

    def talkative(ids: list[int]) -> torch.Tensor:
        scores_V = torch.randn(6001, generator=torch.Generator().manual_seed(seed + len(ids)))
        scores_V[quote] -= 50
        return scores_V

    constraint = json_constraint(DEFAULT, list_of_lines(), [2], max_new_tokens=120)
    ids, ended = write(constraint, talkative, [2], 120)
    assert ended and 100 < len(ids) < 120
    list_of_lines().model_validate_json(text_of(DEFAULT, ids))


def list_of_lines() -> type[BaseModel]:
    return create_model("Lines", first=(str, ...), lines=(list[Line], ...))


def test_without_a_limit_the_model_ends_by_itself() -> None:
    ids, ended = write(json_constraint(TINY, Line, [2]), random_scores(1, len(TINY)), [2], 400)
    assert text_of(TINY, ids).startswith('{"Text": "')
    assert not ended or Line.model_validate_json(text_of(TINY, ids))


# --- what is refused ------------------------------------------------------------------------------------------------


class Calling(BaseModel):
    act: Callable[[int], int]


class Endless(BaseModel):
    next: "Endless"


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (Calling, "CallableSchema"),
        (create_model("M", keys=(dict[int, str], ...)), "int keys"),
        (create_model("M", several=(Annotated[set[int], Field(min_length=2)], ...)), "set of more than one"),
        (create_model("M", number=(complex, ...)), "Complex"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"type": "strin"}, "'strin'.*the top"),
        ({"type": "object", "properties": {"a": {"not": {}}}}, "keyword 'not' .at the top/a"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
        ({"type": "string", "format": "color"}, "format 'color'"),
        ({"$ref": "https://example.com/schema"}, "reference"),
        ({"$ref": "#/$defs/missing"}, "reference"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "minimum"),
        ({"type": "array", "items": 3}, r"3 \(at the top/\[\]"),
        (Endless, "grammar|short"),
    ],
)
def test_what_no_grammar_can_promise_is_refused(schema: Any, said: str) -> None:
    with pytest.raises(InputError, match=f"^`schema` must be .*{said}"):
        json_constraint(DEFAULT, schema, [2])


@pytest.mark.parametrize("schema", [Line(Text="a", amount=1), "object", 3, None, int])
def test_a_schema_is_a_model_class_or_a_dict(schema: Any) -> None:
    with pytest.raises(ArgumentTypeError, match="`schema` must be a Pydantic model class or a JSON schema"):
        json_constraint(DEFAULT, schema, [2])


def test_the_users_schema_is_not_changed() -> None:
    schema = {"type": "object", "properties": {"at": {"type": "string", "format": "date"}, "n": {"type": "integer"}}}
    before = json.dumps(schema)
    json_constraint(DEFAULT, schema, [2])
    assert json.dumps(schema) == before


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(MissingExtraError, match=r'pip install "internvl-vision-agent\[structured\]"$'):
        json_constraint(DEFAULT, Line, [2])
    choice_constraint(DEFAULT, ["yes", "no"], [2])  # choices need no package


def test_vocabularies_with_holes() -> None:
    vocabulary = Vocabulary(PIECES)
    assert len(vocabulary.pieces) == len(PIECES) and vocabulary.pieces[3 + 10] == b"\n"


# --- what runs on -----------------------------------------------------------------------------------------------------


def longing(tokenizer: Any, wanted: str) -> Scores:
    """Scores of a model that wants to write `wanted` again and again, wherever it may, letter by letter."""
    vocabulary = vocabulary_of(tokenizer)
    scores_V = torch.full((len(tokenizer) + 7,), -20.0)
    for place, letter in enumerate(dict.fromkeys(wanted)):
        scores_V[vocabulary.ids_of[letter.encode()][0]] = 10.0 - place
    return lambda _: scores_V


@TOKENIZERS
@pytest.mark.parametrize(
    ("schema", "wanted", "longest", "cut"),
    [
        ({"type": "integer"}, "9", 6, "number"),
        ({"type": "number"}, "7", 6, "number"),
        ({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}, "8", 6, "number"),
        ({"type": "string"}, "9", 12, "text"),
        ({"type": "array", "items": {"const": 1}}, ",1", 36, "list"),
    ],
)
def test_what_repeats_itself_is_cut_and_said(tokenizer: Any, schema: Any, wanted: str, longest: int, cut: str) -> None:
    end = tokenizer.eos_token_id
    constraint = json_constraint(tokenizer, schema, [end], max_new_tokens=200)
    state, ids = constraint.start(), []
    while end not in ids and len(ids) < 200:
        ids.append(int(state.mask(longing(tokenizer, wanted)(ids).clone()).argmax()))
        state.accept(ids[-1])
    text = text_of(tokenizer, ids[:-1])
    json.loads(text)
    assert text.count(wanted[-1]) <= longest, text
    assert any(f"a {cut} was cut" in warning for warning in state.warnings)


def test_a_limit_that_ends_an_answer_is_said() -> None:
    end = DEFAULT.eos_token_id
    constraint = json_constraint(DEFAULT, {"type": "string"}, [end], max_new_tokens=10)
    letters = iter(range(1000))

    def scores(_: list[int]) -> torch.Tensor:
        scores_V = torch.full((len(DEFAULT),), -20.0)
        scores_V[vocabulary_of(DEFAULT).ids_of[b"abcdefghijklm"[next(letters) % 13 :][:1]][0]] = 10.0
        return scores_V

    state, ids = constraint.start(), []
    while end not in ids:
        ids.append(int(state.mask(scores(ids)).argmax()))
        state.accept(ids[-1])
    assert len(ids) <= 10 and any("max_new_tokens" in warning for warning in state.warnings)


@TOKENIZERS
def test_what_a_grammar_forces_is_told_from_what_it_leaves_open(tokenizer: Any) -> None:
    end = tokenizer.eos_token_id
    vocabulary = vocabulary_of(tokenizer)
    schema = {"type": "object", "properties": {"red": {"type": "boolean"}}, "required": ["red"]}

    def forced(constraint: Constraint, text: str) -> str:
        state, marks = constraint.start(), ""
        for letter in text:
            token = vocabulary.ids_of[letter.encode()][0]
            marks += "." if state.forces(token) else letter
            state.accept(token)
        return marks + ("." if state.forces(end) else "!")

    assert forced(json_constraint(tokenizer, schema, [end]), '{"red": true}') == "........t....."
    choices = choice_constraint(tokenizer, ["no", "not now", "yes"], [end])
    assert forced(choices, "not now") == "n.t....."
    assert forced(choices, "no") == "n.!"
    assert forced(choices, " yes") == ".y..." or tokenizer is not DEFAULT
