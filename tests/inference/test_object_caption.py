"""Captions of what was found: they name what has a box, and nothing else."""

import numpy as np
import pytest
from conftest import PHOTOS
from PIL import Image

from vision_agent import GenerationOptions, VisionAgent
from vision_agent.evaluate.captions import named_objects

WALK = PHOTOS / "000000190140.jpg"
COCO = ("person", "dog", "frisbee", "bear", "teddy bear", "hot dog", "mouse", "skis", "bus", "tv", "cell phone")


def test_a_caption_names_what_is_there_and_where(agent: VisionAgent) -> None:
    short, normal = (agent.caption(WALK, length=length) for length in ("short", "normal"))
    assert short.text == "A person and a dog."
    assert normal.text == "A person and a dog. The person is in the middle and the dog is in the middle."
    (found,) = normal.evidence
    assert sorted(found.labels) == ["dog", "person"]
    assert normal.confidence == pytest.approx(np.mean([each.score for each in found]))


@pytest.mark.parametrize("name", sorted(each.name for each in PHOTOS.glob("*.jpg")))
def test_each_name_of_a_caption_has_a_box(agent: VisionAgent, name: str) -> None:
    answer = agent.caption(PHOTOS / name, length="long")
    (found,) = answer.evidence
    assert named_objects(answer.text, sorted(agent_names(agent))) == set(found.labels)
    best = {each.label: max(one.score for one in found if one.label == each.label) for each in found}
    assert all(score >= 0.5 for score in best.values())


def test_one_place_has_one_name(agent: VisionAgent) -> None:
    # A fire engine: the decoder calls it truck, bus and train at once.
    for path in PHOTOS.glob("*.jpg"):
        (found,) = agent.caption(path).evidence
        for index, each in enumerate(found):
            rivals = [other for other in found[:index] if other.label != each.label]
            assert all(each.box.iou(other.box) <= 0.61 for other in rivals)


def test_where_nothing_is_sure_nothing_is_named(agent: VisionAgent) -> None:
    answer = agent.caption(Image.new("RGB", (320, 240), "grey"))
    assert named_objects(answer.text, sorted(agent_names(agent))) == frozenset()
    assert answer.confidence == 0 and len(answer.evidence[0]) == 0


@pytest.mark.parametrize("request_", ["what do you see?", "Describe this picture", "what's happening here?"])
def test_asking_chatting_and_running_give_the_same_caption(agent: VisionAgent, photo, request_: str) -> None:
    asked = agent.ask(request_, photo)
    assert asked.text == agent.caption(photo).text
    assert agent.chat().ask(request_, photo).text == asked.text
    assert agent.run(request_, photo).text == asked.text


def test_limits_of_options_hold(agent: VisionAgent) -> None:
    whole = agent.ask("describe this", WALK)
    for most in (1, 2, 5):
        answer = agent.ask("describe this", WALK, max_new_tokens=most)
        assert (answer.finish_reason, answer.completion_tokens) == ("length", most)
        assert whole.text.startswith(answer.text) and len(answer.text) < len(whole.text)
    stopped = agent.ask("describe this", WALK, options=GenerationOptions(stop=(" dog",)))
    assert stopped.text == "A person and a" and stopped.finish_reason == "stop"


def test_other_questions_are_no_captions(agent: VisionAgent, photo) -> None:
    assert agent.ask("what colour is the frisbee?", photo).text == "red"
    assert agent.run("outline the dog", photo).routes[0].token == "[SEG]"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("A hot dog on a plate", {"hot dog"}),
        ("two teddy bears, one bear", {"teddy bear", "bear"}),
        ("People and MICE", {"person", "mouse"}),
        ("a man with a television and a phone", {"person", "tv", "cell phone"}),
        ("hotdogs, business, discus", set()),
        ("", set()),
    ],
)
def test_names_are_read_from_captions_as_whole_words(text: str, names: set[str]) -> None:
    assert named_objects(text, COCO) == names


def agent_names(agent: VisionAgent) -> tuple[str, ...]:
    """The names that the default looks for when it describes."""
    names: tuple[str, ...] = tuple(agent.backbone.model.generation_config.answers["captions"]["names"])
    return names
