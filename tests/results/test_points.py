"""Points of boxes and masks: where they lie, in pixels of the image."""

import numpy as np

from vision_agent import Detections, Segmentation
from vision_agent.results.points import Points, inscribed_centre
from vision_agent.results.segmentation import Mask


def test_points_of_boxes_are_their_middles() -> None:
    found = Detections.from_arrays(
        [[10, 20, 40, 100], [0, 0, 1, 3]], [0.5, 0.4], ["a", "b"], image_size=(200, 150), model="m"
    )
    assert [point.xy for point in Points.from_detections(found)] == [(25, 60), (0.5, 1.5)]


def test_points_of_masks_are_in_them_whatever_their_shape() -> None:
    """A high bar at the right and a flat one below: with x and y swapped neither would hold its point."""
    high, flat, none = (np.zeros((150, 200), dtype=bool) for _ in range(3))
    high[20:120, 150:161] = True
    flat[130:137, 10:90] = True
    found = Segmentation.from_masks(
        [Mask.from_array(mask) for mask in (high, flat, none)],
        [0.9, 0.8, 0.7],
        ["high", "flat", "none"],
        image_size=(200, 150),
        model="m",
        xyxy=[[150, 20, 161, 120], [10, 130, 90, 137], [30, 40, 50, 100]],
    )
    points = Points.from_segmentation(found)
    assert [point.label for point in points] == ["high", "flat", "none"]
    assert points[0].x == 155.5 and 25 <= points[0].y <= 115
    assert points[1].y == 133.5 and 13 <= points[1].x <= 87
    assert points[2].xy == (40, 70)  # of an empty mask, the middle of its box


def test_the_point_of_one_pixel_is_its_middle() -> None:
    mask = np.zeros((3, 5), dtype=bool)
    mask[2, 1] = True
    assert inscribed_centre(mask) == (1.5, 2.5)
