"""Figures of answers and of free routing: what counts as right, and what is asked."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from PIL import Image

from vision_agent import Answer, VisionAgent
from vision_agent.data.scene import Scene
from vision_agent.evaluate.captions import scored
from vision_agent.evaluate.routing import free_route
from vision_agent.evaluate.short_answers import (
    AbsentNames,
    colour_figures,
    colour_in,
    count_figures,
    number_in,
    presence_figures,
    relation_figure,
    yes_or_no,
)
from vision_agent.images.loading import load_image
from vision_agent.inference.nouns import plural

KNOWN = frozenset({"dog", "cat", "bus", "car", "kite", "person"})


def scene(*things: tuple[str, str, float]) -> Scene:
    """Things (name, colour, left edge), each 10 px wide, in an image of 100 px."""
    boxes = np.array([[x, 0, x + 10, 10] for _, _, x in things], dtype=np.float32).reshape(-1, 4)
    names, colours = tuple(name for name, _, _ in things), tuple(colour for _, colour, _ in things)
    return Scene(Image.new("RGB", (100, 40)), boxes, names, colours, known_names=KNOWN)


PARK = scene(("dog", "brown", 0), ("dog", "black", 30), ("kite", "red", 80))
STREET = scene(("bus", "yellow", 60), ("car", "blue", 5), ("person", "green", 30))
ROAD = scene(("car", "white", 70), ("person", "grey", 10))


class Answering:
    """Stands in for an agent whose answers are known."""

    def __init__(self, answer: Callable[[str, Scene], str]) -> None:
        self.questions: list[str] = []
        self._answer = answer
        self._scenes = {id(each.image): each for each in (PARK, STREET, ROAD)}

    def ask(self, question: str, image: Image.Image, *, max_new_tokens: int) -> Answer:
        self.questions.append(question)
        text = self._answer(question, self._scenes[id(image)])
        return Answer(
            text=text, finish_reason="stop", prompt_tokens=1, completion_tokens=1, confidence=1, model="known"
        )

    def caption(self, image: Image.Image, *, length: str) -> Answer:
        return self.ask("caption", image, max_new_tokens=20)


def answering(answer: Callable[[str, Scene], str]) -> VisionAgent:
    return cast(VisionAgent, Answering(answer))


def knowing(question: str, about: Scene) -> str:
    """Answers every question rightly."""
    words = set(re.findall(r"\w+", question))
    named = [name for name in sorted(KNOWN) if words & {name, plural(name)}]
    if question.startswith("how many"):
        return {1: "one", 2: "there are 2"}[about.names.count(named[0])]
    if question.startswith("what colour"):
        return f"it is {about.colours[about.names.index(named[0])]}"
    relation = re.fullmatch(r"is the (\w+) (left|right) of the (\w+)\?", question)
    if relation is None:
        return "yes" if named[0] in about.names else f"no, i can't see a {named[0]}"
    first, word, second = relation.groups()
    x, other = (about.boxes[about.names.index(name)][0] for name in (first, second))
    return "Yes." if (x < other) == (word == "left") else "No."


def test_right_answers_count_as_right() -> None:
    right = answering(knowing)
    figures = [
        *presence_figures(right, [PARK, STREET, ROAD]),
        *list(count_figures(right, [PARK, STREET, ROAD]))[:2],
        *colour_figures(right, [PARK, STREET, ROAD]),
        relation_figure(right, [PARK, STREET, ROAD]),
    ]
    assert len(figures) == 10
    assert {figure.name: figure.value for figure in figures} == {figure.name: 1.0 for figure in figures}


def test_saying_yes_to_everything_is_worth_nothing() -> None:
    balanced, *styles, f1 = presence_figures(answering(lambda question, about: "yes"), [PARK, STREET])
    assert balanced.value == 0.5 and {figure.value for figure in styles} == {0.5}
    assert f1.value == pytest.approx(2 / 3)


def test_silence_is_neither_yes_nor_a_number_nor_a_colour() -> None:
    silent = answering(lambda question, about: "")
    counts = {figure.name: figure.value for figure in count_figures(silent, [PARK])}
    assert counts.pop('... baseline: always "one"') > 0 and set(counts.values()) == {0.0}
    assert relation_figure(silent, [STREET]).value == 0
    assert next(presence_figures(silent, [PARK])).value == 0.5


def test_only_things_alone_of_their_name_are_asked_for_their_colour() -> None:
    asked = Answering(knowing)
    list(colour_figures(cast(VisionAgent, asked), [PARK]))
    assert asked.questions == ["what colour is the kite?"]


def test_absent_names_are_drawn_as_pope_draws_them() -> None:
    rng = np.random.default_rng(0)
    absent = AbsentNames([PARK, STREET, ROAD, STREET])
    assert absent.of(PARK, "popular", 2, rng) == ["car", "person"]
    assert absent.of(ROAD, "adversarial", 1, rng) == ["bus"]
    assert absent.of(PARK, "adversarial", 1, rng) == ["bus"]
    assert {name for _ in range(50) for name in absent.of(STREET, "random", 2, rng)} == {"dog", "cat", "kite"}


@pytest.mark.parametrize(
    ("answer", "yes", "number", "colour"),
    [
        ("Yes, it is.", True, None, None),
        ("no, i can't see a dog", False, 0, None),
        ("There are three dogs", None, 3, None),
        ("12", None, 12, None),
        ("none", None, 0, None),
        ("a gray and red bus", None, None, "grey"),
        ("yesterday nobody", None, None, None),
    ],
)
def test_reading_answers(answer: str, yes: bool | None, number: int | None, colour: str | None) -> None:
    assert (yes_or_no(answer), number_in(answer), colour_in(answer)) == (yes, number, colour)


def test_the_default_routes_by_itself(agent: VisionAgent, photo: Path) -> None:
    image = load_image(photo)
    where = free_route(agent.backbone, "where is the dog?", image)
    assert (where.route, where.phrase) == ("det", "dog")
    assert free_route(agent.backbone, "how many dogs are there?", image).route == "text"


def test_captions_are_compared_with_all_that_people_wrote() -> None:
    park = replace(PARK, captions=("A brown dog beside a black dog.", "Two dogs and a red kite in the park."))
    street = replace(STREET, captions=("A yellow bus waits at the side of the street.",))
    words = {id(PARK.image): park.captions[1].lower(), id(STREET.image): "a yellow bus waits there"}
    agent = answering(lambda question, about: words[id(about.image)])
    for one in (park, street):
        agent._scenes[id(one.image)] = one  # type: ignore[attr-defined]
    right, told, whole, letters = scored(agent, [park])
    assert [whole.value, letters.value] == pytest.approx([1, 1])
    both_right, both_told, both, _ = scored(agent, [park, street])
    assert [right.value, told.value, both_right.value, both_told.value] == pytest.approx([1, 1, 1, 3 / 5])
    assert 0.3 < both.value < 1 and both.count == 2
