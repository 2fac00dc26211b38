"""Asks a model for the objects of annotated scenes, phrase by phrase, and compares its boxes with theirs."""

import numpy as np

from vision_agent.agent import VisionAgent
from vision_agent.data.samples import absent_phrases, present_phrases
from vision_agent.data.scene import Scene
from vision_agent.data.text.dialogue import PhraseTarget
from vision_agent.evaluate.average_precision import Question
from vision_agent.geometry.frames import box_iou
from vision_agent.results.detections import Detections

ABSENT_A_PHOTO = 6
LOW = 0.01  # scores down to here count for average precision


def ask(
    agent: VisionAgent, scene: Scene, number: int, rng: np.random.Generator, absent_count: int, pooled: bool = False
) -> tuple[list[Question], list[bool]]:
    """Ask for every present name and some absent ones of a scene; also return whether each absent one got a box."""
    targets, present = asked_of(scene, rng, absent_count)
    threshold = default_threshold(agent)
    questions = [
        question(target, number, scene, found, "object" if pooled else target.phrase)
        for target, found in zip(targets, each(agent, [t.phrase for t in targets], scene), strict=True)
    ]
    return questions, [bool((q.found.scores >= threshold).any()) for q in questions[present:]]


def asked_of(scene: Scene, rng: np.random.Generator, absent_count: int) -> tuple[list[PhraseTarget], int]:
    """Return every present name and some absent ones of a scene, and how many are present."""
    present = present_phrases(scene)
    absent = [p for p in absent_phrases(scene, rng, absent_count) if p.phrase in scene.known_names]
    return [*present, *absent], len(present)


def question(target: PhraseTarget, number: int, scene: Scene, found: Detections, category: str) -> Question:
    """Return what a scene says of a phrase, beside what was found."""
    return Question(
        image=number,
        category=category,
        truth=scene.boxes[list(target.owned)],
        crowds=np.array(target.ignored, dtype=np.float32).reshape(-1, 4),
        found=found,
    )


def each(agent: VisionAgent, asked: list[str], scene: Scene) -> list[Detections]:
    """Return one result a phrase, down to low scores. Phrases do not influence each other, so all are asked at once.

    Words that the model was not taught are asked as well: what it makes of them is measured, too.
    """
    if not asked:
        return []
    found = agent.detect(list(dict.fromkeys(asked)), scene.image, threshold=LOW, only_known=False)
    return [found.filter(label=phrase) for phrase in asked]


def default_threshold(agent: VisionAgent) -> float:
    """Return least score of the boxes that `detect` gives."""
    return float(agent.routes["det"].decoder.settings["threshold"])


def f1(questions: list[Question], agent: VisionAgent, threshold: float | None = None) -> float:
    """Return the F1 of boxes at or above the threshold, matched greedily at IoU 0.5."""
    least = default_threshold(agent) if threshold is None else threshold
    hits = boxes = truths = 0
    for question in questions:
        found = question.found.xyxy[question.found.scores >= least]
        boxes, truths = boxes + len(found), truths + len(question.truth)
        overlap = np.array(box_iou(found, question.truth))
        while overlap.size and overlap.max() >= 0.5:
            row, column = np.unravel_index(overlap.argmax(), overlap.shape)
            overlap[row], overlap[:, column] = 0, 0
            hits += 1
    return 2 * hits / max(1, boxes + truths)
