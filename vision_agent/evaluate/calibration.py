"""Fits how a `[DET]` route scores its boxes, and the thresholds for showing, believing and counting them.

All is chosen on validation photos. The thresholds differ: `detect` may show a doubtful box, a "no" needs that nothing
at all is likely, a question about an object's colour assumes that the object is there, and a number is right only
where no object has two boxes. Before that, the scores themselves get the weight of a region's prominence that ranks
boxes best, and the temperature at which they are calibrated best as probabilities.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vision_agent.agent import VisionAgent
from vision_agent.data.dataset import ImageSources
from vision_agent.data.scene import Scene
from vision_agent.errors import ConfigError, bad_argument
from vision_agent.evaluate.asking import ABSENT_A_PHOTO, LOW, ask, asked_of, each, f1, question
from vision_agent.evaluate.average_precision import Question, average_precision
from vision_agent.evaluate.reliability import log_loss, right_boxes
from vision_agent.evaluate.short_answers import ABSENT_STYLES, ASKED_A_PHOTO, AbsentNames
from vision_agent.inference.nouns import plural
from vision_agent.plugins.decoder import Decoder
from vision_agent.results.detections import Detections

_PROMINENCES = (0.0, 0.15, 0.3, 0.45)
_QUALITIES = (0.0, 0.25, 0.5)  # of a decoder that says how well its boxes fit
_TEMPERATURES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0)
_CANDIDATES = tuple(round(0.05 + 0.01 * step, 2) for step in range(80))
_MOST_FALSE = 0.10  # share of absent phrases that may get a box at the default threshold
_MOST_COUNTED = 5
_GRANTED = 0.7  # of the questions about an object's colour or place are taken to be about one that is there


@dataclass(frozen=True)
class ScoreSettings:
    """Settings of a decoder: what makes its scores, and least scores.

    Attributes:
        prominence, quality: weights of how much a box looks like any object, and of how well it fits: best AP by
            questions, over all overlaps, because they tell how well boxes fit.
        temperature: least log loss of the surest boxes' scores as probabilities that the box is right.
        threshold: of the boxes that `detect` gives: best F1. Scores at which more than a tenth of the absent phrases
            get a box are left out: an agent that sees objects which are not there is worse than one that misses some.
        presence: of the best box, for a "yes": best balanced accuracy over objects that are there and objects that are
            not (random, frequent, and likely ones, see `evaluate.short_answers`).
        maybe: of the best box, for an answer with a doubt to a question that names an object: best accuracy where seven
            of ten such objects are there; at most `presence`.
        counted: of the boxes that are counted: best share of exact numbers, each number up to five weighing the same.
    """

    prominence: float
    quality: float
    temperature: float
    threshold: float
    presence: float
    maybe: float
    counted: float


def best_settings(agent: VisionAgent, data: Path, limit: int | None = None) -> ScoreSettings:
    """Return what suits a model, measured on the validation photos. The agent's decoder keeps the fitted scores.

    Args:
        data: folder of the archives.
        limit: at most this many photos.

    Raises:
        ConfigError: a limit below 1, or data that is not there.
        MissingExtraError: the extra `train` is not installed.
    """
    if limit is not None and limit < 1:
        raise ConfigError(bad_argument("limit", "at least 1", limit))
    average_precision([])  # a missing extra is said now, not after minutes
    questions: list[Question] = []
    counted: list[tuple[int, Detections]] = []
    photos = held_out_photos(data)[:limit]
    weights, temperature = _best_scores(agent, photos)
    agent.routes["det"].decoder.settings.update(weights, temperature=temperature)
    there, not_there = _surest_of_names(agent, photos)
    for number, scene in enumerate(tqdm(photos, desc="thresholds")):
        asked, _ = ask(agent, scene, number, np.random.default_rng(number), ABSENT_A_PHOTO)
        questions += asked
        crowds = {name for _, name in scene.crowds}
        numbers = {name: number for name, number in Counter(scene.names).items() if name not in crowds}
        found = each(agent, list(map(plural, numbers)), scene)
        counted += zip(numbers.values(), found, strict=True)
    absent = np.array([question.found.scores.max(initial=0.0) for question in questions if not len(question.truth)])
    quiet = [least for least in _CANDIDATES if np.mean(absent >= least) <= _MOST_FALSE]
    quality = {least: f1(questions, agent, least) for least in quiet or _CANDIDATES[-1:]}
    presence = _best(lambda least: float(np.mean(there >= least) + np.mean(not_there < least)))
    maybe = _best(lambda least: float(_GRANTED * np.mean(there >= least) + (1 - _GRANTED) * np.mean(not_there < least)))
    return ScoreSettings(
        **weights,
        temperature=temperature,
        threshold=max(quality, key=lambda least: quality[least]),
        presence=presence,
        maybe=min(maybe, presence),
        counted=_best_for_numbers(counted),
    )


def held_out_photos(data: Path) -> list[Scene]:
    """Return the validation photos, with all that people marked."""
    images = ImageSources(data, "val", cutouts="val")
    return [images.photos.scene(record, colours=False) for record in images.photo_records]


def _best(quality: Callable[[float], float]) -> float:
    return max(_CANDIDATES, key=quality)


def _best_scores(agent: VisionAgent, photos: Sequence[Scene]) -> tuple[dict[str, float], float]:
    """The weights of prominence and quality, and then the temperature, which changes no order.

    The temperature is fitted to the surest box of each question: what people see of an answer first.
    """
    decoder = agent.routes["det"].decoder
    decoder.settings["temperature"] = 1.0
    qualities = _QUALITIES if decoder.settings.get("refined") else _QUALITIES[:1]
    tried = [{"prominence": weight, "quality": quality} for weight in _PROMINENCES for quality in qualities]
    asked: list[list[Question]] = [[] for _ in tried]
    for number, scene in enumerate(tqdm(photos, desc="scores")):
        targets, _ = asked_of(scene, np.random.default_rng(number), ABSENT_A_PHOTO)
        phrases = list(dict.fromkeys(target.phrase for target in targets))
        if not phrases:
            continue
        with _recorded(decoder) as calls:
            agent.detect(phrases, scene.image, threshold=LOW)
        for weights, questions in zip(tried, asked, strict=True):
            decoder.settings.update(weights)
            found = decoder.decode(*calls[0])
            questions += [question(t, number, scene, found.filter(label=t.phrase), t.phrase) for t in targets]
    best = max(range(len(tried)), key=lambda place: average_precision(asked[place])[1])
    found = [right_boxes([each]) for each in asked[best]]
    scores = np.concatenate([scores[:1] for scores, _ in found]).clip(1e-6, 1 - 1e-6)
    right = np.concatenate([right[:1] for _, right in found])
    logits = np.log(scores / (1 - scores))
    losses = {each: log_loss(1 / (1 + np.exp(-logits / each)), right) for each in _TEMPERATURES}
    return tried[best], min(losses, key=lambda each: losses[each])


@contextmanager
def _recorded(decoder: Decoder) -> Iterator[list[tuple[Any, ...]]]:
    """Keep what the decoder is given meanwhile, so that it can be decoded again with other settings."""
    calls: list[tuple[Any, ...]] = []
    decode = decoder.decode

    def recording(*given: Any) -> Any:
        calls.append(given)
        return decode(*given)

    decoder.decode = cast(Any, recording)  # type: ignore[method-assign]
    try:
        yield calls
    finally:
        del decoder.decode


def _surest_of_names(agent: VisionAgent, photos: Sequence[Scene]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Best scores of objects that are in the photos, and of as many of each kind that are not."""
    absent = AbsentNames(photos)
    there: list[float] = []
    not_there: list[float] = []
    for number, scene in enumerate(tqdm(photos, desc="presence")):
        rng = np.random.default_rng((23, number))
        present = sorted(set(scene.names))
        rng.shuffle(present)
        present = present[:ASKED_A_PHOTO]
        missing = [name for style in ABSENT_STYLES for name in absent.of(scene, style, len(present), rng)]
        names = [*present, *missing]
        scores = [float(found.scores.max(initial=0.0)) for found in each(agent, names, scene)]
        there += scores[: len(present)]
        not_there += scores[len(present) :]
    return np.array(there), np.array(not_there)


def _best_for_numbers(counted: Sequence[tuple[int, Detections]]) -> float:
    """Most objects are one of their kind, so the plain share would be best by never counting further."""
    return _best(lambda least: _exact(counted, least))


def _exact(counted: Sequence[tuple[int, Detections]], least: float) -> float:
    """How often a number of up to five is right, as the mean over the numbers.

    What is asked for is there, so the least number is one.
    """
    right: dict[int, list[bool]] = {}
    for number, found in counted:
        if number <= _MOST_COUNTED:
            right.setdefault(number, []).append(max(1, int((found.scores >= least).sum())) == number)
    return float(np.mean([np.mean(hits) for hits in right.values()])) if right else 0.0
