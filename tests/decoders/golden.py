"""What the shipped model finds in the example photos. Run as a program it writes `golden.json` anew."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

from vision_agent import VisionAgent

FILE = Path(__file__).with_name("golden.json")
PHOTOS = Path(__file__).parents[2] / "examples" / "photos"

PHRASES = ["person", "dog", "cat", "car", "frisbee", "chair", "bus", "horse"]
DETECTED = ("000000139872", "000000140203", "000000142472", "000000148719", "000000160012", "000000177015")
SEGMENTED = {
    # phrases, a box, clicks
    "000000139872": (["dog", "frisbee"], [[60.0, 40, 420, 300]], [[320.0, 240], [60, 400]]),
}


def found(agent: VisionAgent, photo: str, least: float) -> list[dict[str, Any]]:
    """Boxes of an image, with scores of at least `least`."""
    result = agent.detect(PHRASES, PHOTOS / f"{photo}.jpg", threshold=least)
    return [
        {"label": each.label, "score": round(each.score, 4), "box": [round(side, 2) for side in each.box.xyxy]}
        for each in result
    ]


def segmented(agent: VisionAgent, photo: str, way: str) -> list[dict[str, Any]]:
    """Masks of an image by phrases, boxes or points."""
    phrases, boxes, points = SEGMENTED[photo]
    image = PHOTOS / f"{photo}.jpg"
    if way == "phrases":
        result = agent.segment(phrases, image)
    elif way == "boxes":
        result = agent.segment(image=image, boxes=boxes)
    else:
        result = agent.segment(image=image, points=points)
    return [
        {"label": each.label, "score": round(each.score, 4), "size": list(each.mask.size), "counts": each.mask.counts}
        for each in result
    ]


def main() -> None:
    """Write what the model finds now."""
    agent = VisionAgent()
    least = _apart([each["score"] for photo in DETECTED for each in found(agent, photo, 0.2)])
    golden = {
        "least": least,
        "detections": {photo: found(agent, photo, least) for photo in DETECTED},
        "masks": {
            photo: {way: segmented(agent, photo, way) for way in ("phrases", "boxes", "points")} for photo in SEGMENTED
        },
    }
    FILE.write_text(json.dumps(golden, indent=1) + "\n", "utf-8")


def _apart(scores: list[float]) -> float:
    """A threshold near 0.3 with no score close to it, which another processor could put on its other side."""
    near = sorted({0.25, 0.4, *(score for score in scores if 0.25 < score < 0.4)})
    low, high = max(pairwise(near), key=lambda pair: pair[1] - pair[0])
    return round((low + high) / 2, 3)


if __name__ == "__main__":
    main()
