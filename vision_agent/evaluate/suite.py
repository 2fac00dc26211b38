"""`vision-agent evaluate`: what a model can do on held-out images, in one table.

All images, scenes and questions follow from the split alone, so two runs measure the same.
"""

import sys
from collections.abc import Iterable
from itertools import chain, islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vision_agent.agent import VisionAgent
from vision_agent.data.dataset import ImageSources
from vision_agent.data.samples import present_phrases
from vision_agent.data.text.held_out import HELD_OUT
from vision_agent.errors import ConfigError, bad_argument
from vision_agent.evaluate.asking import ABSENT_A_PHOTO, ask, default_threshold, each, f1
from vision_agent.evaluate.average_precision import Question, average_precision
from vision_agent.evaluate.captions import caption_figures
from vision_agent.evaluate.clicks import click_figures
from vision_agent.evaluate.fields import measure
from vision_agent.evaluate.figures import Figure, Figures
from vision_agent.evaluate.generation import generation_figures
from vision_agent.evaluate.masks import mask_figures
from vision_agent.evaluate.reliability import calibration_error, right_boxes
from vision_agent.evaluate.routing import routing_figures
from vision_agent.evaluate.short_answers import AbsentNames, answer_figures, choice_figures
from vision_agent.evaluate.words import PlacedText, receipts, word_figures
from vision_agent.geometry.frames import box_iou
from vision_agent.results.detections import Detections

_LURES_A_PHOTO = 3
_PAIRS = ("red", "blue"), ("green", "red"), ("yellow", "blue"), ("purple", "green")


def evaluate_agent(
    agent: VisionAgent, data: Path, split: str = "val", limit: int | None = None, suite: str = "all"
) -> Figures:
    """Run one suite, or all of them.

    Args:
        data: folder of the archives, as for training.
        split: `"val"` or `"test"`; both are disjoint from what training sees.
        limit: at most this many images a suite.
        suite: a name of `SUITES`, or `"all"`.

    Raises:
        ConfigError: an unknown split or suite, or data that is not there.
    """
    check_evaluation(split, limit, suite)
    figures = []
    suites = SUITES.values() if suite == "all" else (SUITES[suite],)
    for figure in chain.from_iterable(run(agent, data, split, limit) for run in suites):
        tqdm.write(f"{figure.name}: {figure.value:.3f}", file=sys.stderr)  # nothing is lost if a later suite fails
        figures.append(figure)
    return Figures(model=agent.model, split=split, figures=tuple(figures))


def check_evaluation(split: str, limit: int | None, suite: str) -> None:
    """Raise ConfigError for what `evaluate_agent` does not take."""
    if suite != "all" and suite not in SUITES:
        raise ConfigError(bad_argument("suite", f"all, {', '.join(SUITES)}", suite))
    if split not in ("val", "test"):
        raise ConfigError(bad_argument("split", "'val' or 'test'", split))
    if limit is not None and limit < 1:
        raise ConfigError(bad_argument("limit", "at least 1", limit))


def _photos(agent: VisionAgent, data: Path, split: str, limit: int | None) -> Iterable[Figure]:
    """COCO photos: present names, six absent ones at random and three that fit the scene, one phrase each.

    "AP50 by questions": a phrase asked of a photo is a question; AP50 is averaged over the names, and boxes that a
    question about an absent name gets are false positives. Absent names that fit are those that stand most often with
    what is there, in the photos of the split.
    """
    images = ImageSources(data, split, cutouts="val")
    records = images.photo_records[:limit]
    lures = AbsentNames([images.photos.scene(record, colours=False) for record in images.photo_records])
    questions: list[Question] = []
    false_boxes: list[bool] = []
    fitting: list[bool] = []
    for number, record in enumerate(tqdm(records, desc="photos")):
        scene = images.photos.scene(record, colours=False)
        rng = np.random.default_rng(number)
        asked, absent = ask(agent, scene, number, rng, ABSENT_A_PHOTO)
        questions += asked
        false_boxes += absent
        names = lures.of(scene, "adversarial", _LURES_A_PHOTO, rng)
        fitting += [bool((found.scores >= default_threshold(agent)).any()) for found in each(agent, names, scene)]
    ap50, ap = average_precision(questions)
    of = f"questions (a phrase asked of a photo) on {len(records)} COCO photos"
    yield Figure(name="AP50 by questions, COCO photos", value=ap50, count=len(questions), of=of)
    yield Figure(name="AP by questions, COCO photos", value=ap, count=len(questions), of=of)
    persons = [question for question in questions if question.category == "person"]
    yield Figure(name="AP50, person", value=average_precision(persons)[0], count=len(persons), of=of)
    yield Figure(
        name="false positives: absent names that get a box (default threshold)",
        value=float(np.mean(false_boxes)),
        count=len(false_boxes),
        of="absent names on COCO photos",
    )
    yield Figure(
        name="... of absent names that fit the scene",
        value=float(np.mean(fitting)),
        count=len(fitting),
        of="names on COCO photos that stand most often with what is there",
    )
    yield Figure(name="F1 at IoU 0.5 (default threshold)", value=f1(questions, agent), count=len(questions), of=of)
    scores, right = right_boxes(questions)
    error = calibration_error(scores, right)
    yield Figure(name="expected calibration error (ECE) of scores from 0.05", value=error, count=len(questions), of=of)


def _composed(agent: VisionAgent, data: Path, split: str, limit: int | None) -> Iterable[Figure]:
    """Composed scenes on held-out backgrounds, by how new the pasted objects are."""
    kinds = (
        ("train", "composed scenes, cut-outs seen in training"),
        ("val", "composed scenes, new cut-outs of names seen in training"),
        ("unseen", "composed scenes, names whose cut-outs were never seen in training"),
    )
    count = limit or 200
    for cutouts, title in kinds:
        images = ImageSources(data, split, cutouts=cutouts)
        questions: list[Question] = []
        for number in tqdm(range(count), desc=cutouts):
            rng = np.random.default_rng((7, number))
            asked, _ = ask(agent, images.composed(rng), number, rng, 2, pooled=True)
            questions += asked
        ap50, _ = average_precision(questions)
        yield Figure(name=f"AP50, {title}", value=ap50, count=len(questions), of=f"questions on {count} scenes")


def _pairs(agent: VisionAgent, data: Path, split: str, limit: int | None) -> Iterable[Figure]:
    """Two objects of a kind in two colours: the box with the highest score must be the one of the asked colour."""
    images = ImageSources(data, split, cutouts="train")
    right: list[bool] = []
    number = 0
    while len(right) < 2 * (limit or 150):
        rng = np.random.default_rng((11, number))
        colours = _PAIRS[number % len(_PAIRS)]
        scene = images.copy_paste.pair(images.background(rng), colours, rng)
        number += 1
        if sorted(map(str, scene.colours)) != sorted(colours):
            continue  # hidden, or the paint did not take
        for colour, result in zip(
            colours, each(agent, [f"{colour} {scene.names[0]}" for colour in colours], scene), strict=True
        ):
            truth = scene.boxes[[str(c) == colour for c in scene.colours]]
            best = result.xyxy[result.scores.argmax()][None] if result else np.zeros((1, 4), dtype=np.float32)
            right.append(bool(np.array(box_iou(best, truth)).max() >= 0.5))
    yield Figure(
        name=f"colour pairs ({', '.join('/'.join(pair) for pair in _PAIRS)}): accuracy",
        value=float(np.mean(right)),
        count=len(right),
        of="phrases",
    )


def _generated(agent: VisionAgent, data: Path, split: str, limit: int | None) -> Iterable[Figure]:
    """What generated routes find, asked for in wordings never trained, beside forced ones."""
    images = ImageSources(data, split, cutouts="val")
    generated: list[Question] = []
    forced: list[Question] = []
    for number, record in enumerate(tqdm(images.photo_records[: limit or 60], desc="generated")):
        scene = images.photos.scene(record, colours=False)
        present = present_phrases(scene)
        if not present:
            continue
        rng = np.random.default_rng((13, number))
        target = present[rng.integers(len(present))]
        wording = HELD_OUT["det"][number % len(HELD_OUT["det"])]
        answer = agent.run(wording.request.format(target.phrase), scene.image, routes=["det"])
        empty = Detections.empty(scene.image.size, agent.model)
        routed = (answer.routes[0].detections if answer.routes else None) or empty
        truth = scene.boxes[list(target.owned)]
        crowds = np.array(target.ignored, dtype=np.float32).reshape(-1, 4)
        generated.append(Question(number, target.phrase, truth, crowds, routed))
        forced.append(Question(number, target.phrase, truth, crowds, agent.detect(target.phrase, scene.image)))
    yield Figure(name="F1, route forced", value=f1(forced, agent, 0), count=len(forced), of="requests")
    yield Figure(name="F1, route generated", value=f1(generated, agent, 0), count=len(generated), of="requests")


def _drawn(agent: VisionAgent, data: Path, split: str, limit: int | None) -> Iterable[Figure]:
    """Images of a fixed list of prompts; they need no data."""
    yield from generation_figures(agent, limit=limit)


def _read(agent: VisionAgent, data: Path, split: str, limit: int | None) -> Iterable[Figure]:
    """Words and fields of receipts, of shops that nothing was chosen by. Whether they are right does not depend on the
    split: no receipt is trained on."""
    if "ocr" not in agent.routes:
        return
    count = limit or 60
    pages = []
    for page in tqdm(islice(receipts(data / "receipts_900.zip", half=1), count), total=count, desc="words"):
        read = agent.ocr(page.image)
        found = [PlacedText(line.text, line.box.xyxy) for line in read.lines]
        pages.append((found, page.lines))
    words = word_figures(pages, ignore_case=True)
    of = f"words of {len(pages)} receipts"
    yield Figure(name="OCR words: recall", value=words.recall, count=words.words, of=of)
    yield Figure(name="... precision", value=words.precision, count=words.words, of=of)
    yield Figure(name="... character error rate (CER)", value=words.character_errors, count=words.words, of=of)
    for field, shares in measure(data, "report", limit=count).items():
        documents = int(shares["documents"])
        yield Figure(name=f"extraction accuracy: {field}", value=shares["right"], count=documents, of="receipts")


SUITES = {
    "photos": _photos,
    "scenes": _composed,
    "colours": _pairs,
    "generated": _generated,
    "routing": routing_figures,
    "answers": answer_figures,
    "choices": choice_figures,
    "captions": caption_figures,
    "masks": mask_figures,
    "clicks": click_figures,
    "drawing": _drawn,
    "documents": _read,
}
