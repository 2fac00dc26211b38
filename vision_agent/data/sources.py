"""Reads training archives: COCO-format photos, named cut-outs, backgrounds, text vectors.

Archives are zips (or folders) with a JSON beside them, as the training documentation describes. Images stay
compressed in memory and are decoded when used.
"""

import hashlib
import io
import json
import zipfile
from collections import defaultdict
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vision_agent.data.recolor import colour_of
from vision_agent.data.scene import Scene
from vision_agent.errors import ConfigError
from vision_agent.geometry.rle import RunLengths, counts_text, polygons_to_mask

_SPLITS = (("val", 8), ("test", 16), ("train", 100))


def split_of(identifier: object) -> str:
    """Return `"train"` (84 %), `"val"` (8 %) or `"test"` (8 %), by a hash of the image's id: stable for ever."""
    bucket = int(hashlib.sha256(str(identifier).encode()).hexdigest()[:8], 16) % 100
    return next(name for name, below in _SPLITS if bucket < below)


@cache
def _near_duplicates() -> dict[str, frozenset[str]]:
    listed = json.loads((Path(__file__).parent / "near_duplicates.json").read_text("utf-8"))
    return {archive: frozenset(files) for archive, files in listed.items()}


def split_of_image(archive: str, file: str, identifier: object) -> str:
    """Return the split of an image of an archive: `split_of`, but "train" for a near-duplicate of another split.

    Those are listed in `near_duplicates.json`, which `vision_agent.data.near_duplicates` writes.
    """
    return "train" if file in _near_duplicates().get(archive, ()) else split_of(identifier)


class ImageArchive:
    """Images by name from a zip of stored files or a folder, held as bytes."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise ConfigError(f"training data {str(path)!r} is not there")
        self._path = path
        self._files: dict[str, bytes] = {}
        if path.is_file():
            with zipfile.ZipFile(path) as archive:
                self._files = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}

    def names(self) -> list[str]:
        return sorted(self._files)

    def read(self, name: str) -> bytes:
        return self._files[name] if self._files else (self._path / name).read_bytes()

    def open(self, name: str) -> Image.Image:
        return Image.open(io.BytesIO(self.read(name)))


@dataclass
class CocoPhotos:
    """COCO-format photos: `NAME.zip`, `NAME_instances.json` and optionally `NAME_captions.json` in one folder.

    Args:
        left_out: names that nothing may be learned about: photos with one of them are not there, and it is never
            said to be absent either.
    """

    folder: Path
    name: str
    left_out: frozenset[str] = frozenset()

    @cached_property
    def _content(self) -> dict[str, Any]:
        path = self.folder / f"{self.name}_instances.json"
        if not path.is_file():
            raise ConfigError(f"training annotations {str(path)!r} are not there")
        content: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return content

    @cached_property
    def _archive(self) -> ImageArchive:
        zipped = self.folder / f"{self.name}.zip"
        return ImageArchive(zipped if zipped.exists() else self.folder / self.name)

    @cached_property
    def names(self) -> dict[int, str]:
        return {category["id"]: category["name"] for category in self._content["categories"]}

    @cached_property
    def _annotations(self) -> dict[int, list[dict[str, Any]]]:
        grouped: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for annotation in self._content["annotations"]:
            grouped[annotation["image_id"]].append(annotation)
        return grouped

    @cached_property
    def _captions(self) -> dict[int, list[str]]:
        path = self.folder / f"{self.name}_captions.json"
        grouped: dict[int, list[str]] = defaultdict(list)
        if path.is_file():
            for annotation in json.loads(path.read_text("utf-8"))["annotations"]:
                grouped[annotation["image_id"]].append(annotation["caption"].strip())
        return grouped

    def all_captions(self, split: str) -> list[str]:
        ids = {image["id"] for image in self.images(split)}
        return [text for image_id, texts in self._captions.items() if image_id in ids for text in texts]

    def images(self, split: str) -> list[dict[str, Any]]:
        """Return the COCO image records of a split."""
        return [
            image
            for image in self._content["images"]
            if split_of_image(self.name, image["file_name"], image["id"]) == split
            and not (self.left_out and self.names_in(image) & self.left_out)
        ]

    def names_in(self, record: dict[str, Any]) -> frozenset[str]:
        """Return the names of what is marked on a photo."""
        return frozenset(self.names[annotation["category_id"]] for annotation in self._annotations[record["id"]])

    def files(self) -> list[tuple[str, object]]:
        """Return (file, id) of all images."""
        return [(image["file_name"], image["id"]) for image in self._content["images"]]

    def outlined(self, split: str) -> list[dict[str, Any]]:
        """Return the image records of a split on which at least one object has an outline."""
        with_outline = {
            annotation["image_id"]
            for annotation in self._content["annotations"]
            if annotation.get("segmentation") and not annotation.get("iscrowd")
        }
        return [image for image in self.images(split) if image["id"] in with_outline]

    def photo(self, record: dict[str, Any]) -> Image.Image:
        """Return the pixels of one photo, RGB."""
        return self._archive.open(record["file_name"]).convert("RGB")

    def scene(self, record: dict[str, Any], colours: bool = True, masks: bool = False) -> Scene:
        """Return one photo with its boxes, colours, and masks if asked for.

        Colours and masks are known where an outline tells which pixels are whose.
        """
        image = self.photo(record)
        boxes, names, found, shapes, crowds = [], [], [], [], []
        for annotation in self._annotations[record["id"]]:
            x, y, w, h = annotation["bbox"]
            box = np.array([x, y, x + w, y + h], dtype=np.float32)
            name = self.names[annotation["category_id"]]
            if annotation.get("iscrowd"):
                crowds.append((box, name))
                continue
            boxes.append(box)
            names.append(name)
            found.append(_outlined_colour(image, annotation) if colours else None)
            if masks:
                shapes.append(outline_mask(annotation.get("segmentation"), image.size))
        return Scene(
            image=image,
            boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
            names=tuple(names),
            colours=tuple(found),
            crowds=tuple(crowds),
            known_names=frozenset(self.names.values()) - self.left_out,
            captions=tuple(self._captions[record["id"]]),
            masks=tuple(shapes),
        )


@dataclass(frozen=True)
class Cutout:
    """A named RGBA cut-out: its file in the archive, its name, and whether it is a photo, a render or a stamp."""

    file: str
    name: str
    kind: str


class Cutouts:
    """Named RGBA cut-outs: `cutouts_192.zip` with `cutouts_192_labels.json`.

    `items(split)`: "train" cut-outs, "val" (other images of names that train has), "unseen" (names that train never
    has). Which is which follows from the names and files alone. Cut-outs of names in `left_out` are in none.
    """

    def __init__(self, folder: Path, name: str = "cutouts_192", left_out: frozenset[str] = frozenset()) -> None:
        self._archive = ImageArchive(folder / f"{name}.zip")
        labels = json.loads((folder / f"{name}_labels.json").read_text("utf-8"))
        self._items: dict[str, list[Cutout]] = {"train": [], "val": [], "unseen": []}
        seen: set[str] = set()
        for file in sorted(labels):
            label = labels[file]
            if label["name"] in left_out:
                continue
            item = Cutout(file, label["name"], label["kind"])
            if split_of(f"name:{item.name}") == "test":
                self._items["unseen"].append(item)
            elif item.name in seen and split_of(f"cutout:{file}") != "train":
                self._items["val"].append(item)
            else:
                seen.add(item.name)
                self._items["train"].append(item)

    def items(self, split: str) -> list[Cutout]:
        return self._items[split]

    def open(self, item: Cutout) -> Image.Image:
        return self._archive.open(item.file).convert("RGBA")


def read_text_vectors(folder: Path) -> tuple[list[str], NDArray[np.float32]]:
    """Return names and CLIP text vectors (n, 512), unit length, of `text_vectors.zip`; a name's first vector counts."""
    archive = ImageArchive(folder / "text_vectors.zip")
    names: list[str] = []
    rows: list[NDArray[np.float32]] = []
    for table in ("coco", "lvis", "openimages", "objects365"):
        vectors = np.load(io.BytesIO(archive.read(f"{table}.npy"))).astype(np.float32)
        for name, vector in zip(json.loads(archive.read(f"{table}_names.json")), vectors, strict=True):
            plain = name.replace("_", " ").replace("/", " ").lower()
            if plain not in names:
                names.append(plain)
                rows.append(vector)
    return names, np.stack(rows)


def outline_mask(segmentation: Any, image_size: tuple[int, int]) -> NDArray[np.bool_] | None:
    """Return bools (H, W) of a COCO segmentation: polygons of one object, which are joined, or run lengths.

    None where there is no outline. `image_size` is (width, height).
    """
    if isinstance(segmentation, dict):
        height, width = segmentation["size"]
        text = counts_text(segmentation["counts"])
        return RunLengths.from_text(text, (height, width)).to_mask()
    rings = [np.reshape(ring, (-1, 2)) for ring in segmentation or () if len(ring) >= 6]
    return polygons_to_mask([[ring] for ring in rings], (image_size[1], image_size[0])) if rings else None


def _outlined_colour(image: Image.Image, annotation: dict[str, Any]) -> str | None:
    segmentation = annotation.get("segmentation")
    if not isinstance(segmentation, list) or not segmentation:
        return None
    x, y, w, h = annotation["bbox"]
    if w < 12 or h < 12:
        return None
    mask = Image.new("1", image.size)
    draw = ImageDraw.Draw(mask)
    for polygon in segmentation:
        if len(polygon) >= 6:
            draw.polygon(list(map(float, polygon)), fill=1)
    frame = (int(x), int(y), int(x + w) + 1, int(y + h) + 1)
    inside = np.asarray(mask.crop(frame))
    return colour_of(np.asarray(image.crop(frame))[inside])
