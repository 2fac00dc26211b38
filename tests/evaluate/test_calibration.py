"""Scores that mean what they say: which boxes are right, and the settings that `vision-agent calibrate` writes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vision_agent import Detections
from vision_agent.evaluate.average_precision import Question
from vision_agent.evaluate.reliability import bins, calibration_error, draw_reliability, log_loss, right_boxes

NONE = np.zeros((0, 4), dtype=np.float32)
LEFT, RIGHT = (0.0, 0.0, 10.0, 10.0), (50.0, 0.0, 60.0, 10.0)


def question(truth: list[tuple[float, ...]], crowds: list[tuple[float, ...]], *found: tuple[float, object]) -> Question:
    boxes, scores = [box for _, box in found], [score for score, _ in found]
    answer = Detections.from_arrays(boxes, scores, ["dog"] * len(found), image_size=(90, 60), model="drawn")
    as_boxes = (np.array(rows, dtype=np.float32).reshape(-1, 4) for rows in (truth, crowds))
    return Question(0, "dog", *as_boxes, answer)


def test_a_true_box_is_taken_once_and_by_the_surest() -> None:
    asked = question([LEFT], [], (0.4, LEFT), (0.8, (1.0, 0.0, 11.0, 10.0)), (0.3, RIGHT))
    scores, right = right_boxes([asked])
    assert sorted(zip(scores.round(2).tolist(), right.tolist(), strict=True)) == [
        (0.3, False),
        (0.4, False),
        (0.8, True),
    ]


def test_boxes_on_crowds_count_neither_way_and_absent_things_have_no_right_ones() -> None:
    assert len(right_boxes([question([], [RIGHT], (0.9, RIGHT))])[0]) == 0
    scores, right = right_boxes([question([], [], (0.9, LEFT)), question([LEFT], [])])
    assert scores.tolist() == pytest.approx([0.9]) and right.tolist() == [False]


def test_honest_scores_have_no_error_and_boastful_ones_do(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(20_000)
    honest, boastful = rng.random(20_000) < scores, rng.random(20_000) < scores / 2
    assert calibration_error(scores, honest) < 0.02
    assert calibration_error(scores, boastful) == pytest.approx(0.26, abs=0.02)
    assert log_loss(scores, honest) < log_loss(scores, boastful)
    assert len(bins(scores, honest)) == 10 and sum(count for *_, count in bins(scores, honest)) > 18_000
    draw_reliability(scores, boastful, tmp_path / "plot.png")
    assert Image.open(tmp_path / "plot.png").size > (300, 300)
