"""RefCOCO as it is published: a pickle of Python 2, COCO's objects, photos of 2014."""

import json
from pathlib import Path
from typing import Any

from PIL import Image


def python2(value: Any) -> bytes:
    """A value as `cPickle.dump(value, file)` of Python 2 wrote it, which is how refs(unc).p is published."""
    if isinstance(value, dict):
        return b"(d" + b"".join(python2(key) + python2(held) + b"s" for key, held in value.items())
    if isinstance(value, list):
        return b"(l" + b"".join(python2(held) + b"a" for held in value)
    return b"I%d\n" % value if isinstance(value, int) else b"S" + repr(value).encode() + b"\n"


def reference(number: int, split: str, image: int, annotation: Any, *said: str) -> dict[str, Any]:
    sentences = [
        {"tokens": text.split(), "raw": text.upper(), "sent_id": 10 * number + place, "sent": text}
        for place, text in enumerate(said)
    ]
    return {
        "sent_ids": [each["sent_id"] for each in sentences],
        "file_name": f"COCO_train2014_{image:012}_{annotation}.jpg",
        "ann_id": annotation,
        "ref_id": number,
        "image_id": image,
        "split": split,
        "sentences": sentences,
        "category_id": 18,
    }


REFERENCES = [
    reference(1, "train", 7, 70, "left dog", "the dog  on the Left"),
    reference(2, "train", 7, 71, "right dog"),
    reference(3, "train", 7, 70, "dog in front"),
    reference(4, "val", 8, 80, "brown dog"),
    reference(5, "testA", 9, 90, "a test image that was not downloaded"),
]
INSTANCES: dict[str, Any] = {
    "images": [
        {"id": n, "file_name": f"COCO_train2014_{n:012}.jpg", "width": 64, "height": 48, "license": 1}
        for n in (7, 8, 9)
    ],
    "annotations": [
        {
            "id": key,
            "image_id": key // 10,
            "category_id": 18,
            "iscrowd": 0,
            "bbox": [left, 5, 20, 30],
            "segmentation": [[left, 5, left + 20, 5, left + 20, 35, left, 35]],
        }
        for key, left in ((70, 2), (71, 30), (80, 10), (90, 10))
    ],
    "categories": [{"id": 18, "name": "dog"}],
}


def published(folder: Path, references: Any = REFERENCES, instances: Any = INSTANCES) -> Path:
    for number in (7, 8):
        path = folder / "train2014" / f"COCO_train2014_{number:012}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48), (90, 120, 150)).save(path)
    (folder / "refs(unc).p").write_bytes(python2(references) + b".")
    (folder / "instances.json").write_text(json.dumps(instances), "utf-8")
    return folder
