"""How true captions are, and how near to what people wrote.

True: of the kinds of objects that a caption names, those that are in the photo, and of those in the photo, the ones
named: precision and recall over COCO's 80 names, as CHAIR counts them (https://arxiv.org/abs/1809.02156; its CHAIR_i is
1 - precision). Near: BLEU-4 and chrF of sacrebleu, without case.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path

from sacrebleu import corpus_bleu, corpus_chrf
from tqdm import tqdm

from vision_agent.agent import VisionAgent
from vision_agent.data.scene import Scene
from vision_agent.data.sources import CocoPhotos
from vision_agent.data.text.phrases import callable_as
from vision_agent.evaluate.figures import Figure
from vision_agent.inference.abilities import CaptionAbility
from vision_agent.inference.nouns import plural
from vision_agent.inference.object_caption import told_of

_PHOTOS = 100
_LEASTS = tuple(round(0.3 + 0.02 * step, 2) for step in range(34))
_RIGHT = 0.87  # of the names said; on other photos a few points less may come true
# What people in captions are called.
_ALSO = {"person": ("man", "woman", "boy", "girl", "child", "player", "rider", "lady", "guy")}


def caption_figures(agent: VisionAgent, data: Path, split: str, limit: int | None = None) -> Iterable[Figure]:
    """Yield figures of short captions of COCO photos, compared with five human ones a photo.

    Args:
        data: folder of the archives.
        limit: at most this many photos; 100 by default.
    """
    photos = CocoPhotos(data, "coco_train_448")
    records = photos.images(split)[: limit or _PHOTOS]
    scenes = (photos.scene(record, colours=False) for record in records)
    yield from scored(agent, [scene for scene in scenes if scene.captions])


def scored(agent: VisionAgent, scenes: Sequence[Scene]) -> Iterable[Figure]:
    """Caption scenes and compare with what is in them, and with their captions; all figures are of 1."""
    said = [agent.caption(scene.image, length="short").text.lower() for scene in tqdm(scenes, desc="captions")]
    # One list for the first captions of all photos, one for the second, ...; None where a photo has fewer.
    references = [list(column) for column in zip_longest(*([text.lower() for text in s.captions] for s in scenes))]
    yield from _truth(said, scenes)
    of = f"captions of {len(scenes)} COCO photos"
    bleu, chrf = corpus_bleu(said, references, lowercase=True), corpus_chrf(said, references)
    yield Figure(name="captions: BLEU-4", value=bleu.score / 100, count=len(said), of=of)
    yield Figure(name="... chrF", value=chrf.score / 100, count=len(said), of=of)


def best_captions(agent: VisionAgent, ability: CaptionAbility, photos: Sequence[Scene]) -> CaptionAbility:
    """Return the ability with the lowest score at which captions name what is there, on photos where all is marked.

    Where no score makes as many names right as it should, the one that makes most so.
    """
    truth = [_there(scene) for scene in photos]
    found = [agent.detect(ability.names, scene.image, threshold=_LEASTS[0]) for scene in tqdm(photos, desc="captions")]
    shares: dict[CaptionAbility, float] = {}
    for least in _LEASTS:
        tried = ability.model_copy(update={"least": least, "more": min(least, ability.more)})
        named = [set(told_of(each, tried).labels) for each in found]
        right = sum(len(own & there) for own, there in zip(named, truth, strict=True))
        shares[tried] = right / max(1, sum(map(len, named)))
    return next(
        (tried for tried, share in shares.items() if share >= _RIGHT), max(shares, key=lambda each: shares[each])
    )


def _there(scene: Scene) -> frozenset[str]:
    """What may be named. A crowd is there, though nobody drew its members."""
    return (frozenset(scene.names) & scene.known_names) | {name for _, name in scene.crowds}


def _truth(said: Sequence[str], scenes: Sequence[Scene]) -> Iterable[Figure]:
    names = sorted(set().union(*(scene.known_names for scene in scenes)))
    named = [named_objects(text, names) for text in said]
    there = [frozenset(scene.names) & scene.known_names for scene in scenes]
    right = sum(len(own & _there(scene)) for own, scene in zip(named, scenes, strict=True))
    of_named, of_there = sum(map(len, named)), sum(map(len, there))
    found = sum(len(own & true) for own, true in zip(named, there, strict=True))
    what = f"in captions of {len(scenes)} COCO photos"
    yield Figure(
        name="captions: objects named that are there",
        value=right / max(1, of_named),
        count=of_named,
        of=f"names {what}",
    )
    yield Figure(
        name="... objects there that are named",
        value=found / max(1, of_there),
        count=of_there,
        of=f"kinds of objects {what}",
    )


def named_objects(text: str, names: Sequence[str]) -> frozenset[str]:
    """Return which of the names a text says, in the singular, the plural, or by a synonym; the longest words first.

    "A hot dog" names no dog, and "a teddy bear" no bear.
    """
    words = {form: name for name in names for form in _forms(name)}
    longest_first = sorted(words, key=len, reverse=True)
    said = re.findall(rf"\b({'|'.join(map(re.escape, longest_first))})\b", text.lower())
    return frozenset(words[form] for form in said)


def _forms(name: str) -> set[str]:
    own = {name, *callable_as(name), *_ALSO.get(name, ())}
    return own | set(map(plural, own))
