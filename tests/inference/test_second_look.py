"""`verify=True`: what is found is looked at again, beside other names, and "none" is an answer."""

from pathlib import Path

import pytest
from conftest import tiny_backbone
from numerics import assert_same_boxes
from test_mixed import tiny

from vision_agent import (
    AgentResult,
    ArgumentTypeError,
    Detections,
    RouteError,
    Segmentation,
    StepDone,
    VisionAgent,
    load_image,
)

__all__ = ["tiny"]  # a fixture


def test_a_dog_is_no_cat_on_a_second_look(agent: VisionAgent, photo: Path) -> None:
    once = agent.detect("cat; dog", photo, detail="low")
    assert set(once.labels) == {"cat", "dog"}  # the cat is the dog
    again = agent.detect("cat; dog", photo, detail="low", verify=True)
    assert again.labels == ["dog"] and again.phrases == ("cat", "dog")
    assert again[0].box.iou(once.filter(label="dog")[0].box) > 0.9
    assert again.image_size == once.image_size and again.decoder == once.decoder


async def test_lists_iterators_and_asyncio(agent: VisionAgent, photo: Path) -> None:
    small = load_image(photo).resize((256, 192))
    several = agent.detect("cat", [small, small], verify=True)
    assert [len(each) for each in several] == [0, 0]
    assert [len(each) for each in agent.detect("dog", iter([small]), verify=True)] == [1]
    found: Detections = await agent.aio.detect("cat", small, verify=True)
    assert not found


def test_each_round_is_a_step_of_a_plan(agent: VisionAgent, photo: Path) -> None:
    small = load_image(photo).resize((256, 192))
    result = agent.run("find the cat and crop it", small, verify=True)
    (step,) = [each for each in result.steps if each.tool == "verify"]
    assert step.content["chosen"] == [] and step.content["instead"] == {"1": "dog"}
    assert step.text == "cat: chose none of 1; 1 is rather 'dog'" and step.planned == 0
    assert not [each for each in result.steps if each.tool == "crop"] and not result.created_images
    kept = agent.run("find the dog and crop it", small, verify=True)
    assert [each.tool for each in kept.steps] == ["detect", "verify", "crop"] and len(kept.created_images) == 1
    reread = AgentResult.model_validate_json(kept.model_dump_json()).steps[1]
    assert (reread.content, reread.result) == (kept.steps[1].content, kept.steps[1].result)


def test_a_routed_answer_is_verified_and_streamed(agent: VisionAgent, photo: Path) -> None:
    small = load_image(photo).resize((256, 192))
    settings = {"planner": "off", "first_route": "det", "verify": True}
    result = agent.run("where is the cat?", small, **settings)  # type: ignore[call-overload]
    steps = [each for each in result.steps if each.tool == "verify"]
    assert steps and len(steps) == sum(len(each.result.phrases) for each in result.routes)
    assert [each.content["candidates"] for each in steps] == [1]
    events = list(agent.run("where is the cat?", small, stream=True, **settings))  # type: ignore[call-overload]
    assert [each.step.content for each in events if isinstance(each, StepDone)] == [each.content for each in steps]
    for streamed, routed in zip(events[-1].answer.routes, result.routes, strict=True):
        assert (streamed.token, streamed.phrase, streamed.image) == (routed.token, routed.phrase, routed.image)
        assert_same_boxes(streamed.result, routed.result)


def test_masks_stay_masks(agent: VisionAgent, photo: Path) -> None:
    small = load_image(photo).resize((256, 192))
    result = agent.run("outline the dog", small, verify=True)
    assert isinstance(result.routes[0].result, Segmentation) and len(result.routes[0].result) == 1
    planned = agent.run("outline the dog and count the people", small, verify=True)
    assert [each.tool for each in planned.steps] == ["segment", "verify", "count", "verify"]


def test_a_count_of_a_plan_is_verified(agent: VisionAgent, photo: Path) -> None:
    small = load_image(photo).resize((256, 192))
    result = agent.run("how many cats are there?", small, verify=True, planner="clauses")
    for step in result.steps:
        assert step.tool != "verify" or step.content["chosen"] == []


def test_what_cannot_be_verified(agent: VisionAgent, tiny: VisionAgent, photo: Path) -> None:
    with pytest.raises(ArgumentTypeError, match="`verify` must be True or False"):
        agent.detect("dog", photo, verify=1)  # type: ignore[call-overload]
    with pytest.raises(ArgumentTypeError, match="`verify` must be True or False"):
        agent.run("find the dog", photo, verify="yes")  # type: ignore[call-overload]
    without = VisionAgent.__new__(VisionAgent)
    without._setup(tiny_backbone(), [], None, 0)
    for verb in (without.detect, without.run):
        with pytest.raises(RouteError, match="`verify` compares scores of a \\[DET\\] route"):
            verb("dog", photo, verify=True)
