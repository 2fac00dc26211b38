"""Referring expressions: RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO, by boxes and by masks.

Read from the published `refs(unc).p` with `instances.json`, from gRefCOCO's JSON, or from InternVL's JSON Lines.
"""

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from PIL import Image

from vision_agent.benchmark.benchmark_set import Benchmark, Item, Reading, Said, file_name, write_json
from vision_agent.benchmark.found_images import FoundImages
from vision_agent.benchmark.published_rows import Row, read_rows
from vision_agent.benchmark.scores import Score, mean, quotient, share
from vision_agent.data.annotations.coco import read_json
from vision_agent.data.annotations.faults import Faults
from vision_agent.errors import InputError, bad_argument, require_extra
from vision_agent.geometry.rle import RunLengths, mask_union
from vision_agent.model.restricted_pickle import read_pickle

if TYPE_CHECKING:
    from vision_agent.agent import VisionAgent

OFFICIAL = "Please provide the bounding box coordinate of the region this sentence describes: <ref>{}</ref>"
_NUMBERS = re.compile(r"\[*\[(.*?),(.*?),(.*?),(.*?)\]\]*")
_SPLITS = ("val", "testA", "testB", "test", "train")
_FOUND = 0.5
_AUTHORS = {"refcoco": ("unc", "google"), "refcoco+": ("unc",), "refcocog": ("umd", "google")}
_ANSWER_TOKENS = 100


class Referring(Benchmark):
    """Expressions, each of which means one object of its image; in gRefCOCO several or none."""

    kind: ClassVar[str]

    @classmethod
    def read(cls, name: str, reading: Reading) -> Self:
        """Read and check the expressions of a split."""
        split = reading.options.split or "val"
        if split not in _SPLITS:
            raise InputError(bad_argument("split", f"{name}: one of {', '.join(_SPLITS)}", split))
        base = name.removesuffix("-masks")
        patterns = [f"refs({author}).p" for author in _AUTHORS.get(base, ())]
        path = reading.options.path
        named = path.is_file() and path.suffix == ".p"
        file = path if named else reading.files(*patterns, "grefs(unc).json", f"{base}_{split}.jsonl")[0]
        reading.add_to_digest(file)
        if file.suffix == ".jsonl":
            items = list(islice(_from_lines(file, reading, cls.kind), reading.options.limit))
        else:
            items = list(islice(_from_refs(file, split, reading, cls.kind), reading.options.limit))
        if not items and not reading.faults.found:
            reading.faults.add("no expression of this split", file, split, fatal=True)
        return cls(f"{name}:{split}", items, reading.digest.hexdigest(), reading.options.prompts)

    @abstractmethod
    def scores(self, said: Mapping[str, Said | None]) -> list[Score]:
        """Return the figures."""


class ReferringBoxes(Referring):
    """The box of an expression. By the `[DET]` route, and without one as InternVL's own evaluation reads its text."""

    names = ("refcoco", "refcoco+", "refcocog")
    kind = "bbox"

    def ask(self, agent: "VisionAgent", items: Sequence[Item], images: Sequence[Image.Image]) -> list[Said]:
        """Return the best box of each expression, or what the model wrote."""
        if "det" not in agent.routes:
            questions = [OFFICIAL.format(item.text) for item in items]
            answers = agent.ask(questions, list(images), max_new_tokens=_ANSWER_TOKENS)
            return [{"answer": answer.text.strip()} for answer in answers]
        said: list[Said] = []
        for item, image in zip(items, images, strict=True):
            found = agent.detect(item.text, image, threshold=0.0, only_known=False)
            best = found.xyxy[found.scores.argmax()].tolist() if len(found) else None
            said.append({"box": best})
        return said

    def scores(self, said: Mapping[str, Said | None]) -> list[Score]:
        """Box accuracy at an IoU of one half, and the mean IoU."""
        items = [item for item in self.items if item.key in said]
        if not items:
            return []
        ious = [_box_iou(_box_of(said[item.key], item), item.truth["bbox"]) for item in items]
        images = [item.image_key for item in items]
        return [
            share(self.name, "box accuracy at IoU 0.5", [iou >= _FOUND for iou in ious], "expressions"),
            mean(self.name, "mean box IoU", ious, images, "expressions"),
        ]

    def submission(self, said: Mapping[str, Said | None], folder: Path) -> list[Path]:
        """Write what InternVL's script writes: answer, gt_bbox, hw."""
        rows = []
        for item in self.items:
            if item.key in said:
                height, width = item.truth["hw"]
                box = _box_of(said[item.key], item)
                thousandths = [round(1000 * side / (height if place % 2 else width)) for place, side in enumerate(box)]
                answer = (said[item.key] or {}).get("answer", f"<ref>{item.text}</ref><box>[{thousandths}]</box>")
                rows.append({"answer": answer, "gt_bbox": item.truth["bbox"], "hw": [height, width]})
        return [write_json(folder / f"{file_name(self.name)}.predictions.json", rows)]


class ReferringMasks(Referring):
    """The mask of an expression; of gRefCOCO's the union of all that it means, which may be nothing."""

    names = ("refcoco-masks", "refcoco+-masks", "refcocog-masks", "grefcoco")
    kind = "mask"
    route = "seg"

    def ask(self, agent: "VisionAgent", items: Sequence[Item], images: Sequence[Image.Image]) -> list[Said]:
        """Return the best mask of each expression; of gRefCOCO's all masks that `segment` gives, as one."""
        said: list[Said] = []
        for item, image in zip(items, images, strict=True):
            several = self.name.startswith("grefcoco")
            threshold = None if several else 0.0
            found = agent.segment(item.text, image, threshold=threshold, only_known=False)
            masks = [each.mask.runs for each in found]
            if not several and masks:
                masks = [masks[int(np.argmax(found.scores))]]
            empty = RunLengths.from_mask(np.zeros((image.height, image.width), dtype=bool))
            said.append({"size": [image.height, image.width], "counts": mask_union([empty, *masks]).text})
        return said

    def scores(self, said: Mapping[str, Said | None]) -> list[Score]:
        """cIoU: all that is shared over all that is covered. gIoU: the mean of IoU, 1 for nothing where nothing is."""
        items = [item for item in self.items if item.key in said]
        if not items:
            return []
        sums = [_shared_and_covered(said[item.key], item) for item in items]
        images = [item.image_key for item in items]
        ious = [shared / covered if covered else 1.0 for shared, covered in sums]
        covered = sum(row[1] for row in sums)
        ciou = sum(row[0] for row in sums) / covered if covered else 0.0
        scores = [
            quotient(self.name, "cIoU", ciou, sums, images, "expressions"),
            mean(self.name, "gIoU", ious, images, "expressions"),
        ]
        empty = [not _runs(item.truth["mask"]).area for item in items]
        if any(empty):
            right = [not _said_runs(said[item.key], item).area for item, none in zip(items, empty, strict=True) if none]
            scores.append(share(self.name, "nothing found where nothing is meant", right, "expressions"))
        return scores

    def submission(self, said: Mapping[str, Said | None], folder: Path) -> list[Path]:
        """Write the masks as COCO's run lengths, one an expression."""
        rows = [
            {"id": item.key, "sent": item.text, "segmentation": said[item.key]}
            for item in self.items
            if item.key in said
        ]
        return [write_json(folder / f"{file_name(self.name)}.predictions.json", rows)]


def written_box(answer: str, size: tuple[int, int]) -> list[float]:
    """Return the first box of InternVL's text in pixels of (width, height), as its evaluation reads it.

    Numbers of 0-1000, or of 0-1 where they sum to less than 4. All zeros where there is none.
    """
    first = _NUMBERS.findall(answer)[:1]
    try:
        box = np.array([float(side) for side in first[0]] if first else [0.0] * 4, dtype=np.float32)
    except ValueError:
        box = np.zeros(4, dtype=np.float32)
    if box.sum() >= 4:
        box = box / np.float32(1000)
    sides = np.array([size[0], size[1]] * 2, dtype=np.float32)
    return [float(side) for side in box * sides]


def _box_of(said: Said | None, item: Item) -> list[float]:
    height, width = item.truth["hw"]
    if said is None:
        return [0.0] * 4
    if "answer" in said:
        return written_box(str(said["answer"]), (width, height))
    return [0.0] * 4 if said["box"] is None else [float(side) for side in said["box"]]


def _box_iou(a: Sequence[float], b: Sequence[float]) -> float:
    """In float32, as the reference has it, so that the same boxes are at the border of one half."""
    first, second = np.array(a, dtype=np.float32), np.array(b, dtype=np.float32)
    zero = np.float32(0)
    wide, high = (max(zero, min(first[side + 2], second[side + 2]) - max(first[side], second[side])) for side in (0, 1))
    shared = wide * high
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    union = areas[0] + areas[1] - shared
    iou = float(shared / union) if union else 0.0
    return iou if np.isfinite(iou) else 0.0


def _runs(held: Mapping[str, Any]) -> RunLengths:
    return RunLengths.from_text(held["counts"], (held["size"][0], held["size"][1]))


def _said_runs(said: Said | None, item: Item) -> RunLengths:
    if said is None:
        return RunLengths.from_mask(np.zeros(item.truth["mask"]["size"], dtype=bool))
    return _runs(said)


def _shared_and_covered(said: Said | None, item: Item) -> tuple[float, float]:
    mine, true = _said_runs(said, item), _runs(item.truth["mask"])
    covered = mask_union([mine, true]).area
    return float(mine.area + true.area - covered), float(covered)


def _from_lines(file: Path, reading: Reading, kind: str) -> Any:
    """InternVL's lines: image, sent, bbox (xyxy), width, height."""
    if kind == "mask":
        raise InputError(bad_argument("path", "a folder with refs(unc).p and instances.json, for masks", str(file)))
    found = reading.images(file)
    for number, row in enumerate(read_rows(file, reading.faults)):
        place = f"line {number + 1}"
        box, sides = row.get("bbox"), (row.get("height"), row.get("width"))
        if not _is_box(box) or not all(isinstance(side, int) and side > 0 for side in sides):
            reading.faults.add("expression without a box or a size", file, place, repr(row)[:120], fatal=True)
            continue
        image = found.of(row.get("image"), file, place)
        if image is not None:
            yield Item(str(number), image, str(row.get("sent", "")), {"bbox": box, "hw": sides})


def _from_refs(file: Path, split: str, reading: Reading, kind: str) -> Any:
    """`refs(unc).p` and `instances.json` beside it; gRefCOCO's references mean any number of objects."""
    if kind == "mask":
        require_extra("faster_coco_eval", "benchmark", "drawing COCO's outlines is")
    instances = next((path for path in (file.parent / "instances.json",) if path.is_file()), None)
    if instances is None:
        raise InputError(bad_argument("path", "instances.json beside the references", str(file.parent)))
    reading.add_to_digest(instances)
    content = read_json(instances, reading.faults)
    if not isinstance(content, dict):
        return
    images = {each["id"]: each for each in content.get("images", [])}
    objects = {each["id"]: each for each in content.get("annotations", [])}
    found = reading.images(file)
    for ref in _references(file, reading.faults):
        if ref.get("split") == split:
            yield from _items_of(ref, images, objects, found, file, reading.faults, kind)


def _references(file: Path, faults: Faults) -> list[Row]:
    if file.suffix == ".json":
        return read_rows(file, faults)
    try:
        with open(file, "rb") as stream:
            held = read_pickle(stream, arrays=False)
    except (OSError, ValueError) as error:
        faults.add("references that cannot be read", file, "", error, fatal=True)
        return []
    rows = held if isinstance(held, list) else []
    return [row for row in rows if isinstance(row, dict)]


def _items_of(
    ref: Row,
    images: Mapping[Any, Any],
    objects: Mapping[Any, Any],
    found: FoundImages,
    file: Path,
    faults: Faults,
    kind: str,
) -> Any:
    place = f"reference {ref.get('ref_id')}"
    ids = ref.get("ann_id")
    meant = [each for each in (ids if isinstance(ids, list) else [ids]) if each != -1]
    listed = images.get(ref.get("image_id"))
    if listed is None or any(each not in objects for each in meant):
        faults.add("reference to an unknown image or object", file, place, f"{ref.get('image_id')}, {ids}", fatal=True)
        return
    if kind == "bbox" and not (len(meant) == 1 and _is_box(objects[meant[0]].get("bbox"))):
        faults.add("reference without a box", file, place, fatal=True)
        return
    image = found.of(listed.get("file_name"), file, place)
    if image is None:
        return
    size = (int(listed["height"]), int(listed["width"]))
    truth: dict[str, Any] = {"hw": size}
    if kind == "bbox":
        x, y, width, height = objects[meant[0]]["bbox"]
        truth["bbox"] = [x, y, x + width, y + height]
    else:
        truth["mask"] = _outline([objects[each] for each in meant], size)
    for sentence in ref.get("sentences", []):
        key = f"{ref.get('ref_id')}/{sentence.get('sent_id')}"
        yield Item(key, image, str(sentence.get("sent", "")), truth)


def _outline(objects: Sequence[Row], size: tuple[int, int]) -> dict[str, Any]:
    """The pixels of objects, drawn as COCO draws outlines."""
    from faster_coco_eval.core import mask as coco_masks

    parts = [RunLengths.from_mask(np.zeros(size, dtype=bool))]
    for each in objects:
        held = each["segmentation"]
        if isinstance(held, list):
            drawn = coco_masks.merge(coco_masks.frPyObjects(held, *size))
        elif isinstance(held.get("counts"), list):
            drawn = coco_masks.frPyObjects(held, *size)
        else:
            drawn = held
        counts = drawn["counts"]
        parts.append(RunLengths.from_text(counts.decode() if isinstance(counts, bytes) else counts, size))
    return {"size": list(size), "counts": mask_union(parts).text}


def _is_box(box: Any) -> bool:
    return isinstance(box, list | tuple) and len(box) == 4 and all(isinstance(side, int | float) for side in box)
