"""Average precision by phrase: COCO, LVIS and sets of COCO's form such as those of ODinW.

Each category's name is a phrase. COCO's and ODinW's are all asked of every image; LVIS's those that its annotators
looked for in the image, since its evaluation counts no others.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from PIL import Image

from vision_agent.benchmark.benchmark_set import Benchmark, Item, Prompts, Reading, Said, file_name, write_json
from vision_agent.benchmark.scores import Score
from vision_agent.data.annotations.coco import read_json
from vision_agent.data.annotations.faults import Faults
from vision_agent.errors import InputError, bad_argument, require_extra

if TYPE_CHECKING:
    from vision_agent.agent import VisionAgent

LEAST_SCORE = 0.001
_ODINW = ("annotations_without_background.json", "_annotations.coco.json")
_MOST_OF_LVIS = 300
_DRAWS = 20
_Z = 1.96


class BoxSet(Benchmark):
    """Boxes of named categories.

    Args:
        truths: COCO's JSON by set; ODinW has several sets, all others one, named "".
    """

    names = ("coco", "lvis", "odinw")
    batch = 1

    def __init__(
        self, name: str, items: Sequence[Item], digest: str, prompts: Prompts, truths: Mapping[str, dict[str, Any]]
    ) -> None:
        super().__init__(name, items, digest, prompts)
        self._truths = truths

    @classmethod
    def read(cls, name: str, reading: Reading) -> Self:
        """Read and check its annotations."""
        require_extra("faster_coco_eval", "benchmark", "average precision is")
        split = reading.options.split or ("test" if name == "odinw" else "val")
        files = _files(name, split, reading)
        items: list[Item] = []
        truths: dict[str, dict[str, Any]] = {}
        for part, file in files.items():
            reading.add_to_digest(file)
            content = read_json(file, reading.faults)
            if _is_coco(content, file, reading.faults):
                limited = content["images"][: reading.options.limit]
                asked = {each["id"] for each in limited}
                objects = [each for each in content["annotations"] if each["image_id"] in asked]
                truths[part] = {**content, "images": limited, "annotations": objects}
                items += _items(name, part, truths[part], file, reading)
        whole = f"{name}:{split}" if name != "odinw" else name
        return cls(whole, items, reading.digest.hexdigest(), reading.options.prompts, truths)

    def ask(self, agent: "VisionAgent", items: Sequence[Item], images: Sequence[Image.Image]) -> list[Said]:
        """Return all boxes down to low scores: category, x, y, width, height, score."""
        said: list[Said] = []
        for item, image in zip(items, images, strict=True):
            phrases: dict[str, list[int]] = {}
            for number, phrase in item.truth["phrases"]:
                phrases.setdefault(phrase, []).append(number)
            found = agent.detect(list(phrases), image, threshold=LEAST_SCORE, only_known=False)
            boxes = [
                [number, box[0], box[1], box[2] - box[0], box[3] - box[1], score]
                for label, box, score in zip(found.labels, found.xyxy.tolist(), found.scores.tolist(), strict=True)
                for number in phrases[label]
            ]
            said.append({"boxes": boxes})
        return said

    def scores(self, said: Mapping[str, Said | None]) -> list[Score]:
        """AP over IoU 0.50 to 0.95, AP50 and AP75; of LVIS by how frequent categories are; of ODinW the mean."""
        scores: list[Score] = []
        for part, truth in self._truths.items():
            done = [item for item in self.items if item.group == part and item.key in said]
            if done:
                scores += self._scores_of(part, truth, [item.truth["id"] for item in done], self._results(part, said))
        whole = [score for score in scores if score.metric.startswith("AP,")]
        if len(self._truths) > 1 and whole:
            values = [score.value for score in whole]
            spread = [0.0 if score.high is None or score.low is None else score.high - score.low for score in whole]
            half = float(np.sqrt(np.sum(np.square(spread)))) / 2 / len(values)
            scores.append(self._score("mean AP of the sets", float(np.mean(values)), half, len(values), "sets"))
        return scores

    def submission(self, said: Mapping[str, Said | None], folder: Path) -> list[Path]:
        """Write COCO's results, which the servers of COCO and LVIS take; one file a set."""
        paths = []
        for part in self._truths:
            path = folder / f"{'_'.join(filter(None, [file_name(self.name), part]))}.predictions.json"
            paths.append(write_json(path, self._results(part, said)))
        return paths

    def _results(self, part: str, said: Mapping[str, Said | None]) -> list[dict[str, Any]]:
        return [
            {"image_id": item.truth["id"], "category_id": box[0], "bbox": box[1:5], "score": box[5]}
            for item in self.items
            if item.group == part
            for box in (said.get(item.key) or {"boxes": []})["boxes"]
        ]

    def _scores_of(
        self, part: str, truth: dict[str, Any], images: Sequence[int], results: list[dict[str, Any]]
    ) -> list[Score]:
        lvis = self.name.startswith("lvis")
        whole = precisions(truth, images, results, lvis)
        rng = np.random.default_rng(0)
        drawn = [
            precisions(truth, [images[place] for place in rng.integers(len(images), size=len(images))], results, lvis)
            for _ in range(_DRAWS)
        ]
        scores = []
        for metric, value in whole.items():
            some = [each[metric] for each in drawn if each.get(metric, -1) >= 0]
            half = _Z * float(np.std(some, ddof=1)) if len(some) > 1 else 0.0
            named = f"{metric}, {part}" if part else metric
            if value >= 0:
                scores.append(self._score(named, value, half, len(images), "images"))
        return scores

    def _score(self, metric: str, value: float, half: float, count: int, of: str) -> Score:
        known = count > 1 or of == "sets"
        low, high = (max(0.0, value - half), min(1.0, value + half)) if known else (None, None)
        interval = f"bootstrap, 1.96 deviations of {_DRAWS} draws"
        return Score(
            benchmark=self.name, metric=metric, value=value, low=low, high=high, interval=interval, count=count, of=of
        )


def precisions(
    truth: Mapping[str, Any], images: Sequence[int], results: Sequence[Mapping[str, Any]], lvis: bool = False
) -> dict[str, float]:
    """Return average precisions by a COCO library; -1 where there is nothing to average over.

    Args:
        truth: COCO's JSON.
        images: what is counted; an image may come several times, as in a bootstrap.
        results: COCO's results.
        lvis: by LVIS's rules: federated, 300 boxes an image.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    by_image: dict[int, list[Mapping[str, Any]]] = {}
    for each in truth["annotations"]:
        by_image.setdefault(each["image_id"], []).append(each)
    found: dict[int, list[Mapping[str, Any]]] = {}
    for each in results:
        found.setdefault(each["image_id"], []).append(each)
    listed = {each["id"]: each for each in truth["images"]}
    copied = [{**listed[image], "id": number} for number, image in enumerate(images, 1)]
    objects = [
        {"iscrowd": 0, **each, "image_id": number}
        for number, image in enumerate(images, 1)
        for each in by_image.get(image, [])
    ]
    objects = [{**each, "id": number} for number, each in enumerate(objects, 1)]
    boxes = [{**each, "image_id": number} for number, image in enumerate(images, 1) for each in found.get(image, [])]
    if not boxes or not objects:
        return {"AP": 0.0, "AP50": 0.0, "AP75": 0.0} if objects else {}
    held = COCO({"images": copied, "annotations": objects, "categories": list(truth["categories"])})
    run = COCOeval_faster(held, held.loadRes(boxes), "bbox", print_function=lambda *_: None, lvis_style=lvis)
    if lvis:
        run.params.maxDets = [_MOST_OF_LVIS]
    run.evaluate()
    run.accumulate()
    run.summarize()
    names = {"AP": 0, "AP50": 1, "AP75": 2, "AP small": 3, "AP medium": 4, "AP large": 5}
    found_of = {name: float(run.stats[place]) for name, place in names.items()}
    return {**found_of, **(_by_frequency(truth, run) if lvis else {})}


def _by_frequency(truth: Mapping[str, Any], run: Any) -> dict[str, float]:
    """LVIS's AP over the categories that are rare, common and frequent in its training part."""
    frequency = {each["id"]: each.get("frequency") for each in truth["categories"]}
    # thresholds of IoU, of recall, categories, sizes (all of them first), boxes an image
    by_category = run.eval["precision"][:, :, :, 0, -1]
    values = {}
    for letter, name in (("r", "rare"), ("c", "common"), ("f", "frequent")):
        own = [place for place, number in enumerate(run.params.catIds) if frequency[number] == letter]
        some = by_category[:, :, own]
        some = some[some > -1]
        values[f"AP {name}"] = float(some.mean()) if some.size else -1.0
    return values


def _files(name: str, split: str, reading: Reading) -> dict[str, Path]:
    """The annotation files by set."""
    path = reading.options.path
    if path.is_file():
        return {"": path}
    if name == "odinw":
        found = {
            folder.parent.relative_to(path).as_posix(): folder / file
            for file in reversed(_ODINW)
            for folder in sorted({each.parent for each in path.rglob(file)})
            if folder.name == split and (folder / file).is_file()
        }
        if found:
            return {"" if part == "." else part.replace("/", "_"): file for part, file in found.items()}
    else:
        own = ("instances_{}*.json", "image_info_{}*.json"), ("lvis_v*_{}.json", "lvis_*_{}*.json")
        patterns = own[name == "lvis"]
        for pattern in patterns:
            if files := sorted(path.rglob(pattern.format(split))) if path.is_dir() else []:
                return {"": files[0]}
    expected = {
        "coco": f"instances_{split}2017.json, or a folder with it",
        "lvis": f"lvis_v1_{split}.json, or a folder with it",
        "odinw": f"a folder with {split}/{_ODINW[0]} or {split}/{_ODINW[1]} in it or in its folders",
    }
    raise InputError(bad_argument("path", expected[name], str(path)))


def _is_coco(content: Any, file: Path, faults: Faults) -> bool:
    """Check what the evaluation rests on; each fault is told."""
    if content is None:
        return False
    parts = ("images", "annotations", "categories")
    if isinstance(content, dict) and "info" in content:
        content.setdefault("annotations", [])  # a test set, whose boxes are hidden
    if not isinstance(content, dict) or not all(isinstance(content.get(part), list) for part in parts):
        faults.add("no COCO file", file, "", f"needs lists: {', '.join(parts)}", fatal=True)
        return False
    before = len(faults.found)
    ids = {part: [each.get("id") for each in content[part] if isinstance(each, dict)] for part in parts}
    for part, listed in ids.items():
        if len(set(map(json.dumps, listed))) != len(content[part]) or None in listed:
            faults.add("ids that are missing or come twice", file, part, fatal=True)
    images, categories = set(ids["images"]), set(ids["categories"])
    for each in content["categories"]:
        if not isinstance(each, dict) or not str(each.get("name") or "").strip():
            faults.add("category without a name", file, repr(each)[:80], fatal=True)
    for each in content["annotations"]:
        place = f"annotation {each.get('id')}" if isinstance(each, dict) else repr(each)[:80]
        box = each.get("bbox") if isinstance(each, dict) else None
        if not isinstance(each, dict) or each.get("image_id") not in images:
            faults.add("unknown image id", file, place, fatal=True)
        elif each.get("category_id") not in categories:
            faults.add("unknown category id", file, place, fatal=True)
        elif not (isinstance(box, list) and len(box) == 4 and all(_is_number(side) for side in box)):
            faults.add("box of another form than x, y, width, height", file, place, repr(box), fatal=True)
        else:
            each.setdefault("area", box[2] * box[3])
    if not content["images"]:
        faults.add("empty set", file, "images", fatal=True)
    return len(faults.found) == before


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def _items(name: str, part: str, truth: dict[str, Any], file: Path, reading: Reading) -> list[Item]:
    found = reading.images(file)
    phrases = {each["id"]: _phrase(each["name"]) for each in truth["categories"]}
    there: dict[int, set[int]] = {}
    for each in truth["annotations"]:
        there.setdefault(each["image_id"], set()).add(each["category_id"])
    items = []
    for each in truth["images"]:
        named = each.get("file_name") or str(each.get("coco_url", "")).rpartition("coco.org/")[2]
        image = found.of(named, file, f"image {each['id']}")
        asked = sorted(phrases)
        if name == "lvis":
            asked = sorted((there.get(each["id"], set()) | set(each.get("neg_category_ids", []))) & set(phrases))
        if image is not None:
            pairs = [(number, phrases[number]) for number in asked]
            key = f"{part}/{each['id']}" if part else str(each["id"])
            items.append(Item(key, image, "", {"id": each["id"], "phrases": pairs}, part))
    return items


def _phrase(name: str) -> str:
    """A category's name as a phrase: "stop_sign" and "bow_(weapon)" have blanks."""
    return " ".join(name.replace("_", " ").split())
