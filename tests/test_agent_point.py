"""Points lie inside objects: at the centre of the largest circle that a mask holds."""

import numpy as np
import pytest

from vision_agent import Count, Detections, Mask, Points, Segmentation
from vision_agent.geometry.rle import Bools
from vision_agent.results.points import inscribed_centre


def ring() -> Bools:
    y, x = np.mgrid[:200, :200]
    distance = np.hypot(x - 100, y - 100)
    result: Bools = (distance > 60) & (distance < 95)
    return result


def corner() -> Bools:
    """An L whose box has its middle outside."""
    mask = np.zeros((300, 300), dtype=np.bool_)
    mask[:, :40] = True
    mask[220:, :] = True
    return mask


def line() -> Bools:
    """A diagonal one pixel wide in an image so large that it is looked at in cells."""
    return np.eye(1000, dtype=np.bool_)


@pytest.mark.parametrize(
    "mask", [ring(), corner(), line(), np.ones((1, 1), dtype=np.bool_)], ids=["ring", "L", "line", "dot"]
)
def test_the_centre_is_a_pixel_of_the_mask(mask: Bools) -> None:
    x, y = inscribed_centre(mask)
    assert mask[int(y), int(x)]


def test_it_is_the_centre_of_the_largest_circle() -> None:
    x, y = inscribed_centre(np.ones((31, 91), dtype=np.bool_))
    assert abs(y - 15.5) <= 1 and 14 <= x <= 77
    disc = np.hypot(*(np.mgrid[:401, :401] - 200)) < 150
    x, y = inscribed_centre(disc)
    assert np.hypot(x - 200.5, y - 200.5) <= 4  # a cell is four pixels here
    x, y = inscribed_centre(corner())
    assert x < 80 and y > 220  # where the arms meet
    x, y = inscribed_centre(ring())
    assert abs(np.hypot(x - 100, y - 100) - 77.5) <= 3


def test_points_of_masks_and_of_boxes() -> None:
    mask = np.zeros((400, 500), dtype=np.bool_)
    mask[50:350, 100:400] = corner()
    found = Segmentation.from_masks([Mask.from_array(mask)], [0.7], ["arm"], image_size=(500, 400), model="toy")
    (point,) = Points.from_segmentation(found)
    assert mask[int(point.y), int(point.x)] and (point.label, point.score) == ("arm", 0.7)
    (middle,) = Points.from_detections(found.detections)
    assert middle.xy == (250, 200) and not mask[200, 250]
    empty = Segmentation.from_masks(
        [Mask.from_array(np.zeros((400, 500), dtype=np.bool_))],
        [0.7],
        ["arm"],
        image_size=(500, 400),
        model="toy",
        xyxy=[[10, 10, 30, 50]],
    )
    assert Points.from_segmentation(empty)[0].xy == (20, 30)


def test_a_count_shows_its_evidence_as_points() -> None:
    found = Detections.from_arrays(
        [[0, 0, 10, 20], [30, 30, 50, 50]], [0.9, 0.8], ["cup"] * 2, image_size=(60, 60), model="toy"
    )
    count = Count(count=2, phrase="cup", evidence=found)
    assert [point.xy for point in count.points] == [(5, 10), (40, 40)]
