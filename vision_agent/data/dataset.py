"""The stream of training samples: which image comes next, by its number alone.

Sample `i` is drawn with a generator seeded by (seed, stage, i), so a resumed run continues with exactly the samples
that the stopped one would have seen.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset, Sampler

from vision_agent.data.copy_paste import CopyPaste, plain_background, without_names
from vision_agent.data.recipe import DataSection
from vision_agent.data.samples import Sample, make_sample
from vision_agent.data.scene import Scene, flipped, mosaic, random_frame, window
from vision_agent.data.sources import CocoPhotos, Cutouts, ImageArchive, split_of_image
from vision_agent.data.text import phrases as words
from vision_agent.data.text.language_mix import LanguageMix


class ImageSources:
    """All image sources of one split ("train", "val" or "test"), from one folder of archives.

    Nothing that is known to show a name in `left_out` is among them.
    """

    def __init__(
        self, folder: Path, split: str, cutouts: str | None = None, left_out: frozenset[str] = frozenset()
    ) -> None:
        self.photos = CocoPhotos(folder, "coco_train_448", left_out)
        self.photo_records = self.photos.images(split)
        self.animals = CocoPhotos(folder, "animals_256", left_out)
        self.animal_records = self.animals.images(split)
        self._backgrounds = ImageArchive(folder / "backgrounds_320.zip")
        self._background_names = [
            name
            for name in self._backgrounds.names()
            if "/" not in name and split_of_image("backgrounds_320", name, name) == split
        ]
        self.copy_paste = CopyPaste(Cutouts(folder, left_out=left_out), cutouts or split)
        # What a background may show without being marked.
        everyday = set(self.photos.names.values()) | {word for many in words.SYNONYMS.values() for word in many}
        self.doubtful = frozenset(everyday | {"man", "woman", "tree", "house", "flower", "street", "building"})

    def photo(self, rng: np.random.Generator) -> Scene:
        return self.photos.scene(self.photo_records[rng.integers(len(self.photo_records))])

    def animal(self, rng: np.random.Generator) -> Scene:
        return self.animals.scene(self.animal_records[rng.integers(len(self.animal_records))], colours=False)

    def background(self, rng: np.random.Generator) -> Scene:
        name = self._background_names[rng.integers(len(self._background_names))]
        return plain_background(self._backgrounds.open(name).convert("RGB"))

    def composed(self, rng: np.random.Generator) -> Scene:
        return without_names(self.copy_paste.make(self.background(rng), rng), self.doubtful)


class TrainingMix(Dataset[Sample]):
    """Sample number -> sample.

    Args:
        shares: how often each kind of image is drawn.
        side: of the samples, in pixels.
        seed: the samples follow from it and their number.
        left_out: names that are in none of them.
    """

    def __init__(
        self,
        folder: Path,
        shares: DataSection,
        side: int,
        seed: tuple[int, ...],
        left_out: frozenset[str] = frozenset(),
    ) -> None:
        self._images = ImageSources(folder, "train", left_out=left_out)
        self._side, self._seed, self._phrases = side, seed, shares.phrases
        self._kinds = {
            "photo": shares.photos,
            "mosaic": shares.mosaics,
            "composed": shares.composed,
            "composed_on_photo": shares.composed_on_photos,
            "animal": shares.animals,
        }

    def __getitem__(self, number: int) -> Sample:
        rng = np.random.default_rng((*self._seed, number))
        shares = np.array(list(self._kinds.values()))
        kind = list(self._kinds)[rng.choice(len(shares), p=shares / shares.sum())]
        return make_sample(self._scene(kind, self._side, rng), self._side, rng, self._phrases)

    def _scene(self, kind: str, side: int, rng: np.random.Generator) -> Scene:
        images = self._images
        if kind == "mosaic":
            return mosaic([images.photo(rng) for _ in range(4)], side, rng)
        if kind == "composed":
            scene = images.composed(rng)
        elif kind == "composed_on_photo":
            scene = images.copy_paste.make(images.photo(rng), rng)
        else:
            scene = images.photo(rng) if kind == "photo" else images.animal(rng)
            if rng.random() < 0.6:
                scene = window(scene, random_frame(scene, rng), (side, side))
            elif rng.random() < 0.3:
                scene = shrunk(scene, side, rng)
        return flipped(scene) if rng.random() < 0.5 else scene


class TalkMix(Dataset[Sample]):
    """Images with many requests: what is asked of the image, and what could be asked of any image.

    Args:
        images: draws the samples.
        talk: draws the requests that do not depend on the image.
        phrases: most forced phrases of a sample.
    """

    def __init__(self, images: TrainingMix, talk: LanguageMix, phrases: int = 6) -> None:
        self._images, self._talk, self._phrases = images, talk, phrases

    def __getitem__(self, number: int) -> Sample:
        sample = self._images[number]
        _, exchanges = self._talk.row(number)
        return replace(sample, phrases=sample.phrases[: self._phrases], exchanges=(*sample.exchanges, *exchanges))


class NumberedFrom(Sampler[int]):
    """Sample numbers from `start` to `end`."""

    def __init__(self, start: int, end: int) -> None:
        self._start, self._end = start, end

    def __iter__(self) -> Iterator[int]:
        return iter(range(self._start, self._end))

    def __len__(self) -> int:
        return self._end - self._start


def shrunk(scene: Scene, side: int, rng: np.random.Generator) -> Scene:
    """The whole scene in a larger grey frame: small objects."""
    width, height = scene.image.size
    grow = rng.uniform(1.1, 1.8)
    x0, y0 = -rng.uniform(0, width * (grow - 1)), -rng.uniform(0, height * (grow - 1))
    return window(scene, (x0, y0, x0 + width * grow, y0 + height * grow), (side, side))
