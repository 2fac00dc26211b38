"""What `detect(..., verify=True)` gains: precision and recall of boxes, with and without the second look.

    python -m vision_agent.evaluate.verifying FOLDER [--split test] [--scenes N] [--photos N]

prints a Markdown table, on composed scenes (cut-outs that were not trained on) and on COCO photos of a split that
training never sees. Every name that is there and four that are not are asked for; a box is right from an IoU of 0.5 on,
and boxes on what nobody marked one by one count neither way.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vision_agent.agent import VisionAgent
from vision_agent.data.dataset import ImageSources
from vision_agent.data.scene import Scene
from vision_agent.data.text.dialogue import PhraseTarget
from vision_agent.evaluate.asking import asked_of
from vision_agent.geometry.frames import box_iou
from vision_agent.results.detections import Detections

_ABSENT = 4


def right_boxes_of(found: Detections, target: PhraseTarget, scene: Scene) -> tuple[int, int]:
    """Return how many boxes of a phrase are right, and how many count."""
    boxes, truth = found.xyxy[np.argsort(-found.scores)], scene.boxes[list(target.owned)]
    overlap = np.asarray(box_iou(boxes, truth)).reshape(len(boxes), len(truth))
    crowds = np.array(target.ignored, dtype=np.float32).reshape(-1, 4)
    unmarked = np.asarray(box_iou(boxes, crowds)).reshape(len(boxes), len(crowds))
    right, counted, taken = 0, 0, set[int]()
    for row in range(len(boxes)):
        free = [place for place in range(len(truth)) if place not in taken and overlap[row, place] >= 0.5]
        if free:
            taken.add(max(free, key=lambda place: float(overlap[row, place])))
            right += 1
        counted += bool(free) or not (unmarked[row] > 0.3).any()
    return right, counted


def scenes_of(data: Path, split: str, kind: str, count: int) -> Iterator[tuple[Scene, np.random.Generator]]:
    """Yield composed scenes or photos, each with the generator that chooses the absent names."""
    images = ImageSources(data, split, cutouts="val")
    for number in range(count):
        rng = np.random.default_rng((31, number))
        if kind == "photos":
            yield images.photos.scene(images.photo_records[number], colours=False), rng
        else:
            yield images.composed(rng), rng


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", choices=["val", "test"], default="test")
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--photos", type=int, default=60)
    parser.add_argument("--model", default="default")
    given = parser.parse_args(arguments)
    agent = VisionAgent.from_pretrained(given.model)
    print("| on | boxes wanted | verify | precision | recall |\n|---|---|---|---|---|")
    for kind, count in (("composed scenes", given.scenes), ("photos", given.photos)):
        wanted, sums = 0, {False: np.zeros(2), True: np.zeros(2)}
        for scene, rng in tqdm(scenes_of(given.data, given.split, kind, count), total=count, desc=kind):
            targets, _ = asked_of(scene, rng, _ABSENT)
            asked = list(dict.fromkeys(target.phrase for target in targets))
            wanted += sum(len(target.owned) for target in targets)
            for verify in sums if asked else ():
                found = agent.detect(asked, scene.image, only_known=False, verify=verify)
                for target in targets:
                    sums[verify] += right_boxes_of(found.filter(label=target.phrase), target, scene)
        for verify, (right, counted) in sums.items():
            shares = f"{right / max(1, counted):.3f} | {right / max(1, wanted):.3f}"
            print(f"| {count} {kind} | {wanted} | {'yes' if verify else 'no'} | {shares} |", flush=True)


if __name__ == "__main__":
    main()
