"""detect, point and count on a checkpoint without routes: InternVL's own grounding text, under a grammar."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vision_agent import Count, Detections, InputError, Points, VisionAgent


def noise(seed: int, width: int = 150, height: int = 80) -> Image.Image:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=generator)
    return Image.fromarray(pixels.numpy())


@pytest.fixture
def tiny(checkpoint: Path) -> VisionAgent:
    return VisionAgent.from_pretrained(checkpoint)


def test_a_checkpoint_without_routes_finds_by_its_own_words(tiny: VisionAgent) -> None:
    found = tiny.detect(["dog", "red car"], noise(1))
    assert isinstance(found, Detections)
    assert found.decoder == "grounding"
    assert found.phrases == ("dog", "red car") and found.image_size == (150, 80)
    assert set(found.labels) <= {"dog", "red car"}
    boxes = found.xyxy
    assert (boxes[:, 2:] > boxes[:, :2]).all() and (boxes >= 0).all()
    assert (boxes <= np.array([150, 80, 150, 80])).all()


def test_phrases_together_equal_phrases_alone(tiny: VisionAgent) -> None:
    together = tiny.detect(["dog", "cat"], noise(2))
    tiny.clear_cache()
    for phrase in ("dog", "cat"):
        alone = tiny.detect(phrase, noise(2))
        np.testing.assert_allclose(together.filter(label=phrase).xyxy, alone.xyxy)
        np.testing.assert_allclose(together.filter(label=phrase).scores, alone.scores, atol=1e-3)


def test_points_and_counts_rest_on_the_boxes(tiny: VisionAgent) -> None:
    found = tiny.detect("dog", noise(3))
    points, count = tiny.point("dog", noise(3)), tiny.count("dog", noise(3))
    assert isinstance(points, Points) and isinstance(count, Count)
    assert points.decoder == "grounding"
    np.testing.assert_allclose(points.xy, [each.box.center for each in found])
    assert int(count) == len(found) == count.count
    np.testing.assert_allclose(count.evidence.xyxy, found.xyxy)
    assert Points.model_validate_json(points.model_dump_json()) == points
    assert Count.model_validate_json(count.model_dump_json()) == count


def test_a_threshold_leaves_the_surer_boxes(tiny: VisionAgent) -> None:
    every = tiny.detect("dog", noise(4), threshold=0)
    assert len(every) > 0
    limit = float(np.median(every.scores)) * 0.999  # a score may differ in its last bits from one call to the next
    assert len(tiny.detect("dog", noise(4), threshold=limit)) == int((every.scores >= limit).sum())


def test_the_trained_route_goes_first(agent: VisionAgent, photo: Path) -> None:
    assert agent.detect("dog", photo).decoder == "box"
    assert agent.point("dog", photo).decoder == "mask"  # points lie inside objects
    assert agent.count("dog", photo).evidence.decoder == "box"
    with pytest.raises(InputError, match="threshold"):
        agent.count("dog", photo, threshold=2)
