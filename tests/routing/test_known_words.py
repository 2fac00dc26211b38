"""The words that a route knows: nonsense finds nothing, what was taught does, and results name what is unknown."""

from pathlib import Path

import pytest
from conftest import PHOTOS

from vision_agent import ArgumentTypeError, VisionAgent
from vision_agent.evaluate.taught_words import NONSENSE, area_under_curve
from vision_agent.inference.nouns import plural
from vision_agent.routing.adapter import write_words
from vision_agent.routing.known_words import KnownWords

WORDS = KnownWords(
    names=("dog", "fire hydrant", "skateboard", "t-shirt", "knife", "bus", "wine glass", "scissors", "person"),
    modifiers=("the", "a", "red", "left", "of", "on"),
)


@pytest.mark.parametrize(
    ("phrase", "unknown", "finds"),
    [
        ("dog", (), True),
        ("The DOGS", (), True),
        ("fire hydrants", (), True),
        ("fire-hydrant", (), True),
        ("firehydrant", (), True),
        ("Skate_Board", (), True),
        ("tshirts", (), True),
        ("T shirt", (), True),
        ("knives", (), True),
        ("buses", (), True),
        ("wine glasses", (), True),
        ("scissor", (), True),
        ("people", (), True),
        ("the dog's frobnitz", ("frobnitz",), True),
        ("asdfgh", ("asdfgh",), False),
        ("red asdfgh", ("asdfgh",), False),
        ("a asdfgh on the asdfgh", ("asdfgh",), False),
        ("hydrant", ("hydrant",), False),
        ("fire", ("fire",), False),
        ("red", (), True),
        ("red 7", (), True),
        ("7", ("7",), False),
        ("1 2 1", ("1", "2"), False),
        ("asdfgh on a dog", ("asdfgh",), False),
        ("a red asdfgh of the person on the left", ("asdfgh",), False),
        ("dog on a asdfgh", ("asdfgh",), True),
        ("asdfgh dog", ("asdfgh",), True),
        ("on the dog", (), True),
        ("犬", ("犬",), False),
        ("🐶🐶", ("🐶🐶",), False),
        ("???", ("???",), False),
        ("собака", ("собака",), False),
        ("gloss", ("gloss",), False),
    ],
)
def test_one_rule_for_words(phrase: str, unknown: tuple[str, ...], finds: bool) -> None:
    assert WORDS.unknown(phrase) == unknown and WORDS.finds(phrase) is finds


@pytest.mark.parametrize(
    ("phrase", "asked"),
    [
        ("dogs", "dog"),
        ("The red DOGS", "The red dog"),
        ("fire hydrants", "fire hydrant"),
        ("people", "person"),
        ("knives on the left", "knife on the left"),
        ("wine glasses", "wine glass"),
        ("bus", "bus"),
        ("scissors", "scissors"),
        ("glasses", "glasses"),
        ("unicorns", "unicorns"),
        ("???", "???"),
        ("", ""),
    ],
)
def test_known_plurals_are_asked_in_the_singular(phrase: str, asked: str) -> None:
    assert WORDS.in_singular(phrase) == asked


def test_gray_is_grey_where_that_was_taught(agent: VisionAgent) -> None:
    """In American spelling no phrase found anything, though "gray" counted as known: photos were named in British."""
    street = PHOTOS / "000000423617.jpg"
    british, american = agent.detect("grey car", street, detail="low"), agent.detect("Gray cars", street, detail="low")
    assert american.xyxy.tolist() == british.xyxy.tolist() and len(american) >= 1
    assert set(american.labels) == {"Gray cars"} and american.unknown_words == ()
    masks = [agent.segment(phrase, street, detail="low") for phrase in ("grey car", "gray car")]
    assert masks[0].xyxy.tolist() == masks[1].xyxy.tolist() and len(masks[1]) >= 1
    choices = ["red", "gray", "black"]
    assert agent.ask("what color is the car?", street, choices=choices).value == "gray"
    assert agent.ask("what color is the car?", street, choices=[*choices, "grey"]).value == "grey"
    assert WORDS.as_taught("gray dogs") == "gray dog"  # it was taught no grey
    taught = KnownWords(names=("dog", "grayling"), modifiers=("grey",))
    assert (
        taught.as_taught("two gray-white dogs") == "two grey-white dog" and taught.as_taught("grayling") == "grayling"
    )


def test_every_name_of_the_default_is_known_in_the_plural(agent: VisionAgent) -> None:
    """Short ones too: "tvs" found nothing where "tv" is 0.74."""
    words = agent.routes["det"].words
    assert words is not None
    heads = [
        name for name in words.names if not {"of", "with", "in", "and", "on"} & set(name.replace("-", " ").split())
    ]
    asked = {name: words.in_singular(plural(name)) for name in heads}
    own_plurals = {plural(name) for name in words.names if plural(name) in words.names}
    assert {"tv", "bus", "person", "dog"} <= asked.keys()
    assert {name: got for name, got in asked.items() if got not in {name, *own_plurals}} == {"glass": "glasses"}


def test_a_plural_finds_what_the_singular_finds(agent: VisionAgent, photo: Path) -> None:
    """Asked as they stand, plurals found things that are not there: three cats, one of them at 0.91, where a dog is."""
    for name, several in (("dog", "dogs"), ("cat", "cats"), ("person", "people")):
        one, many = agent.detect(name, photo, threshold=0.2), agent.detect(several, photo, threshold=0.2)
        assert many.xyxy.tolist() == one.xyxy.tolist() and many.scores.tolist() == one.scores.tolist()
        assert set(many.labels) <= {several} and many.phrases == (several,)
    assert agent.count("dogs", photo).count == agent.count("dog", photo).count
    routed = agent.run("find the cats", photo).routes[0]
    assert routed.phrase == "cats" and len(routed.result) == len(agent.detect("cat", photo))


def test_nonsense_gets_no_box_on_any_photo(agent: VisionAgent) -> None:
    for photo in PHOTOS.glob("*.jpg"):
        found = agent.detect(NONSENSE, photo)
        assert not found and found.phrases == NONSENSE
        assert found.unknown_words == (*NONSENSE[:-1], *NONSENSE[-1].split())


def test_every_verb_says_what_it_does_not_know(agent: VisionAgent, photo: Path) -> None:
    for verb in (agent.detect, agent.segment, agent.point):
        mixed = verb(["red asdfgh", "dog", "hello"], photo)
        assert {each.label for each in mixed} == {"dog"} and mixed.unknown_words == ("asdfgh", "hello")
        assert not len(verb("asdfgh", photo)) and not verb("dog", photo).unknown_words
    count = agent.count("asdfgh", photo)
    assert count.count == 0 and count.unknown_words == ("asdfgh",)
    assert not len(agent.run_route("det", "asdfgh", photo))  # type: ignore[arg-type]
    routed = agent.run("find the asdfgh", photo).routes
    assert routed and not len(routed[0].result) and routed[0].result.unknown_words == ("asdfgh",)  # type: ignore[arg-type, union-attr]


def test_the_caller_may_look_for_it_all_the_same(agent: VisionAgent, photo: Path) -> None:
    asked = {"threshold": 0.01, "only_known": False}
    found = agent.detect("asdfgh", photo, **asked)  # type: ignore[call-overload]
    assert len(found) > 0 and found.unknown_words == ("asdfgh",)
    assert len(agent.segment("asdfgh", photo, threshold=0.01, only_known=False)) == len(found)
    with pytest.raises(ArgumentTypeError, match="only_known"):
        agent.detect("asdfgh", photo, only_known="no")  # type: ignore[call-overload]


@pytest.mark.parametrize("name", ["frisbee", "zebra", "fire hydrant", "person", "hair drier", "wine glass", "cow"])
def test_what_was_taught_is_known(agent: VisionAgent, name: str) -> None:
    words = agent.routes["det"].words
    assert words is not None and words == agent.routes["seg"].words
    assert words.finds(name) and not words.unknown(f"a small red {name} left of the big tree")


def test_an_adapter_without_words_looks_for_every_phrase(agent: VisionAgent, photo: Path, tmp_path: Path) -> None:
    import shutil

    from vision_agent.model.checkpoint import DEFAULT_CHECKPOINT

    shutil.copytree(DEFAULT_CHECKPOINT / "adapters" / "det", tmp_path / "det")
    write_words(tmp_path / "det", None)
    other = VisionAgent()
    other.load_adapter(tmp_path / "det")
    found = other.detect("asdfgh", photo, threshold=0.01)
    assert len(found) > 0 and found.unknown_words == ()
    write_words(tmp_path / "det", KnownWords(names=("asdfgh",)))
    other.load_adapter(tmp_path / "det")
    assert other.detect("asdfgh", photo, threshold=0.01).scores.tolist() == found.scores.tolist()
    assert other.detect("dog", photo).unknown_words == ("dog",)


def test_the_area_under_the_curve() -> None:
    import numpy as np

    assert area_under_curve(np.array([0.9, 0.2, 0.2, 0.1]), np.array([True, True, False, False])) == 0.875
