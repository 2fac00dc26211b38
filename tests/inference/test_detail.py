"""How closely an image is looked at: a second look, on a larger canvas, adds what one look misses."""

from typing import Any

import numpy as np
import pytest
from conftest import PHOTOS
from PIL import Image

from vision_agent import Detections, InputError, VisionAgent, load_image
from vision_agent.geometry.frames import box_iou

STREET = load_image(PHOTOS / "000000423617.jpg")
SMALL = STREET.resize((280, 210))


def found(agent: VisionAgent, image: Image.Image, **settings: Any) -> Detections:
    agent.clear_cache()
    return agent.detect("car; bus; person", image, **settings)


def test_a_second_look_adds_objects_and_shows_none_twice(agent: VisionAgent) -> None:
    once, twice = (found(agent, STREET, detail=detail) for detail in ("low", "high"))
    assert len(twice) > len(once) > 0
    for phrase in ("car", "bus", "person"):
        boxes = twice.filter(label=phrase).xyxy.astype(np.float64)
        assert (np.triu(box_iou(boxes, boxes), k=1) <= 0.3 + 1e-6).all()
    # What one look is sure of stays.
    for sure in once.filter(min_score=0.8):
        again = twice.filter(label=sure.label)
        assert box_iou(np.array([sure.box.xyxy]), again.xyxy.astype(np.float64)).max() > 0.6


@pytest.mark.parametrize(("image", "same_as"), [(STREET, "high"), (SMALL, "low")], ids=["photo", "thumbnail"])
def test_automatic_is_for_all_but_small_images(agent: VisionAgent, image: Image.Image, same_as: Any) -> None:
    assert found(agent, image, detail="auto") == found(agent, image, detail=same_as)


def test_nobody_says_it(agent: VisionAgent) -> None:
    """Images are looked at as they were when the scores were fitted: the shipped thresholds are of two looks."""
    assert agent.routes["det"].decoder.usual_detail == agent.routes["seg"].decoder.usual_detail == "auto"
    assert found(agent, STREET) == found(agent, STREET, detail="high")
    assert found(agent, SMALL) == found(agent, SMALL, detail="low")


def test_looks_do_not_depend_on_what_was_asked_before(agent: VisionAgent) -> None:
    first = found(agent, STREET, detail="low")
    agent.detect("car", STREET, detail="high")
    assert agent.detect("car; bus; person", STREET, detail="low") == first


def test_masks_points_and_counts_look_as_closely(agent: VisionAgent) -> None:
    agent.clear_cache()
    masks = [agent.segment("car", STREET, detail=detail) for detail in ("low", "high")]
    assert len(masks[1]) > len(masks[0])
    assert len(agent.point("car", STREET, detail="high")) == len(masks[1])
    counts = [agent.count("person", STREET, detail=detail).count for detail in ("low", "high")]
    assert counts[1] >= counts[0]


def test_tiles_are_a_closer_look_already(agent: VisionAgent) -> None:
    wide = Image.new("RGB", (2000, 480), "dimgray")
    wide.paste(STREET, (700, 0))
    twice, once = (found(agent, wide, detail=detail) for detail in ("auto", "low"))
    assert twice.tiles > 0
    assert twice == once


@pytest.mark.parametrize("detail", ["max", "High", "", 0, 1, True, ["low"]])
def test_another_word_is_refused(agent: VisionAgent, detail: Any) -> None:
    with pytest.raises(InputError, match='`detail` must be None, "low", "auto" or "high"'):
        agent.detect("car", STREET, detail=detail)
