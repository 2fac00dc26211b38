"""`vision-agent evaluate`: what a model can do on held-out pictures, in one table.

All pictures, scenes and questions follow from the split alone, so two runs measure the same.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict
from tqdm import tqdm

from vision_agent.agent import VisionAgent
from vision_agent.errors import ConfigError, bad_argument
from vision_agent.evaluate.average_precision import Question, average_precision
from vision_agent.results import Detections
from vision_agent.train import phrases as words
from vision_agent.train.mix import Pictures
from vision_agent.train.samples import absent_phrases, present_phrases
from vision_agent.train.scene import Scene

_ABSENT_A_PHOTO = 6
_MOST_FALSE = 0.10  # share of absent phrases that may get a box at the default threshold
_LEVEL = 0.97  # of the best F1: as good as level
_LOW = 0.01  # scores down to here count for average precision
_PAIRS = ("red", "blue"), ("green", "red"), ("yellow", "blue"), ("purple", "green")


class Figure(BaseModel):
    """One measured number: what, over how many of what."""

    model_config = ConfigDict(frozen=True)

    name: str
    value: float
    count: int
    of: str


class Figures(BaseModel):
    """All figures of one evaluation."""

    model_config = ConfigDict(frozen=True)

    model: str
    split: str
    figures: tuple[Figure, ...]

    def to_markdown(self) -> str:
        lines = ["| figure | value | measured over |", "|---|---|---|"]
        lines += [f"| {figure.name} | {figure.value:.3f} | {figure.count} {figure.of} |" for figure in self.figures]
        return "\n".join(lines)


def evaluate_agent(agent: VisionAgent, data: Path, split: str = "val", limit: int | None = None) -> Figures:
    """Run all suites.

    Args:
        data: folder of the archives, as for training.
        split: `"val"` or `"test"`; both are disjoint from what training sees.
        limit: at most this many pictures a suite.

    Raises:
        ConfigError: an unknown split, or data that is not there.
    """
    if split not in ("val", "test"):
        raise ConfigError(bad_argument("split", "'val' or 'test'", split))
    if limit is not None and limit < 1:
        raise ConfigError(bad_argument("limit", "at least 1", limit))
    figures = [
        *_photos(agent, data, split, limit),
        *_composed(agent, data, split, limit or 200),
        *_pairs(agent, data, split, limit or 150),
        *_routing(agent, data, split, limit or 60),
    ]
    return Figures(model=agent.model, split=split, figures=tuple(figures))


def _photos(agent: VisionAgent, data: Path, split: str, limit: int | None) -> Iterable[Figure]:
    """COCO photos: present names and six absent ones, one phrase each."""
    pictures = Pictures(data, split, cutouts="val")
    records = pictures.photo_records[:limit]
    questions: list[Question] = []
    false_boxes: list[bool] = []
    for number, record in enumerate(tqdm(records, desc="photos")):
        scene = pictures.photos.scene(record, colours=False)
        rng = np.random.default_rng(number)
        asked, absent = _ask(agent, scene, number, rng, _ABSENT_A_PHOTO)
        questions += asked
        false_boxes += absent
    ap50, ap = average_precision(questions)
    of = f"questions on {len(records)} COCO photos"
    yield Figure(name="AP50 by questions, COCO photos", value=ap50, count=len(questions), of=of)
    yield Figure(name="AP by questions, COCO photos", value=ap, count=len(questions), of=of)
    yield Figure(
        name="absent phrases answered with a box (default threshold)",
        value=float(np.mean(false_boxes)),
        count=len(false_boxes),
        of="absent names on COCO photos",
    )
    yield Figure(name="F1 at IoU 0.5 (default threshold)", value=_f1(questions, agent), count=len(questions), of=of)


def _composed(agent: VisionAgent, data: Path, split: str, count: int) -> Iterable[Figure]:
    """Composed scenes on held-out backgrounds, by how new the pasted things are."""
    kinds = (
        ("train", "composed scenes, things pasted in training"),
        ("val", "composed scenes, new pictures of names pasted in training"),
        ("unseen", "composed scenes, names never pasted in training"),
    )
    for cutouts, title in kinds:
        pictures = Pictures(data, split, cutouts=cutouts)
        questions: list[Question] = []
        for number in tqdm(range(count), desc=cutouts):
            rng = np.random.default_rng((7, number))
            asked, _ = _ask(agent, pictures.composed(rng), number, rng, 2, pooled=True)
            questions += asked
        ap50, _ = average_precision(questions)
        yield Figure(name=f"AP50, {title}", value=ap50, count=len(questions), of=f"questions on {count} scenes")


def _pairs(agent: VisionAgent, data: Path, split: str, count: int) -> Iterable[Figure]:
    """Two of a kind in two colours: the best box must be the one of the asked colour."""
    pictures = Pictures(data, split, cutouts="train")
    right: list[bool] = []
    number = 0
    while len(right) < 2 * count:
        rng = np.random.default_rng((11, number))
        colours = _PAIRS[number % len(_PAIRS)]
        scene = pictures.maker.twins(pictures.background(rng), colours, rng)
        number += 1
        if sorted(map(str, scene.colours)) != sorted(colours):
            continue  # hidden, or the paint did not take
        for colour, result in zip(
            colours, _each(agent, [f"{colour} {scene.names[0]}" for colour in colours], scene), strict=True
        ):
            truth = scene.boxes[[str(c) == colour for c in scene.colours]]
            best = result.xyxy[result.scores.argmax()][None] if result else np.zeros((1, 4), dtype=np.float32)
            right.append(bool(_iou(best, truth).max() >= 0.5))
    yield Figure(
        name=f"colour pairs ({', '.join('/'.join(pair) for pair in _PAIRS)}): asked one found",
        value=float(np.mean(right)),
        count=len(right),
        of="phrases",
    )


def _routing(agent: VisionAgent, data: Path, split: str, count: int) -> Iterable[Figure]:
    """Free routing with wordings never trained, and what generated routes find beside forced ones."""
    pictures = Pictures(data, split, cutouts="val")
    to_boxes: list[bool] = []
    copied: list[bool] = []
    to_text: list[bool] = []
    generated: list[Question] = []
    forced: list[Question] = []
    for number, record in enumerate(tqdm(pictures.photo_records[:count], desc="routing")):
        scene = pictures.photos.scene(record, colours=False)
        present = present_phrases(scene)
        if not present:
            continue
        rng = np.random.default_rng((13, number))
        target = present[rng.integers(len(present))]
        wording = words.HELD_OUT_WHERE[number % len(words.HELD_OUT_WHERE)]
        answer = agent.run(wording.format(target.phrase), scene.image)
        to_boxes.append(bool(answer.routes))
        copied.append(bool(answer.routes) and answer.routes[0].phrase == target.phrase)
        empty = Detections.empty(scene.image.size, agent.model)
        routed = (answer.routes[0].detections if answer.routes else None) or empty
        truth = scene.boxes[list(target.owned)]
        crowds = np.array(target.ignored, dtype=np.float32).reshape(-1, 4)
        generated.append(Question(number, target.phrase, truth, crowds, routed))
        forced.append(Question(number, target.phrase, truth, crowds, agent.detect(target.phrase, scene.image)))
        plain = words.HELD_OUT_TEXT[number % len(words.HELD_OUT_TEXT)]
        to_text.append(not agent.run(plain.format(target.phrase), scene.image).routes)
    of = "requests in wordings never trained"
    yield Figure(name="place requests routed to boxes", value=float(np.mean(to_boxes)), count=len(to_boxes), of=of)
    yield Figure(name="... with the phrase copied exactly", value=float(np.mean(copied)), count=len(copied), of=of)
    yield Figure(name="plain questions answered in text", value=float(np.mean(to_text)), count=len(to_text), of=of)
    yield Figure(
        name="F1, route forced (teacher-forced)", value=_f1(forced, agent, 0), count=len(forced), of="requests"
    )
    yield Figure(name="F1, route generated", value=_f1(generated, agent, 0), count=len(generated), of="requests")


def _ask(
    agent: VisionAgent, scene: Scene, number: int, rng: np.random.Generator, absent_count: int, pooled: bool = False
) -> tuple[list[Question], list[bool]]:
    """Every present name and some absent ones of a scene; also whether each absent one got a box by default."""
    present = present_phrases(scene)
    absent = [p for p in absent_phrases(scene, rng, absent_count) if p.phrase in scene.known_names]
    threshold = _default_threshold(agent)
    targets = [*present, *absent]
    questions = [
        Question(
            picture=number,
            category="thing" if pooled else target.phrase,
            truth=scene.boxes[list(target.owned)],
            crowds=np.array(target.ignored, dtype=np.float32).reshape(-1, 4),
            found=found,
        )
        for target, found in zip(targets, _each(agent, [t.phrase for t in targets], scene), strict=True)
    ]
    return questions, [bool((q.found.scores >= threshold).any()) for q in questions[len(present) :]]


def _each(agent: VisionAgent, asked: list[str], scene: Scene) -> list[Detections]:
    """One result a phrase, down to low scores. Phrases do not influence each other, so they are asked at once."""
    if not asked:
        return []
    found = agent.detect(asked, scene.image, threshold=_LOW)
    return [found.filter(label=phrase) for phrase in asked]


def _default_threshold(agent: VisionAgent) -> float:
    return float(agent.routes["det"].decoder.settings["threshold"])


def _f1(questions: list[Question], agent: VisionAgent, threshold: float | None = None) -> float:
    """F1 of boxes at or above the threshold, matched greedily at IoU 0.5."""
    least = _default_threshold(agent) if threshold is None else threshold
    hits = boxes = truths = 0
    for question in questions:
        found = question.found.xyxy[question.found.scores >= least]
        boxes, truths = boxes + len(found), truths + len(question.truth)
        overlap = _iou(found, question.truth)
        while overlap.size and overlap.max() >= 0.5:
            row, column = np.unravel_index(overlap.argmax(), overlap.shape)
            overlap[row], overlap[:, column] = 0, 0
            hits += 1
    return 2 * hits / max(1, boxes + truths)


def best_threshold(agent: VisionAgent, data: Path, split: str = "val", limit: int | None = None) -> float:
    """The default threshold for a model: by F1 over all questions on the split's photos.

    Scores at which more than a tenth of the absent phrases get a box are left out: an agent that sees things which are
    not there is worse than one that misses some. Where F1 is as good as level, the lowest score is taken, which misses
    fewest.
    """
    pictures = Pictures(data, split, cutouts="val")
    questions: list[Question] = []
    for number, record in enumerate(tqdm(pictures.photo_records[:limit], desc="threshold")):
        scene = pictures.photos.scene(record, colours=False)
        questions += _ask(agent, scene, number, np.random.default_rng(number), _ABSENT_A_PHOTO)[0]
    absent = [question.found.scores.max(initial=0.0) for question in questions if not len(question.truth)]
    candidates = [round(0.05 + 0.01 * step, 2) for step in range(80)]
    quiet = [least for least in candidates if np.mean(np.array(absent) >= least) <= _MOST_FALSE]
    quality = {least: _f1(questions, agent, least) for least in quiet or candidates[-1:]}
    best = max(quality.values())
    return min(least for least, value in quality.items() if value >= _LEVEL * best)


def _iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    from vision_agent.geometry import box_iou

    return np.array(box_iou(first, second))
