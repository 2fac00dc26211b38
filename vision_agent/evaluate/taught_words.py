"""Finds the words that a `[DET]` route knows: what it was taught, and what it turns out to find.

Taught are the names that have boxes in training, with their synonyms and the words around them. A text model may know
others: the nouns of captions are tried, too. A word is known where its best box tells the photos whose captions say it
from those whose captions do not.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vision_agent.agent import VisionAgent
from vision_agent.data.dataset import ImageSources
from vision_agent.data.scene import Scene
from vision_agent.data.text import phrases
from vision_agent.evaluate.asking import each
from vision_agent.inference.colors import COLOURS
from vision_agent.inference.evidence import COUNT_WORDS, PLACES
from vision_agent.routing.known_words import KnownWords, split_words

# Words of phrases that name nothing.
_GENERAL = (
    "a an the this that these those all each every any some many few several both other another one ones it its "
    "my your his her our their me you him them and or not no without with of in on at by for from to into onto out off "
    "beside beneath underneath near close atop within "
    "up down over under between among around across through along against inside outside is are being has having "
    "who which whose what where there here left right top bottom upper lower middle center centre front back side "
    "corner edge nearest closest farthest largest smallest biggest tallest leftmost rightmost first second third last "
    "thing things object objects item items something anything kind kinds type types color colour colored coloured "
    "photo picture image scene background foreground gray"
)
NONSENSE = ("asdfgh", "hello", "qwerty", "blorp", "xyzzy", "flurbish", "zzzz", "wibble", "lorem", "gronk vat")
_MOST_TRIED = 80  # words, those that captions say most often
_LEAST_SAID = 6  # photos of which a caption says a word that is tried
_AT_ONCE = 20  # words in one pass, whose attention grows with the square of their number
_LEAST_TOLD = 0.8  # area under the curve: how often a photo with the word outranks one without


def taught_words(data: Path, split: str = "train") -> KnownWords:
    """Return the words that have boxes in training, and those around them.

    Args:
        data: folder of the training archives.

    Raises:
        ConfigError: data that is not there.
    """
    images = ImageSources(data, split)
    names = {*images.photos.names.values(), *images.animals.names.values(), *images.copy_paste.names, *phrases.KINDS}
    names |= {other for name in names for other in phrases.callable_as(name)}
    modifiers = {*_GENERAL.split(), *COLOURS, *COUNT_WORDS, *PLACES, *phrases.LOOKS, *phrases.RELATIONS}
    return _listed(names, {word for text in modifiers for word in split_words(text)})


def tried_words(agent: VisionAgent, data: Path, known: KnownWords, limit: int | None = None) -> dict[str, float]:
    """Return nouns of captions that are not known, and how well the best box of each tells where it is said.

    Args:
        data: folder of the archives; the validation photos are looked at.
        limit: at most this many photos.
    """
    images = ImageSources(data, "val", cutouts="val")
    photos = [images.photos.scene(record, colours=False) for record in images.photo_records[:limit]]
    said = [{word for caption in scene.captions for word in split_words(caption)} for scene in photos]
    often = Counter(word for words in said for word in words)
    tried = [
        word
        for word, count in sorted(often.items(), key=lambda item: (-item[1], item[0]))
        if _LEAST_SAID <= count <= len(photos) // 2 and re.fullmatch("[a-z]{3,}", word) and known.unknown(word)
    ][:_MOST_TRIED]
    scores: list[list[float]] = []
    for scene in tqdm(photos, desc="words"):
        some = (tried[first : first + _AT_ONCE] for first in range(0, len(tried), _AT_ONCE))
        scores.append([float(found.scores.max(initial=0.0)) for words in some for found in each(agent, words, scene)])
    told = np.array(scores)
    return {
        word: area_under_curve(told[:, column], np.array([word in words for words in said]))
        for column, word in enumerate(tried)
    }


def with_words(known: KnownWords, tried: Mapping[str, float]) -> KnownWords:
    """Return the words that are taught, and of those that were tried the ones that a model turns out to know."""
    return _listed({*known.names, *(word for word, area in tried.items() if area >= _LEAST_TOLD)}, known.modifiers)


def area_under_curve(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Return how often a positive outranks a negative, ties as a half (Mann and Whitney); 0.5 without any of either."""
    above, below = scores[positive], scores[~positive]
    if not len(above) or not len(below):
        return 0.5
    return float(np.mean((above[:, None] > below) + 0.5 * (above[:, None] == below)))


def share_with_boxes(agent: VisionAgent, photos: Sequence[Scene], asked: Sequence[str]) -> float:
    """Return the share of phrases and photos that get a box by default."""
    hits = [len(found) > 0 for scene in photos for found in (agent.detect(word, scene.image) for word in asked)]
    return float(np.mean(hits)) if hits else 0.0


def _listed(names: Iterable[str], modifiers: Iterable[str]) -> KnownWords:
    plain = {re.sub(r"\s*\(.*?\)", "", name) for name in names}
    return KnownWords(names=tuple(sorted(plain)), modifiers=tuple(sorted(set(modifiers))))
