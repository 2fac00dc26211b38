"""Images for the distillation stage: people's boxes, completed by soft labels, and many names to be told apart.

Phrases cost next to nothing without the language model, so each image is asked for some thirty, half of the absent ones
such as go with what it shows.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from vision_agent.data.copy_paste import plain_background, without_names
from vision_agent.data.dataset import ImageSources, shrunk
from vision_agent.data.recipe import DataSection
from vision_agent.data.samples import Sample, absent_phrases, box_targets, colour_phrases, jittered, present_phrases
from vision_agent.data.scene import ANYTHING, Scene, flipped, mosaic, random_frame, window
from vision_agent.data.soft_labels import SoftLabels
from vision_agent.data.sources import CocoPhotos, ImageArchive, split_of_image
from vision_agent.data.text.dialogue import PhraseTarget
from vision_agent.plugins.decoder import BoxTargets

_MOST_PRESENT = 12
_MOST_COLOURED = 6
_NAMED_FROM = {"photos_384": 0.5}  # most of these show what none of the detectors' names fits


@dataclass(frozen=True)
class BoxSample:
    """A training image for boxes alone: (S, S, 3) uint8, its phrases, and what they name."""

    pixels: Tensor
    phrases: tuple[str, ...]
    targets: BoxTargets


@dataclass(frozen=True)
class BoxBatch:
    """Several of them: pixels (N, S, S, 3)."""

    pixels_NSS3: Tensor
    phrases: tuple[tuple[str, ...], ...]
    targets: tuple[BoxTargets, ...]


class Companions:
    """Which names come with which: draws absent names that fit a scene.

    Args:
        together: the names of each image that are counted.
    """

    def __init__(self, together: Sequence[frozenset[str]]) -> None:
        self._often = Counter(name for names in together for name in names)
        self._together: dict[str, Counter[str]] = {}
        for names in together:
            for name, other in permutations(sorted(names), 2):
                self._together.setdefault(name, Counter())[other] += 1

    def absent(self, scene: Scene, rng: np.random.Generator, count: int) -> list[PhraseTarget]:
        """Return at most `count` names that are not in the scene, the likelier the oftener they come with what is."""
        present = set(scene.names) - {ANYTHING}
        gone = sorted(scene.known_names & self._often.keys() - present - {name for _, name in scene.crowds})
        weight = np.array(
            [
                sum(
                    self._together.get(name, Counter())[other] / self._often[name]
                    for name in present
                    if self._often[name]
                )
                for other in gone
            ]
        )
        if not gone or not weight.sum():
            return []
        weight += 0.02 * weight.mean()
        count = min(count, len(gone))
        picked = rng.choice(len(gone), count, replace=False, p=weight / weight.sum())
        return [PhraseTarget(gone[index], ()) for index in picked]


class SoftImages:
    """Scenes of the training split, completed by soft labels where people marked not everything."""

    def __init__(self, folder: Path, left_out: frozenset[str] = frozenset()) -> None:
        self._images = ImageSources(folder, "train", left_out=left_out)
        self.copy_paste = self._images.copy_paste
        self._soft = {
            name: SoftLabels(folder, name, _NAMED_FROM.get(name, 0.4), left_out)
            for name in ("coco_train_448", "animals_256", "clothing_320", "backgrounds_320", "photos_384")
        }
        self._archives = {
            name: ImageArchive(folder / f"{name}.zip") for name in ("clothing_320", "backgrounds_320", "photos_384")
        }
        clothing = CocoPhotos(folder, "clothing_320", left_out).images("train")
        seen = self._soft["clothing_320"].shows_left_out
        clothes = [record["file_name"] for record in clothing if not seen(record["file_name"])]
        plain = {
            name: [file for file in self._soft[name].files() if split_of_image(name, file, file) == "train"]
            for name in ("backgrounds_320", "photos_384")
        }
        self._backgrounds = plain["backgrounds_320"]
        files = {"clothing_320": clothes, **plain}
        self._others = [(name, file) for name, listed in files.items() for file in listed]
        photos = self._images.photos
        self.companions = Companions([photos.names_in(record) for record in self._images.photo_records])

    def photo(self, rng: np.random.Generator) -> Scene:
        """Return a COCO photo, on which all 80 names are marked."""
        records = self._images.photo_records
        record = records[rng.integers(len(records))]
        return self._soft["coco_train_448"].completed(self._images.photos.scene(record), record["file_name"])

    def animal(self, rng: np.random.Generator) -> Scene:
        """Return a photo on which animals are marked."""
        records = self._images.animal_records
        record = records[rng.integers(len(records))]
        scene = self._images.animals.scene(record, colours=False)
        return self._soft["animals_256"].completed(scene, record["file_name"])

    def other(self, rng: np.random.Generator) -> Scene:
        """Return a photo on which people marked no objects."""
        return self._soft_alone(*self._others[rng.integers(len(self._others))])

    def composed(self, rng: np.random.Generator) -> Scene:
        """Paste objects on a background, of which may be denied only what the detectors do not see there."""
        background = self._soft_alone("backgrounds_320", self._backgrounds[rng.integers(len(self._backgrounds))])
        scene = self.copy_paste.make(background, rng)
        return without_names(scene, self._images.doubtful - background.known_names)

    def _soft_alone(self, name: str, file: str) -> Scene:
        image = self._archives[name].open(file).convert("RGB")
        return self._soft[name].completed(plain_background(image), file)


class BoxMix(Dataset[BoxSample]):
    """Sample number -> sample; it follows from the seed and the number alone.

    Args:
        shares: how often each kind of image is drawn.
        sides: of the samples, in pixels; batches take them in turn.
        batch: samples a batch.
        left_out: names that are in none of them.
    """

    def __init__(
        self,
        folder: Path,
        shares: DataSection,
        sides: Sequence[int],
        batch: int,
        seed: tuple[int, ...],
        left_out: frozenset[str] = frozenset(),
    ) -> None:
        self._images = SoftImages(folder, left_out)
        self._sides, self._batch, self._seed, self._phrases = tuple(sides), batch, seed, shares.phrases
        self._kinds = {
            "photo": shares.photos,
            "mosaic": shares.mosaics,
            "composed": shares.composed,
            "composed_on_photo": shares.composed_on_photos,
            "animal": shares.animals,
            "other": shares.others,
        }

    def __getitem__(self, number: int) -> BoxSample:
        rng = np.random.default_rng((*self._seed, number))
        side = self._sides[number // self._batch % len(self._sides)]
        shares = np.array(list(self._kinds.values()))
        kind = list(self._kinds)[rng.choice(len(shares), p=shares / shares.sum())]
        scene = self._scene(kind, side, rng)
        if rng.random() < 0.5:
            scene = flipped(scene)
        return box_sample(scene, side, rng, self._phrases, self._images.companions)

    def _scene(self, kind: str, side: int, rng: np.random.Generator) -> Scene:
        images = self._images
        if kind == "mosaic":
            return mosaic([_any_photo(images, rng)(rng) for _ in range(4)], side, rng)
        if kind == "composed":
            return images.composed(rng)
        if kind == "composed_on_photo":
            return images.copy_paste.make(images.photo(rng), rng)
        scene = {"photo": images.photo, "animal": images.animal, "other": images.other}[kind](rng)
        if rng.random() < 0.65:
            return window(scene, random_frame(scene, rng, least=0.5), (side, side))
        return shrunk(scene, side, rng) if rng.random() < 0.2 else scene


def collate(samples: Sequence[BoxSample]) -> BoxBatch:
    """Make a batch of samples."""
    return BoxBatch(
        pixels_NSS3=torch.stack([sample.pixels for sample in samples]),
        phrases=tuple(sample.phrases for sample in samples),
        targets=tuple(sample.targets for sample in samples),
    )


def box_sample(
    scene: Scene, side: int, rng: np.random.Generator, most_phrases: int, companions: Companions, jitter: bool = True
) -> BoxSample:
    """Ask a scene for what is there, by several names and colours, and for what is not."""
    present = present_phrases(scene, rng)
    coloured = colour_phrases(scene, rng)
    rng.shuffle(present)
    rng.shuffle(coloured)
    asked = [*present[:_MOST_PRESENT], *coloured[:_MOST_COLOURED]]
    room = max(6, most_phrases - len(asked))
    asked += companions.absent(scene, rng, room // 2)
    mentioned = {target.phrase for target in asked}
    others = absent_phrases(scene, rng, room)
    asked += [target for target in others if target.phrase not in mentioned][: max(4, most_phrases - len(asked))]
    image = jittered(scene.image, rng) if jitter else scene.image
    scale = np.array([*scene.image.size, *scene.image.size], dtype=np.float32)
    sample = Sample(
        pixels=torch.from_numpy(np.array(image.resize((side, side), Image.Resampling.BILINEAR))),
        boxes=scene.boxes / scale,
        scale=scale,
        phrases=tuple(asked),
        exchanges=(),
    )
    doubtful = [box / scale for box, name in scene.crowds if name == ANYTHING]
    targets = replace(
        box_targets(sample, asked),
        sure_G=torch.tensor(scene.sureness, dtype=torch.float32),
        named_G=torch.tensor([name != ANYTHING for name in scene.names], dtype=torch.bool),
        doubtful_D4=torch.from_numpy(np.array(doubtful, dtype=np.float32).reshape(-1, 4)),
    )
    return BoxSample(sample.pixels, tuple(target.phrase for target in asked), targets)


def _any_photo(images: SoftImages, rng: np.random.Generator) -> Callable[[np.random.Generator], Scene]:
    """Mostly a photo that people marked wholly: mosaics know the names that all four know."""
    return images.photo if rng.random() < 0.8 else images.other
