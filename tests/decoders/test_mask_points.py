"""Clicks on photos: a mask holds its points and nothing beside the object, or there is none, and its score is fair."""

from pathlib import Path

import numpy as np
import pytest
from conftest import PHOTOS

from vision_agent import Segmentation, VisionAgent, load_image


def clicks(size: tuple[int, int]) -> list[list[float]]:
    """Eight places on a grid."""
    width, height = size
    return [[width * (column + 0.5) / 4, height * (row + 0.5) / 2] for row in range(2) for column in range(4)]


def holds(found: Segmentation, number: int, point: list[float]) -> bool:
    return bool(found[number].mask.to_array()[int(point[1]), int(point[0])])


def test_each_mask_holds_its_click(agent: VisionAgent) -> None:
    photos = sorted(PHOTOS.glob("*.jpg"))[:10]
    given = 0
    for photo in photos:
        image = load_image(photo)
        points = clicks(image.size)
        found = agent.segment(image=image, points=points)
        assert len({each.prompt for each in found}) == len(found)
        for number, each in enumerate(found):
            assert each.prompt is not None and holds(found, number, points[each.prompt])
            # A mask that only just holds its click has at most half of the score of one that surely does.
            assert each.mask_score is not None and 0 < each.score <= each.mask_score
        given += len(found)
    assert len(photos) == 10 and given >= 64  # of 80; answering nothing would hold every click, too


def test_points_beside_the_object_are_left_out(agent: VisionAgent) -> None:
    given = 0
    for photo in sorted(PHOTOS.glob("*.jpg"))[:4]:
        image = load_image(photo)
        points = clicks(image.size)
        pairs = [[on_it, beside] for on_it, beside in zip(points[:4], points[4:], strict=True)]
        for pair in pairs:
            found = agent.segment(image=image, points=[pair], point_labels=[[1, 0]])
            assert len(found) <= 1
            if len(found):
                assert holds(found, 0, pair[0]) and not holds(found, 0, pair[1])
            given += len(found)
    assert given >= 10  # of 16


def test_all_points_of_an_object_are_held(agent: VisionAgent, photo: Path) -> None:
    image = load_image(photo)
    (dog,) = agent.segment("dog", image)
    ys, xs = np.nonzero(dog.mask.to_array())
    few = np.linspace(len(xs) * 0.3, len(xs) * 0.7, 3).astype(int)
    inside = np.stack([xs[few] + 0.5, ys[few] + 0.5], axis=1)
    (found,) = agent.segment(image=image, points=[inside])
    assert found.mask.to_array()[ys[few], xs[few]].all()
    assert found.mask.iou(dog.mask) > 0.6


@pytest.mark.parametrize("corner", [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_a_click_on_the_edge_is_a_click_on_its_pixel(agent: VisionAgent, photo: Path, corner: tuple[int, int]) -> None:
    image = load_image(photo)
    x, y = corner[0] * image.width, corner[1] * image.height
    for each in agent.segment(image=image, points=[[x, y]]):
        assert each.mask.to_array()[min(int(y), image.height - 1), min(int(x), image.width - 1)]


def test_an_object_without_a_mask_is_left_out_and_the_others_keep_their_numbers(
    agent: VisionAgent, photo: Path
) -> None:
    image = load_image(photo)
    (dog,) = agent.segment("dog", image)
    ys, xs = np.nonzero(dog.mask.to_array())
    inside = [float(xs[len(xs) // 2]), float(ys[len(xs) // 2])]
    # Nothing can hold a point that is on the object and beside it.
    found = agent.segment(image=image, points=[[inside, inside], [inside, [1, 1]]], point_labels=[[1, 0], [1, 0]])
    assert [each.prompt for each in found] == [1]
