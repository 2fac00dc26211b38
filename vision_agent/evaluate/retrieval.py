"""Figures of search and classification: what the default's own image tower finds again, and what its presence names.

    python -m vision_agent.evaluate.retrieval FOLDER [--model MODEL] [--limit N]

prints a Markdown table. Each photo of a held-out part asks for another of its class among the rest of that part:
recall@k is the share of photos with one of their class among the first k. Beside the tower stand colour histograms
(8 x 8 x 8, compared by the Hellinger kernel) and chance. Two sets:

* photos of `animals_256` that show one kind of animal, of the splits that training never saw: five classes;
* photo cut-outs of `cutouts_192` on white, of names with two photos or more. Those that ask were not trained on; what
  they are compared with may have been.

Accuracy is that of `agent.classify` over ten names, by the presence of `[DET]`: of the five animals among ten names
for `animals_256`, and of the ten names that most held-out cut-outs have.
"""

import argparse
import hashlib
import platform
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from tqdm import tqdm

from vision_agent.agent import VisionAgent
from vision_agent.data.sources import CocoPhotos, Cutouts

_BINS = 8
_AMONG = ("dog", "cat", "sheep", "horse", "cow", "bird", "car", "person", "boat", "chair")
_AT_ONCE = 8
_CLASSIFIED = 200  # photos of a set, at most


@dataclass(frozen=True)
class LabelledPhoto:
    """A photo of one class; `asks` where it was held out of training."""

    image: Image.Image
    name: str
    asks: bool


def animals(folder: Path, limit: int) -> list[LabelledPhoto]:
    """Return held-out photos of one kind of animal, at most `limit`, drawn by a hash of their names."""
    source = CocoPhotos(folder, "animals_256")
    records = [record for split in ("val", "test") for record in source.images(split)]
    alone = [each for each in records if len(source.names_in(each)) == 1]
    alone.sort(key=lambda each: hashlib.sha256(str(each["file_name"]).encode()).hexdigest())
    return [
        LabelledPhoto(source.photo(each).convert("RGB"), next(iter(source.names_in(each))), True)
        for each in alone[:limit]
    ]


def cutouts(folder: Path) -> list[LabelledPhoto]:
    """Return photo cut-outs on white of names that have two or more."""
    source = Cutouts(folder)
    kept = [
        (item, split) for split in ("train", "val", "unseen") for item in source.items(split) if item.kind == "photo"
    ]
    names = Counter(item.name for item, _ in kept)
    found = []
    for item, split in kept:
        if names[item.name] > 1:
            cut = source.open(item)
            white = Image.new("RGBA", cut.size, "white")
            white.alpha_composite(cut)
            found.append(LabelledPhoto(white.convert("RGB"), item.name, split != "train"))
    return found


def histograms(images: Sequence[Image.Image]) -> npt.NDArray[np.float32]:
    """Return float32 (N, 512), rows of length one: roots of the shares of colours."""
    rows = []
    for image in images:
        cells = np.asarray(image).reshape(-1, 3) // (256 // _BINS)
        counts = np.bincount(cells @ np.array([_BINS**2, _BINS, 1]), minlength=_BINS**3)
        rows.append(np.sqrt(counts / counts.sum()))
    return np.array(rows, dtype=np.float32)


def recalls(vectors: npt.NDArray[np.float32], photos: Sequence[LabelledPhoto]) -> tuple[float, float, int]:
    """Return recall@1, recall@5 and how many photos asked."""
    names = np.array([each.name for each in photos])
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    hits = (names[best] == names[:, None])[[each.asks for each in photos]]
    return float(hits[:, 0].mean()), float(hits.any(axis=1).mean()), len(hits)


def chance(photos: Sequence[LabelledPhoto]) -> tuple[float, float]:
    """Return the recalls that are expected of an order at random."""
    names = Counter(each.name for each in photos)
    others = len(photos) - 1
    missed: dict[int, list[float]] = {1: [], 5: []}
    for each in photos:
        if each.asks:
            alike = names[each.name] - 1
            for k, found in missed.items():
                found.append(float(np.prod([(others - alike - i) / (others - i) for i in range(k)])))
    return 1 - float(np.mean(missed[1])), 1 - float(np.mean(missed[5]))


def accuracy(agent: VisionAgent, photos: Sequence[LabelledPhoto], labels: Sequence[str]) -> tuple[float, float, int]:
    """Return the share of right best labels, that of photos said to show none of these, and how many were asked."""
    asked = [each for each in photos if each.asks and each.name in labels][:_CLASSIFIED]
    right = none = 0
    for each in tqdm(asked, desc="classify"):
        found = agent.classify(each.image, labels)
        right += found[0].label == each.name
        none += found.none_of_these is True
    return right / len(asked), none / len(asked), len(asked)


def figures(agent: VisionAgent, folder: Path, limit: int) -> Iterator[tuple[str, str, str]]:
    """Yield rows of the table: what, by what, and the figure."""
    sets = {"animals_256": animals(folder, limit), "cutouts_192, photos": cutouts(folder)}
    for name, photos in sets.items():
        images = [each.image for each in photos]
        starts = tqdm(range(0, len(images), _AT_ONCE), desc=name)
        own = np.concatenate([agent.embedder.embed_images(images[start : start + _AT_ONCE]) for start in starts])
        for by, vectors in ((agent.embedder.name, own), ("colour histograms", histograms(images))):
            first, five, asked = recalls(vectors, photos)
            yield f"recall@1 / @5, {name}: {asked} of {len(photos)} photos ask", by, f"{first:.3f} / {five:.3f}"
        first, five = chance(photos)
        yield f"recall@1 / @5, {name}", "chance", f"{first:.3f} / {five:.3f}"
        common = Counter(each.name for each in photos if each.asks and _is_word(agent, each.name)).most_common(10)
        labels = _AMONG if name == "animals_256" else tuple(sorted(label for label, _ in common))
        right, none, asked = accuracy(agent, photos, labels)
        yield f"accuracy over {', '.join(labels)}: {asked} photos", "presence", f"{right:.3f}"
        yield "the same photos said to show none of these", "presence", f"{none:.3f}"


def _is_word(agent: VisionAgent, name: str) -> bool:
    """Whether the model was taught the name."""
    words = agent.routes["det"].words
    return words is None or words.finds(name)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Measure search and classification on held-out photos.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="default")
    parser.add_argument("--limit", type=int, default=600, help="photos of animals_256")
    options = parser.parse_args()
    agent = VisionAgent.from_pretrained(options.model)
    print(f"{platform.machine()}, {agent.model}\n\n| figure | by | value |\n| --- | --- | --- |")
    for row in figures(agent, options.folder, options.limit):
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
