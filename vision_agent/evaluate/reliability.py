"""Whether scores mean what they say: of the boxes with a score of 0.6, six in ten should be right.

A box is right where it takes a true box of its phrase (IoU of at least 0.5, surest first); others are wrong. The
figure is the expected calibration error (https://arxiv.org/abs/1706.04599) over ten bins of scores, as for detections
(https://arxiv.org/abs/2004.13546).

    python -m vision_agent.evaluate.reliability FOLDER OUT.png [--model default] [--split test]

draws it for a model on the COCO photos of a split.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vision_agent.data.sources import CocoPhotos
from vision_agent.errors import require_extra
from vision_agent.evaluate.asking import ABSENT_A_PHOTO, ask
from vision_agent.evaluate.average_precision import Question
from vision_agent.evaluate.command import read_command
from vision_agent.geometry.frames import box_iou

_BINS = 10
_LEAST_SCORE = 0.05  # of the boxes that are looked at: below are hundreds of thousands that nobody sees


def right_boxes(questions: Sequence[Question]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return scores (n,) of all boxes but those on crowds, and whether each is right (n,); best of a question first."""
    scores: list[float] = []
    right: list[bool] = []
    for question in questions:
        boxes, truth = question.found.xyxy, question.truth
        overlap = np.array(box_iou(boxes, truth)).reshape(len(boxes), len(truth))
        crowded = np.array(box_iou(boxes, question.crowds)).reshape(len(boxes), len(question.crowds))
        on_crowd = crowded.max(axis=1, initial=0.0) >= 0.5
        for place in np.argsort(-question.found.scores, kind="stable"):
            best = int(overlap[place].argmax()) if len(truth) else -1
            hit = best >= 0 and bool(overlap[place, best] >= 0.5)
            if hit:
                overlap[:, best] = 0
            if hit or not on_crowd[place]:
                scores.append(float(question.found.scores[place]))
                right.append(hit)
    return np.array(scores), np.array(right, dtype=bool)


def log_loss(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Return mean negative log likelihood of what is right; scores of 0 and 1 are moved inwards by 1e-6."""
    inside = scores.clip(1e-6, 1 - 1e-6)
    return float(-np.mean(np.where(right, np.log(inside), np.log(1 - inside)))) if len(scores) else 0.0


def bins(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> list[tuple[float, float, int]]:
    """Return (mean score, share that is right, how many) of each tenth of the scores from 0 to 1 that has boxes."""
    place = np.minimum((scores * _BINS).astype(int), _BINS - 1)
    inside = [(place == number) & (scores >= _LEAST_SCORE) for number in range(_BINS)]
    return [(float(scores[of].mean()), float(right[of].mean()), int(of.sum())) for of in inside if of.any()]


def calibration_error(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Return the mean distance between score and share that is right, over boxes with scores of at least 0.05."""
    found = bins(scores, right)
    boxes = sum(count for *_, count in found)
    return sum(abs(score - share) * count for score, share, count in found) / max(1, boxes)


def draw_reliability(scores: NDArray[np.float64], right: NDArray[np.bool_], path: Path) -> None:
    """Draw `bins`: dots on the diagonal are calibrated scores; their area grows with the number of boxes."""
    require_extra("matplotlib", "train", "plots are")
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    said, share, count = (np.array(column) for column in zip(*bins(scores, right), strict=True))
    figure, axes = plt.subplots(figsize=(4, 4))
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    axes.scatter(said, share, s=12 + 300 * count / count.max(), alpha=0.6)
    for x, y, boxes in zip(said, share, count, strict=True):
        axes.annotate(f"{boxes}", (x, y), textcoords="offset points", xytext=(6, 4), fontsize=7)
    axes.set(xlabel="score", ylabel="share of boxes that are right", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Draw the reliability of a model's scores."""
    command = read_command("Draw how often boxes of each score are right.")
    photos = CocoPhotos(command.folder, "coco_train_448")
    questions: list[Question] = []
    for number, record in enumerate(tqdm(photos.images(command.split))):
        scene = photos.scene(record, colours=False)
        questions += ask(command.agent, scene, number, np.random.default_rng(number), ABSENT_A_PHOTO)[0]
    draw_reliability(*right_boxes(questions), command.out)


if __name__ == "__main__":
    main()
