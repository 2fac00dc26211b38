"""From an annotated scene to what the model is trained on: forced phrases with their boxes, questions with answers.

A sample's text is a tree (see `routing`): the image is the root, every conversation hangs off it, and the forced
phrases hang side by side off one shared prompt. So one pass over an image trains a dozen phrases and answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from vision_agent.data.scene import ANYTHING, Scene
from vision_agent.data.text import phrases as words
from vision_agent.data.text import request_templates as requests
from vision_agent.data.text.dialogue import Exchange, PhraseTarget
from vision_agent.data.text.evidence_questions import scene_question
from vision_agent.data.text.language_mix import routed
from vision_agent.inference.colors import COLOURS
from vision_agent.inference.nouns import plural
from vision_agent.plugins.decoder import BoxTargets


@dataclass(frozen=True)
class Sample:
    """A training image, its phrases and its exchanges.

    Attributes:
        pixels: (S, S, 3) uint8, resized to the model's tile.
        boxes: (G, 4) true boxes, frame "unit".
        scale: (w, h, w, h) of the scene in pixels, to bring ignored boxes into the frame "unit".
    """

    pixels: torch.Tensor
    boxes: NDArray[np.float32]
    scale: NDArray[np.float32]
    phrases: tuple[PhraseTarget, ...]
    exchanges: tuple[Exchange, ...]


def make_sample(
    scene: Scene, side: int, rng: np.random.Generator, most_phrases: int = 14, jitter: bool = True
) -> Sample:
    """Ask a scene: what is there, by several names and colours, and what is not."""
    image = jittered(scene.image, rng) if jitter else scene.image
    pixels = np.array(image.resize((side, side), Image.Resampling.BILINEAR))
    scale = np.array([*scene.image.size, *scene.image.size], dtype=np.float32)
    present = present_phrases(scene, rng)
    colours = colour_phrases(scene, rng)
    absent = absent_phrases(scene, rng, max(3, most_phrases - len(present)))
    rng.shuffle(present)
    rng.shuffle(colours)
    asked = (present[:8] + colours[:6] + absent)[:most_phrases]
    return Sample(
        pixels=torch.from_numpy(pixels),
        boxes=scene.boxes / scale,
        scale=scale,
        phrases=tuple(asked),
        exchanges=tuple(exchanges(scene, present, colours, absent, rng)),
    )


def box_targets(sample: Sample, asked: Sequence[PhraseTarget]) -> BoxTargets:
    """Return the true boxes of a sample, and which of the phrases names which."""
    belongs = np.zeros((len(asked), len(sample.boxes)), dtype=bool)
    ignored: list[NDArray[np.float32]] = []
    ignored_phrase: list[int] = []
    for index, target in enumerate(asked):
        belongs[index, list(target.owned)] = True
        ignored += [box / sample.scale for box in target.ignored]
        ignored_phrase += [index] * len(target.ignored)
    return BoxTargets(
        boxes_G4=torch.from_numpy(np.asarray(sample.boxes, dtype=np.float32)).reshape(-1, 4),
        belongs_KG=torch.from_numpy(belongs),
        ignored_M4=torch.from_numpy(np.array(ignored, dtype=np.float32).reshape(-1, 4)),
        ignored_phrase_M=torch.tensor(ignored_phrase, dtype=torch.long),
    )


def present_phrases(scene: Scene, rng: np.random.Generator | None = None) -> list[PhraseTarget]:
    """Return one phrase for each name in the scene, plus kinds. With `rng`, sometimes by a synonym or in the plural."""
    phrases = []
    for name in sorted(set(scene.names) - {ANYTHING}):
        owned = tuple(index for index, other in enumerate(scene.names) if other == name)
        called = name
        if rng is not None and rng.random() < 0.3:
            choices = (*words.callable_as(name), plural(name))
            called = choices[rng.integers(len(choices))]
        phrases.append(PhraseTarget(called, owned, _regions(scene, {name})))
    if rng is None:
        return phrases
    for kind, members in words.KINDS.items():
        owned = tuple(index for index, name in enumerate(scene.names) if name in members)
        if owned and set(members) <= scene.known_names and rng.random() < 0.4:
            phrases.append(PhraseTarget(kind, owned, _regions(scene, set(members))))
    return phrases


def colour_phrases(scene: Scene, rng: np.random.Generator) -> list[PhraseTarget]:
    """Return phrases for objects of known colour: the right colour, and a wrong one of the same object."""
    phrases = []
    everywhere = {str(colour) for colour in scene.colours if colour}
    for name in sorted(set(scene.names)):
        mine = [index for index, other in enumerate(scene.names) if other == name]
        known = {scene.colours[index] for index in mine} - {None}
        if not known:
            continue
        unsure = tuple(scene.boxes[index] for index in mine if scene.colours[index] is None)
        ignored = (*unsure, *_regions(scene, {name}))
        for colour in sorted(str(colour) for colour in known):
            owned = tuple(index for index in mine if scene.colours[index] == colour)
            phrases.append(PhraseTarget(f"{colour} {name}", owned, ignored))
        # A colour that something else here has tells whether both words were read.
        wrong = sorted(everywhere - known)
        if not wrong or rng.random() < 0.3:
            wrong = [colour for colour in COLOURS if colour not in known]
        phrases.append(PhraseTarget(f"{wrong[rng.integers(len(wrong))]} {name}", (), ignored))
    return phrases


def absent_phrases(scene: Scene, rng: np.random.Generator, count: int) -> list[PhraseTarget]:
    """Return names that are certainly not in the scene; one in ten is asked for with a colour."""
    gone = set(scene.names) | {name for _, name in scene.crowds}
    pool = sorted(scene.known_names - gone)
    if not pool:
        return []
    picked = [pool[index] for index in rng.choice(len(pool), min(count, len(pool)), replace=False)]
    coloured = [f"{COLOURS[rng.integers(len(COLOURS))]} {n}" if rng.random() < 0.1 else n for n in picked]
    return [PhraseTarget(name, ()) for name in coloured]


def exchanges(
    scene: Scene,
    present: list[PhraseTarget],
    colours: list[PhraseTarget],
    absent: list[PhraseTarget],
    rng: np.random.Generator,
) -> list[Exchange]:
    """Return a few requests about the scene: places, outlines, other routes, questions that need looking, a caption."""
    made: list[Exchange] = []
    known = [*present, *[phrase for phrase in colours if phrase.owned]]
    for route in ("det", "det", "seg"):
        pool = known if known and rng.random() < 0.75 else absent
        if pool:
            target = pool[rng.integers(len(pool))]
            made.append(Exchange(requests.ROUTED[route].make(target.phrase, rng), target.phrase, route, target))
    names = [*(scene.names or ()), *(target.phrase for target in absent)]
    if names:
        # What needs no looking is asked of images too, so that the other routes are not chosen for want of one.
        made.append(routed(("ocr", "gen", "edit")[rng.integers(3)], words.Phrases(names, scene.captions), rng))
    if known or absent:
        made += [scene_question(scene, known, absent, rng) for _ in range(3)]
    if scene.captions:
        caption = scene.captions[rng.integers(len(scene.captions))].lower().rstrip(". ")
        made.append(Exchange(requests.DESCRIBE.make("", rng), caption))
    return made


def _regions(scene: Scene, names: set[str]) -> tuple[NDArray[np.float32], ...]:
    return tuple(box for box, name in scene.crowds if name in names)


def jittered(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Change light only: hue would make colour names wrong."""
    if rng.random() < 0.6:
        image = ImageEnhance.Brightness(image).enhance(float(rng.uniform(0.7, 1.3)))
    if rng.random() < 0.5:
        image = ImageEnhance.Contrast(image).enhance(float(rng.uniform(0.75, 1.25)))
    return image
