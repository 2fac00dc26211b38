"""What the shipped model finds in the example photos, to a pixel: any change of it is seen here.

After new weights, or a change that is meant, write it anew and look at the difference:

    python tests/decoders/golden.py
"""

import json

import numpy as np
import pytest
from golden import FILE, SEGMENTED, found, segmented

from vision_agent import VisionAgent
from vision_agent.geometry.rle import RunLengths

GOLDEN = json.loads(FILE.read_text("utf-8"))
PIXEL, SCORE = 1.0, 0.01
SAME_MASK = 0.99  # least IoU; processors differ in a few pixels of an outline


@pytest.mark.parametrize("photo", sorted(GOLDEN["detections"]))
def test_detections(agent: VisionAgent, photo: str) -> None:
    expected = GOLDEN["detections"][photo]
    result = found(agent, photo, GOLDEN["least"])
    assert [each["label"] for each in result] == [each["label"] for each in expected]
    for name, most in (("box", PIXEL), ("score", SCORE)):
        difference = np.array([each[name] for each in result]) - np.array([each[name] for each in expected])
        assert np.abs(difference).max(initial=0) <= most


@pytest.mark.parametrize("photo", sorted(SEGMENTED))
@pytest.mark.parametrize("way", ["phrases", "boxes", "points"])
def test_masks(agent: VisionAgent, photo: str, way: str) -> None:
    expected = GOLDEN["masks"][photo][way]
    result = segmented(agent, photo, way)
    assert [each["label"] for each in result] == [each["label"] for each in expected]
    for one, other in zip(result, expected, strict=True):
        assert abs(one["score"] - other["score"]) <= SCORE
        size = tuple(other["size"])
        masks = [RunLengths.from_text(each["counts"], size).to_mask() for each in (one, other)]
        assert (masks[0] & masks[1]).sum() >= SAME_MASK * (masks[0] | masks[1]).sum()


def test_the_photos_say_something() -> None:
    """A model that finds nothing would pass all of the above."""
    boxes = [each for photo in GOLDEN["detections"].values() for each in photo]
    assert len(GOLDEN["detections"]) >= 5 and len(boxes) >= 8
    assert len({each["label"] for each in boxes}) >= 5
