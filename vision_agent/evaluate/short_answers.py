"""Figures of short answers: presence, counts, colours and relations, asked in words and answered in words.

Presence is asked as POPE does (https://arxiv.org/abs/2305.10355): for each photo as many objects that are there as are
not, the absent ones drawn at random, among the most frequent names, and among those that most often come with what is
there. Accuracy is balanced: the mean of how often "yes" and how often "no" is right.

Colours and relations are asked of composed scenes, where they are known by rule.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import permutations
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vision_agent.agent import VisionAgent
from vision_agent.data.dataset import ImageSources
from vision_agent.data.scene import Scene
from vision_agent.data.text.question_templates import RELATION_WORDS
from vision_agent.evaluate.figures import Figure
from vision_agent.inference.colors import COLOURS
from vision_agent.inference.evidence import COUNT_WORDS, Comparison, Observation
from vision_agent.inference.nouns import plural, with_article
from vision_agent.results.box import Box

ASKED_A_PHOTO = 3  # objects there, and objects not there of each kind, a photo
ABSENT_STYLES = ("random", "popular", "adversarial")
_MOST_COUNTED = 5
_ANSWER_TOKENS = 48


def answer_figures(agent: VisionAgent, data: Path, split: str, limit: int | None = None) -> Iterable[Figure]:
    """Yield all figures of this module.

    Args:
        data: folder of the archives.
        limit: at most this many photos, and scenes.
    """
    images = ImageSources(data, split, cutouts="val")
    photos = [images.photos.scene(record, colours=False) for record in images.photo_records[:limit]]
    yield from presence_figures(agent, photos)
    yield from count_figures(agent, photos)
    scenes = [images.composed(np.random.default_rng((19, number))) for number in range(limit or 150)]
    yield from colour_figures(agent, scenes)
    yield relation_figure(agent, scenes, "composed scenes, new cut-outs of names seen in training")
    pasted = ImageSources(data, split, cutouts="train")
    scenes = [pasted.composed(np.random.default_rng((19, number))) for number in range(limit or 150)]
    yield relation_figure(agent, scenes, "composed scenes, cut-outs seen in training")


def presence_figures(agent: VisionAgent, photos: Sequence[Scene]) -> Iterator[Figure]:
    """Yield the balanced accuracy of yes and no, and the F1 of "yes".

    Over all questions, and for each way to draw absent names.
    """
    said_of_present: list[bool] = []
    said_of_absent: dict[str, list[bool]] = {style: [] for style in ABSENT_STYLES}
    absent = AbsentNames(photos)
    for number, scene in enumerate(tqdm(photos, desc="presence")):
        rng = np.random.default_rng((23, number))
        there = sorted(set(scene.names))
        rng.shuffle(there)
        said_of_present += [_says_yes(agent, name, scene) for name in there[:ASKED_A_PHOTO]]
        asked: dict[str, bool] = {}
        for style in ABSENT_STYLES:
            for name in absent.of(scene, style, len(there[:ASKED_A_PHOTO]), rng):
                asked.setdefault(name, _says_yes(agent, name, scene))
                said_of_absent[style].append(asked[name])
    hits = float(np.mean(said_of_present))
    everything = [said for style in ABSENT_STYLES for said in said_of_absent[style]]
    count = len(said_of_present) + len(everything)
    of = f"questions on {len(photos)} COCO photos"
    yield Figure(name="yes/no presence, balanced accuracy", value=_balanced(hits, everything), count=count, of=of)
    for style, said in said_of_absent.items():
        name = f"... absent names: {style}"
        yield Figure(name=name, value=_balanced(hits, said), count=len(said_of_present) + len(said), of=of)
    # As many of both, so that F1 can be read beside others' POPE figures.
    false = float(np.mean(everything))
    yield Figure(name='... F1 of "yes" at equal shares', value=2 * hits / (1 + hits + false), count=count, of=of)


def choice_figures(agent: VisionAgent, data: Path, split: str, limit: int | None = None) -> Iterable[Figure]:
    """Yield how often yes and no are right in words, under `choices`, and under a schema; and how sure they are.

    As many questions about what is there as about what is not, on the photos of a split.
    """
    images = ImageSources(data, split, cutouts="val")
    photos = [images.photos.scene(record, colours=False) for record in images.photo_records[:limit]]
    absent = AbsentNames(photos)
    said: dict[str, list[tuple[bool, float]]] = {"in words": [], "with choices": [], "with a schema": []}
    for number, scene in enumerate(tqdm(photos, desc="choices")):
        rng = np.random.default_rng((31, number))
        there = sorted(set(scene.names))
        rng.shuffle(there)
        there = there[:2]
        for name, holds in [
            *((name, True) for name in there),
            *((n, False) for n in absent.of(scene, "random", len(there), rng)),
        ]:
            question = f"is there {with_article(name)} in the picture?"
            words = agent.ask(question, scene.image, max_new_tokens=_ANSWER_TOKENS)
            chosen = agent.ask(question, scene.image, choices=["yes", "no"])
            filled = agent.ask(question, scene.image, schema={"type": "boolean"})
            said["in words"].append((yes_or_no(words.text) == holds, words.confidence))
            said["with choices"].append(((chosen.value == "yes") == holds, chosen.confidence))
            said["with a schema"].append((filled.value == holds, filled.confidence))
    for form, answers in said.items():
        right, sure = [hit for hit, _ in answers], [confidence for _, confidence in answers]
        of = f"questions on {len(photos)} COCO photos"
        yield Figure(name=f"yes/no {form}, share right", value=_mean(right), count=len(right), of=of)
        yield Figure(name="... mean confidence", value=_mean(sure), count=len(right), of=of)


def count_figures(agent: VisionAgent, photos: Sequence[Scene]) -> Iterator[Figure]:
    """Yield how often the number of up to five objects is exactly right.

    Over all questions, as the mean over the numbers, and for an answerer that always says "one".
    """
    right: dict[int, list[bool]] = {}
    for scene in tqdm(photos, desc="counts"):
        crowds = {name for _, name in scene.crowds}
        for name, number in sorted(Counter(scene.names).items()):
            if name not in crowds and number <= _MOST_COUNTED:
                said = _ask(agent, f"how many {plural(name)} are there in the picture?", scene)
                right.setdefault(number, []).append(number_in(said) == number)
    everything = [hit for hits in right.values() for hit in hits]
    count, of = len(everything), f"questions on {len(photos)} COCO photos"
    yield Figure(name="count, exact match, up to 5 objects", value=_mean(everything), count=count, of=of)
    each = [_mean(hits) for hits in right.values()]
    yield Figure(name="... mean over the numbers", value=_mean(each), count=count, of=of)
    ones = len(right.get(1, ())) / max(1, count)
    yield Figure(name='... baseline: always "one"', value=ones, count=count, of=of)


def colour_figures(agent: VisionAgent, scenes: Sequence[Scene]) -> Iterator[Figure]:
    """Yield how often the colour of the only object of its name is right: over all questions, and mean over colours."""
    right: dict[str, list[bool]] = {}
    for scene in tqdm(scenes, desc="colours"):
        for name, index in _single(scene):
            colour = scene.colours[index]
            if colour is not None:
                said = _ask(agent, f"what colour is the {name}?", scene)
                right.setdefault(colour, []).append(colour_in(said) == colour)
    everything = [hit for hits in right.values() for hit in hits]
    of = f"questions on {len(scenes)} composed scenes"
    yield Figure(
        name=f"colour of a named object, accuracy, {len(COLOURS)} colours",
        value=_mean(everything),
        count=len(everything),
        of=of,
    )
    each = [_mean(hits) for hits in right.values()]
    yield Figure(name=f"... mean over {len(right)} colours", value=_mean(each), count=len(everything), of=of)


def relation_figure(agent: VisionAgent, scenes: Sequence[Scene], kind: str = "scenes") -> Figure:
    """Return how often yes and no are right for "is the dog left of the chair?", as often true as not."""
    right: list[bool] = []
    for number, scene in enumerate(tqdm(scenes, desc="relations")):
        rng = np.random.default_rng((29, number))
        single = _single(scene)
        pairs = list(permutations(single, 2))
        for place in rng.permutation(len(pairs))[:2]:
            (first, one), (second, other) = pairs[place]
            one_seen, other_seen = (Observation(1, Box.from_xyxy(scene.boxes[index])) for index in (one, other))
            beside = Comparison.of(one_seen, other_seen, scene.image.size)
            opposites = {"left": "right", "above": "below", "right": "left", "below": "above"}
            true = [word for word in (beside.side, beside.height) if word in opposites]
            if not true:
                continue
            word = true[rng.integers(len(true))]
            holds = bool(rng.random() < 0.5)
            words = RELATION_WORDS[word if holds else opposites[word]][0]
            said = _ask(agent, f"is the {first} {words} the {second}?", scene)
            right.append(yes_or_no(said) == holds)
    of = f"questions on {len(scenes)} scenes"
    return Figure(
        name=f"relation of two objects (yes/no), accuracy, {kind}", value=_mean(right), count=len(right), of=of
    )


class AbsentNames:
    """Draws names of objects that are not in a photo, as POPE does.

    Args:
        photos: what is frequent, and what comes together, is counted in these.
    """

    def __init__(self, photos: Sequence[Scene]) -> None:
        self._often = Counter(name for scene in photos for name in set(scene.names))
        self._together: dict[str, Counter[str]] = {}
        for scene in photos:
            for name, other in permutations(set(scene.names), 2):
                self._together.setdefault(name, Counter())[other] += 1

    def of(self, scene: Scene, style: str, count: int, rng: np.random.Generator) -> list[str]:
        """Return `count` names (fewer where there are no more). `style`: "random", "popular" or "adversarial"."""
        gone = sorted(scene.known_names - set(scene.names) - {name for _, name in scene.crowds})
        if style == "random":
            return [gone[index] for index in rng.permutation(len(gone))[:count]]
        weight = self._often
        if style == "adversarial":
            weight = Counter()
            for name in set(scene.names):
                weight.update(self._together.get(name, Counter()))
        return sorted(gone, key=lambda name: (-weight[name], name))[:count]


def yes_or_no(answer: str) -> bool | None:
    """Return true for an answer that begins with yes, False with no, None for neither."""
    first = (re.findall(r"[a-z]+", answer.lower()) or [""])[0]
    return {"yes": True, "no": False}.get(first)


def number_in(answer: str) -> int | None:
    """Return the first number of an answer, in digits or words; None without one."""
    numbers = {word: number for number, word in enumerate(COUNT_WORDS)} | {"no": 0, "zero": 0}
    for word in re.findall(r"[a-z]+|\d+", answer.lower()):
        if word.isdigit():
            return int(word)
        if word in numbers:
            return numbers[word]
    return None


def colour_in(answer: str) -> str | None:
    """Return the first colour word of an answer; None without one."""
    words = re.findall(r"[a-z]+", answer.lower().replace("gray", "grey"))
    return next((word for word in words if word in COLOURS), None)


def _says_yes(agent: VisionAgent, name: str, scene: Scene) -> bool:
    return yes_or_no(_ask(agent, f"is there {with_article(name)} in the picture?", scene)) is True


def _ask(agent: VisionAgent, question: str, scene: Scene) -> str:
    return agent.ask(question, scene.image, max_new_tokens=_ANSWER_TOKENS).text


def _single(scene: Scene) -> list[tuple[str, int]]:
    """(name, index) of the objects that are the only ones of their name."""
    crowds = {name for _, name in scene.crowds}
    often = Counter(scene.names)
    return [(name, index) for index, name in enumerate(scene.names) if often[name] == 1 and name not in crowds]


def _balanced(hits: float, said_of_absent: Sequence[bool]) -> float:
    return (hits + 1 - float(np.mean(said_of_absent))) / 2


def _mean(values: Sequence[float | bool]) -> float:
    return float(np.mean(values)) if values else float("nan")
