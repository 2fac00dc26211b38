"""Figures of `agent.track`: how well objects keep their numbers, on videos whose truth is known.

    python -m vision_agent.evaluate.identities PHOTOS [--model MODEL] [--videos N] [--tracker NAME] [--save MP4]

composes videos of the photos of a folder (such as `examples/photos`), tracks objects in them, and prints a Markdown
table. A found box is right from an IoU of 0.5 on. MOTA is one minus misses, false boxes and switches, as shares of the
true boxes (CLEAR MOT); a switch is a true object that is found under another number than before. IDF1 is the F1 of
boxes under the best pairing of true objects with tracks. Objects of which little is visible count neither way.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from vision_agent.agent import VisionAgent
from vision_agent.evaluate.composed_videos import ComposedVideo, TrueBox, compose, cut_outs
from vision_agent.geometry.frames import box_iou
from vision_agent.inference.assignment import assign
from vision_agent.inference.box_tracking import TrackScores
from vision_agent.inference.object_tracker import ObjectTracker, TrackerName
from vision_agent.results.tracks import TrackedObjects, Tracks

_RIGHT = 0.5  # IoU
_LABELS = ("person", "car", "dog", "bus")


@dataclass(frozen=True)
class IdentityFigures:
    """Counts of some videos; figures follow from them."""

    true: int = 0
    found: int = 0
    right: int = 0
    switches: int = 0
    right_identity: int = 0

    def __add__(self, other: "IdentityFigures") -> "IdentityFigures":
        return IdentityFigures(*(getattr(self, each) + getattr(other, each) for each in self.__dataclass_fields__))

    @property
    def mota(self) -> float:
        """One minus misses, false boxes and switches, as shares of the true boxes."""
        return 1 - (self.true - self.right + self.found - self.right + self.switches) / max(1, self.true)

    @property
    def idf1(self) -> float:
        """F1 of boxes under the best pairing of true objects with tracks."""
        return 2 * self.right_identity / max(1, self.true + self.found)


def measure_identities(truth: Sequence[Sequence[TrueBox]], tracks: Tracks) -> IdentityFigures:
    """Compare tracks with the truth; frame k of `truth` is the frame at place k of `tracks.indices`."""
    true = found = right = switches = 0
    last: dict[int, int] = {}
    together: dict[tuple[int, int], int] = {}
    for place, there in enumerate(truth):
        objects = tracks.frame(place)
        pairs = _pairs(there, objects, last)
        ignored = {id_ for number, id_ in pairs.items() if not _by_number(there)[number].wanted}
        ignored |= _over_unwanted(there, objects, set(pairs.values()))
        true += sum(each.wanted for each in there)
        found += sum(each.id not in ignored for each in objects)
        for number, id_ in pairs.items():
            if _by_number(there)[number].wanted:
                right += 1
                together[number, id_] = together.get((number, id_), 0) + 1
                switches += last.get(number, id_) != id_
            last[number] = id_
    return IdentityFigures(true, found, right, switches, _best(together))


def _by_number(there: Sequence[TrueBox]) -> Mapping[int, TrueBox]:
    return {each.object: each for each in there}


def _overlaps(there: Sequence[TrueBox], objects: TrackedObjects) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    boxes = np.array([each.xyxy for each in there], dtype=np.float64).reshape(-1, 4)
    overlap = np.asarray(box_iou(boxes, objects.xyxy), dtype=np.float64).reshape(len(there), len(objects))
    same = np.array([[each.label == other.label for other in objects] for each in there], dtype=bool)
    return np.where(same.reshape(overlap.shape), overlap, 0.0)


def _pairs(there: Sequence[TrueBox], objects: TrackedObjects, last: Mapping[int, int]) -> dict[int, int]:
    """Numbers of the true objects, each with the id it is found under; as before, as long as that is right."""
    overlap = _overlaps(there, objects)
    gain = np.where(overlap >= _RIGHT, overlap, 0.0)
    for row, each in enumerate(there):
        for column, other in enumerate(objects):
            if gain[row, column] and last.get(each.object) == other.id:
                gain[row, column] += 1
    return {there[row].object: objects[column].id for row, column in assign(gain) if gain[row, column]}


def _over_unwanted(there: Sequence[TrueBox], objects: TrackedObjects, paired: set[int]) -> set[int]:
    """Boxes on objects of which too little is visible: they are neither right nor wrong."""
    hidden = [each for each in there if not each.wanted]
    overlap = _overlaps(hidden, objects)
    return {
        each.id for column, each in enumerate(objects) if each.id not in paired and (overlap[:, column] >= 0.3).any()
    }


def _best(together: Mapping[tuple[int, int], int]) -> int:
    rows = sorted({number for number, _ in together})
    columns = sorted({id_ for _, id_ in together})
    gain = np.zeros((len(rows), len(columns)))
    for (number, id_), count in together.items():
        gain[rows.index(number), columns.index(id_)] = count
    return int(sum(gain[row, column] for row, column in assign(gain)))


def track_composed(
    agent: VisionAgent, video: ComposedVideo, trackers: Sequence[TrackerName]
) -> dict[TrackerName, Tracks]:
    """Track the objects of a video by each tracker; its frames are looked at once."""
    scores = TrackScores.of(agent.routes.get("det"), None)
    by = {name: ObjectTracker(start_score=scores.start, mean_score=scores.mean, tracker=name) for name in trackers}
    for frame, seconds in zip(video.frames, video.seconds, strict=True):
        found = agent.detect(list(video.labels), frame, threshold=scores.weak)
        for tracker in by.values():
            tracker.update(found, seconds)
    return {name: tracker.tracks() for name, tracker in by.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--model", default="default")
    parser.add_argument("--videos", type=int, default=10)
    parser.add_argument("--seed", type=int, default=100, help="of the first video; 0 to 11 chose the settings")
    parser.add_argument("--tracker", action="append", choices=["motion", "bytetrack"])
    parser.add_argument("--save", type=Path, help="an mp4 file for the first video, drawn")
    given = parser.parse_args(arguments)
    agent = VisionAgent.from_pretrained(given.model)
    photos = sorted(each for each in given.photos.iterdir() if each.suffix.lower() in (".jpg", ".jpeg", ".png"))
    cuts = cut_outs(agent, photos, _LABELS)
    trackers: list[TrackerName] = given.tracker or ["motion"]
    sums = dict.fromkeys(trackers, IdentityFigures())
    for seed in tqdm(range(given.seed, given.seed + given.videos)):
        video = compose(cuts, photos, seed)
        for name, tracks in track_composed(agent, video, trackers).items():
            sums[name] += measure_identities(video.truth, tracks)
            if given.save is not None and seed == given.seed and name == trackers[0]:
                tracks.save(given.save, list[Image.Image](video.frames))
    print(f"{len(cuts)} cut-outs, {given.videos} videos\n")
    print("| tracker | true boxes | MOTA | IDF1 | id switches | precision | recall |\n|---|---|---|---|---|---|---|")
    for name, each in sums.items():
        shares = f"{each.right / max(1, each.found):.3f} | {each.right / max(1, each.true):.3f}"
        print(f"| {name} | {each.true} | {each.mota:.3f} | {each.idf1:.3f} | {each.switches} | {shares} |")


if __name__ == "__main__":
    main()
