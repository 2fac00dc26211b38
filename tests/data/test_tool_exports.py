"""Exports as annotation tools really write them: where their images are, what their files are called, which way."""

import base64
import io
import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vision_agent.data.annotations.annotation_sets import read_annotations
from vision_agent.errors import AnnotationError

COUNT = 4
LINE = "0 .5 .5 .25 .5\r\n"
YOLO_BOX, BOX = (24, 12, 40, 36), (5, 6, 25, 36)
PARTS = ("train", "val")


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 48), (90, 120, 150)).save(path)


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, "utf-8")
    return path


def coco(name: str, folder: Path, pattern: str = "{}.png") -> dict[str, Any]:
    """A COCO file; `pattern` is where the images are below the folder."""
    sides = {"width": 64, "height": 48, "license": 0, "flickr_url": "", "coco_url": "", "date_captured": 0}
    for n in range(COUNT):
        image(folder / pattern.format(n))
    return {
        "info": {"contributor": "", "date_created": ""},
        "images": [{"id": n, "file_name": name.format(n), **sides} for n in range(COUNT)],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 0, "bbox": [5, 6, 20, 30], "segmentation": [], "iscrowd": 0}
            for n in range(COUNT)
        ],
        "categories": [{"id": 0, "name": "pipe", "supercategory": ""}],
    }


def yolo(folder: Path, labels: str, stem: str = "{}", line: str = LINE) -> None:
    for n in range(COUNT):
        image(folder / f"{stem.format(n)}.JPG")
        write(
            folder.parent.parent / labels / f"{stem.format(n)}.txt" if labels else folder / f"{stem.format(n)}.txt",
            line,
        )


def cvat_coco(root: Path) -> Path:
    write(root / "annotations/instances_default.json", coco("{}.png", root / "images"))
    return root


def cvat_coco_file(root: Path) -> Path:
    return cvat_coco(root) / "annotations" / "instances_default.json"


def cvat_coco_parts(root: Path) -> Path:
    for part in ("Train", "Validation"):
        content = coco(part + "{}.png", root / "images" / part, part + "{}.png")
        write(root / f"annotations/instances_{part}.json", content)
    return root


def plain_coco_parts(root: Path) -> Path:
    for part in PARTS:
        write(root / f"{part}.json", coco(part + "{}.png", root / part, part + "{}.png"))
    return root


def label_studio_coco(root: Path) -> Path:
    return write(root / "result.json", coco("images\\{}.png", root / "images"))


def label_studio_addresses(root: Path) -> Path:
    write(root / "result.json", coco("../../label-studio/data/media/upload/1/{}.png", root / "images"))
    return root


def lvis(root: Path) -> Path:
    content = coco("{}", root / "train2017", "00000{}.jpg")
    for number, each in enumerate(content["images"]):
        del each["file_name"]
        each["coco_url"] = f"http://images.cocodataset.org/train2017/00000{number}.jpg"
        each |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    for each in content["annotations"]:
        del each["iscrowd"]
    return write(root / "lvis_v1_train.json", content)


def rings_without_points(root: Path) -> Path:
    content = coco("{}.png", root)
    for each in content["annotations"]:
        each["segmentation"] = [[]]
    write(root / "annotations.json", content)
    return root


def names_of_a_mac(root: Path) -> Path:
    """Its archives write an umlaut as two characters."""
    name = "Rohr grün {}.png"
    content = coco(unicodedata.normalize("NFC", name), root, unicodedata.normalize("NFD", name))
    write(root / "annotations.json", content)
    return root


def supervision_yolo(root: Path) -> Path:
    yolo(root / "images" / "train", "labels/train", "a {}")
    write(root / "data.yaml", "names:\n- pipe\n- valve\nnc: 2\n")
    return root


def cvat_darknet(root: Path) -> Path:
    for part in ("train", "valid"):
        yolo(root / f"obj_{part}_data", "", part + "{}")
        write(root / f"{part}.txt", "".join(f"data/obj_{part}_data/{part}{n}.JPG\n" for n in range(COUNT)))
    write(root / "obj.names", "pipe\nvalve\n")
    settings = "classes = 2\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\nbackup = backup/\n"
    write(root / "obj.data", settings)
    return root


def cvat_ultralytics(root: Path) -> Path:
    for part in PARTS:
        yolo(root / "images" / part, f"labels/{part}", part + "{}")
        write(root / f"{part}.txt", "".join(f"data/images/{part}/{part}{n}.JPG\n" for n in range(COUNT)))
    write(root / "data.yaml", "names:\n  0: pipe\n  1: valve\npath: .\ntrain: train.txt\nval: val.txt\n")
    return root


def poses(root: Path) -> Path:
    yolo(root / "images" / "train", "labels/train", line="0 .5 .5 .25 .5 .1 .1 2 .9 .9 1\n")
    write(root / "data.yaml", "path: ../datasets/x\ntrain: images/train\nval:\nkpt_shape: [2, 3]\nnames: {0: pipe}\n")
    return root


XML = """<?xml version='1.0' encoding='gb2312'?><annotation><folder>default</folder><filename>{}.jpg</filename>
<source><sourceImage></sourceImage></source>{}</annotation>"""
POINTS = """<object><name>管</name><deleted>{}</deleted><type>bounding_box</type><polygon>
<pt><x>5</x><y>6</y></pt><pt><x>25</x><y>6</y></pt><pt><x>25</x><y>36</y></pt><pt><x>5</x><y>36</y></pt>
<username></username></polygon></object>"""


def labelme_xml(root: Path) -> Path:
    """LabelMe 3.0 as CVAT writes it, in the encoding of a Chinese Windows; one object was taken away."""
    for n in range(COUNT):
        image(root / "default" / f"{n}.jpg")
        text = XML.format(n, POINTS.format(0) + POINTS.format(1))
        (root / "default" / f"{n}.xml").write_bytes(text.encode("gb2312"))
    return root


def labelme(root: Path, **shape: Any) -> Path:
    for n in range(COUNT):
        image(root / f"foto {n}.JPG")
        held = {"label": "pipe", "group_id": None, "description": "", "flags": {}, "mask": None, **shape}
        sides = {"imagePath": f"foto {n}.JPG", "imageData": None, "imageHeight": 48, "imageWidth": 64}
        write(root / f"foto {n}.json", {"version": "5.5.0", "flags": {}, "shapes": [held], **sides})
    return root


def painted(pixels: Any) -> str:
    """A mask as LabelMe 5.3 and later hold it."""
    data = io.BytesIO()
    Image.fromarray(np.asarray(pixels, dtype=bool)).save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


def labelme_mask(root: Path) -> Path:
    pixels = np.zeros((32, 22), dtype=bool)
    pixels[1:31, 1:21] = True
    return labelme(root, shape_type="mask", points=[[4.0, 5.0], [25.0, 36.0]], mask=painted(pixels))


EXPORTS: list[tuple[Callable[[Path], Path], str, tuple[int, ...], bool]] = [
    (cvat_coco, "coco", BOX, False),
    (cvat_coco_file, "coco", BOX, False),
    (cvat_coco_parts, "coco", BOX, True),
    (plain_coco_parts, "coco", BOX, True),
    (label_studio_coco, "coco", BOX, False),
    (label_studio_addresses, "coco", BOX, False),
    (lvis, "coco", BOX, False),
    (rings_without_points, "coco", BOX, False),
    (names_of_a_mac, "coco", BOX, False),
    (supervision_yolo, "yolo", YOLO_BOX, False),
    (cvat_darknet, "yolo", YOLO_BOX, True),
    (cvat_ultralytics, "yolo", YOLO_BOX, True),
    (poses, "yolo", YOLO_BOX, False),
    (labelme_xml, "voc", BOX, False),
    (labelme_mask, "labelme", BOX, False),
]


@pytest.mark.parametrize(("export", "kind", "box", "parts"), EXPORTS, ids=lambda value: getattr(value, "__name__", ""))
def test_an_export_is_read_as_it_was_meant(
    export: Callable[[Path], Path], kind: str, box: tuple[int, ...], parts: bool, tmp_path: Path
) -> None:
    root = tmp_path / "meine Fotos"
    read = read_annotations(export(root), validation=0.5)
    assert read.kind == kind and len(read.names) == 1
    assert len(read.train) + len(read.validation) == COUNT * (1 + parts)
    if parts:
        assert len(read.train) == len(read.validation) == COUNT
    for each in (*read.train, *read.validation):
        assert each.load().size == (64, 48)
        assert [held.xyxy for held in each.objects] == [box]


def test_a_painted_mask_is_where_it_was_painted(tmp_path: Path) -> None:
    read = read_annotations(labelme_mask(tmp_path / "set"), validation=0.5)
    mask = read.train[0].objects[0].mask((64, 48))
    assert mask is not None and mask[6:36, 5:25].all() and mask.sum() == 30 * 20


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ({"mask": "no base64"}, "damaged mask"),
        ({"mask": None}, "damaged mask"),
        ({"mask": painted(np.ones((40, 60)))}, "mask outside the image"),
        ({"mask": painted(np.zeros((4, 4)))}, "mask without a pixel"),
    ],
)
def test_a_painted_mask_that_cannot_be_is_told(shape: dict[str, Any], told: str, tmp_path: Path) -> None:
    root = labelme(tmp_path, shape_type="mask", points=[[10.0, 10.0], [13.0, 13.0]], **shape)
    with pytest.raises(AnnotationError) as caught:
        read_annotations(root)
    assert sum(told in fault and "shape 1 of foto" in fault for fault in caught.value.faults) == COUNT


def test_two_names_of_one_image_are_told(tmp_path: Path) -> None:
    """An end of a name that fits twice is no way to tell images apart."""
    content = coco("upload/{}.png", tmp_path)
    content["images"][1]["file_name"] = "other/0.png"
    write(tmp_path / "annotations.json", content)
    with pytest.raises(AnnotationError) as caught:
        read_annotations(tmp_path)
    assert any("image listed twice" in fault and "other/0.png" in fault for fault in caught.value.faults)
