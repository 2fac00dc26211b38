"""Average precision by a COCO library (faster-coco-eval), over questions: a phrase asked of an image."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vision_agent.errors import MissingExtraError
from vision_agent.results.detections import Detections


@dataclass(frozen=True)
class Question:
    """A phrase asked of an image, its truth and what came back.

    Attributes:
        image: number of the image.
        category: what precision is averaged over; one category pools all questions.
        truth: (n, 4) xyxy pixels; empty for an absent object.
        crowds: (m, 4) regions in which boxes count neither way.
        found: the result, down to very low scores.
    """

    image: int
    category: str
    truth: NDArray[np.float32]
    crowds: NDArray[np.float32]
    found: Detections


def average_precision(questions: Sequence[Question]) -> tuple[float, float]:
    """Return (AP50, AP over IoU 0.50 to 0.95), averaged over categories that have a true box.

    Boxes that a question about an absent object returns are false positives of its category.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise MissingExtraError('evaluation needs: pip install "internvl-vision-agent[train]"') from error
    categories = {name: number for number, name in enumerate(sorted({q.category for q in questions}), 1)}
    # One COCO "image" for each image and category: pooled questions of one image must not share their boxes.
    annotations: list[dict[str, object]] = []
    results: list[dict[str, object]] = []
    for number, question in enumerate(questions, 1):
        category = categories[question.category]
        for boxes, crowd in ((question.truth, 0), (question.crowds, 1)):
            for x0, y0, x1, y1 in boxes.tolist():
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": category,
                        "bbox": [x0, y0, x1 - x0, y1 - y0],
                        "area": (x1 - x0) * (y1 - y0),
                        "iscrowd": crowd,
                    }
                )
        for box, score in zip(question.found.xyxy.tolist(), question.found.scores.tolist(), strict=True):
            x0, y0, x1, y1 = box
            results.append(
                {
                    "image_id": number,
                    "category_id": category,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "score": score,
                }
            )
    if not results or not annotations:
        return 0.0, 0.0
    truth = COCO(
        {
            "images": [{"id": number, "width": 1, "height": 1} for number in range(1, len(questions) + 1)],
            "categories": [{"id": number, "name": name} for name, number in categories.items()],
            "annotations": annotations,
        }
    )
    evaluation = COCOeval_faster(truth, truth.loadRes(results), "bbox", print_function=lambda *_: None)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return float(evaluation.stats[1]), float(evaluation.stats[0])
