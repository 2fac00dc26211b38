"""Finds images that look alike though a hash of their names puts them into different splits.

    python -m vision_agent.data.near_duplicates FOLDER

prints what `near_duplicates.json` beside this file holds: for each archive, the files of "val" and "test" that have a
near-duplicate in another split. `sources.split_of_image` counts them as "train". Near-duplicates are images whose
difference hashes (https://www.hackerfactor.com/blog/index.php?/archives/529-Kind-of-Like-That.html; here of 16 x 16
bits) differ in at most 24 bits: frames of one drive, the same photo cropped differently.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vision_agent.data.sources import CocoPhotos, ImageArchive, split_of
from vision_agent.images.perceptual_hash import difference_hash

_MOST_BITS = 24
_COCO_FORMAT = ("coco_train_448", "animals_256", "clothing_320")
_PLAIN = ("backgrounds_320",)


def near_duplicates(hashes: NDArray[np.bool_], splits: list[str]) -> list[int]:
    """Return places of the images outside "train" that are alike to one of another split.

    Args:
        hashes: (n, bits).
        splits: of each image.
    """
    bits_NB = hashes.astype(np.float32)
    of = np.array(splits)
    found = []
    for place in np.flatnonzero(of != "train"):
        distance_N = np.abs(bits_NB - bits_NB[place]).sum(axis=1)
        if np.any((distance_N <= _MOST_BITS) & (of != of[place])):
            found.append(int(place))
    return found


def main() -> None:
    """Print the near-duplicates of a folder of archives as JSON."""
    parser = argparse.ArgumentParser(description="List images that have a near-duplicate in another split.")
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    images: list[tuple[str, str, str]] = []
    hashes = []
    for name in (*_COCO_FORMAT, *_PLAIN):
        archive = ImageArchive(folder / f"{name}.zip")
        if name in _COCO_FORMAT:
            listed = CocoPhotos(folder, name).files()
        else:
            listed = [(file, file) for file in archive.names() if "/" not in file]
        for file, identifier in tqdm(listed, desc=name):
            images.append((name, file, split_of(identifier)))
            hashes.append(difference_hash(archive.open(file)))
    alike: dict[str, list[str]] = {name: [] for name in (*_COCO_FORMAT, *_PLAIN)}
    for place in near_duplicates(np.stack(hashes), [split for _, _, split in images]):
        name, file, _ = images[place]
        alike[name].append(file)
    print(json.dumps({name: sorted(files) for name, files in alike.items()}, indent=1))


if __name__ == "__main__":
    main()
