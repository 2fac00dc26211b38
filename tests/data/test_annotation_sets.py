"""Reading users' annotations: formats as tools write them, and every fault told at once before anything is trained."""

import base64
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vision_agent.data.annotations.annotation_sets import held_back, read_annotations
from vision_agent.errors import AnnotationError, InputError

SIZE = (64, 48)


def picture(path: Path, size: tuple[int, int] = SIZE, **saved: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 120, 150)).save(path, **saved)
    return path


def coco(count: int = 4) -> dict[str, Any]:
    return {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 64, "height": 48} for n in range(count)],
        "annotations": [
            {"id": 10 + n, "image_id": n, "category_id": n % 2 + 1, "bbox": [5, 6, 20, 30]} for n in range(count)
        ],
        "categories": [{"id": 1, "name": "pipe"}, {"id": 2, "name": "valve"}],
    }


def written(folder: Path, content: Any) -> Path:
    for image in content["images"]:
        picture(folder / "images" / image["file_name"])
    path = folder / "annotations.json"
    path.write_text(json.dumps(content), "utf-8")
    return path


def faults_of(path: Path, **given: Any) -> tuple[str, ...]:
    with pytest.raises(AnnotationError) as caught:
        read_annotations(path, **given)
    return caught.value.faults


def test_coco_gives_boxes_in_pixels_with_names_and_outlines(tmp_path: Path) -> None:
    content = coco()
    ring = [5, 6, 25, 6, 25, 36, 5, 36]
    content["annotations"][0]["segmentation"] = [ring]
    content["annotations"][1] |= {"iscrowd": 1, "segmentation": {"size": [48, 64], "counts": [0, 48, 48 * 63]}}
    content["annotations"][2]["segmentation"] = []
    read = read_annotations(written(tmp_path, content), validation=0.5)
    by_file = {image.file: image for image in (*read.train, *read.validation)}
    (first,), (second,), (third,) = (by_file[f"{n}.png"].objects for n in range(3))
    assert read.kind == "coco" and read.names == ("pipe", "valve") and len(by_file) == 4
    assert first.name == "pipe" and first.xyxy == (5, 6, 25, 36) and first.polygons == (tuple(ring),)
    mask = first.mask(SIZE)
    assert mask is not None and mask.shape == (48, 64) and mask.sum() == 20 * 30
    assert second.crowd and second.outlined and second.mask(SIZE)[:, 0].all() and second.mask(SIZE).sum() == 48
    assert not third.outlined and third.mask(SIZE) is None


def change(part: str, place: int, **fields: Any) -> Callable[[dict[str, Any]], None]:
    def changed(content: dict[str, Any]) -> None:
        content[part][place] |= fields

    return changed


def box(*values: Any) -> Callable[[dict[str, Any]], None]:
    return change("annotations", 0, bbox=list(values))


def outline(value: Any) -> Callable[[dict[str, Any]], None]:
    return change("annotations", 0, segmentation=value)


@pytest.mark.parametrize(
    ("planted", "told", "place"),
    [
        pytest.param(change("annotations", 1, image_id=99), "unknown image id", "annotation 11", id="image"),
        pytest.param(change("annotations", 1, category_id=7), "unknown category id", "annotation 11", id="category"),
        pytest.param(
            change("annotations", 1, id=10), "duplicate annotation id", "annotation 10", id="annotation twice"
        ),
        pytest.param(change("images", 1, id=0), "duplicate image id", "image 0", id="image twice"),
        pytest.param(change("images", 1, file_name="0.png"), "image listed twice", "image 1", id="file twice"),
        pytest.param(change("images", 0, width=640), "wrong size", "0.png", id="size lies"),
        pytest.param(change("images", 0, width=48, height=64), "wrong size", "0.png", id="sides swapped"),
        pytest.param(change("images", 0, width="x"), "impossible size", "0.png", id="size is text"),
        pytest.param(box(50, 6, 20, 30), "box outside the image", "annotation 10", id="right of the image"),
        pytest.param(box(-8, 6, 20, 30), "box outside the image", "annotation 10", id="left of the image"),
        pytest.param(box(500, 600, 20, 30), "box outside the image", "annotation 10", id="beyond the image"),
        pytest.param(box(5, 6, -20, 30), "negative width or height", "annotation 10", id="negative"),
        pytest.param(box(5, 6, 0, 30), "box of zero area", "annotation 10", id="no width"),
        pytest.param(box(5, 6, float("nan"), 30), "no finite number", "annotation 10", id="NaN"),
        pytest.param(box(5, 6, float("inf"), 30), "no finite number", "annotation 10", id="infinite"),
        pytest.param(box(5, 6, "20", 30), "no finite number", "annotation 10", id="text"),
        pytest.param(box(5, 6, 20, True), "no finite number", "annotation 10", id="truth value"),
        pytest.param(box(0.1, 0.2, 0.4, 0.5), "box in 0-1", "annotation 10", id="0-1"),
        pytest.param(box(5, 6, 20), "not of four numbers", "annotation 10", id="three numbers"),
        pytest.param(box(), "not of four numbers", "annotation 10", id="no number"),
        pytest.param(outline([[5, 6, 25, 6, 25]]), "odd count", "annotation 10", id="odd polygon"),
        pytest.param(outline([[5, 6, 25, 6]]), "fewer than three points", "annotation 10", id="line"),
        pytest.param(outline([[5, 6, 25, 6, 25, 600]]), "polygon outside", "annotation 10", id="polygon outside"),
        pytest.param(outline([[5, 6, 25, 6, 25, None]]), "no finite number", "annotation 10", id="polygon of null"),
        pytest.param(
            outline({"size": [48, 64], "counts": [5]}), "damaged run lengths", "annotation 10", id="short RLE"
        ),
        pytest.param(outline({"size": [64, 48], "counts": [0]}), "of another size", "annotation 10", id="turned RLE"),
        pytest.param(outline({"counts": "abc"}), "without a size", "annotation 10", id="RLE without a size"),
        pytest.param(outline("5,6,7"), "no list of polygons", "annotation 10", id="outline is text"),
        pytest.param(change("categories", 1, name=" "), "empty name", "category 2", id="empty name"),
        pytest.param(change("categories", 1, name=None), "empty name", "category 2", id="no name"),
        pytest.param(change("categories", 1, name="Pipe"), "duplicate name", "category 2", id="name twice"),
        pytest.param(change("categories", 1, id=1), "duplicate category id", "category 1", id="category twice"),
        pytest.param(lambda c: c["images"].clear(), "empty set", "images", id="no images"),
        pytest.param(lambda c: c["annotations"].clear(), "empty set", "annotations", id="no annotations"),
        pytest.param(lambda c: c["categories"].clear(), "empty set", "categories", id="no categories"),
        pytest.param(lambda c: c.pop("categories"), "no COCO file", "", id="a part is missing"),
    ],
)
def test_a_planted_fault_is_told_with_its_place(
    planted: Callable[[dict[str, Any]], Any], told: str, place: str, tmp_path: Path
) -> None:
    content = coco()
    planted(content)
    faults = faults_of(written(tmp_path, content))
    assert any(told in fault and place in fault and "annotations.json" in fault for fault in faults), faults


def test_all_faults_are_told_at_once_and_may_be_left_out(tmp_path: Path) -> None:
    content = coco(6)
    box(5, 6, 0, 30)(content)
    change("annotations", 1, bbox=[1, 2, 3])(content)
    change("annotations", 2, category_id=7)(content)
    path = written(tmp_path, content)
    (tmp_path / "images" / "3.png").write_bytes((tmp_path / "images" / "3.png").read_bytes()[:60])
    (tmp_path / "images" / "4.png").unlink()
    content["annotations"] += [
        {"id": 90 + n, "image_id": 5, "category_id": 1, "bbox": [1, 1, -3, 5]} for n in range(30)
    ]
    content["annotations"].append({"id": 200, "image_id": 5, "category_id": 1, "bbox": [1, 1, 9, 9]})
    content["annotations"].append({"id": 201, "image_id": 0, "category_id": 2, "bbox": [1, 1, 9, 9]})
    path.write_text(json.dumps(content), "utf-8")
    with pytest.raises(AnnotationError) as caught:
        read_annotations(path)
    message = str(caught.value)
    assert len(caught.value.faults) == 35
    assert "30 x negative width or height" in message and "negative width or height: 10 more" in message
    for told in ("1 x damaged image", "1 x missing image", "1 x unknown category id", "--skip-bad"):
        assert told in message
    read = read_annotations(path, skip_bad=True)
    kept = [each for image in (*read.train, *read.validation) for each in image.objects]
    assert len(kept) == 3 and len(read.left_out) == 35
    assert {image.file for image in (*read.train, *read.validation)} == {"0.png", "1.png", "2.png", "5.png"}


@pytest.mark.parametrize("text", ["{", "", "[1, 2", "nonsense", "[" * 100_000])
def test_a_file_that_is_no_json_is_told(text: str, tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    path.write_text(text, "utf-8")
    with pytest.raises(AnnotationError, match="no JSON"):
        read_annotations(path, skip_bad=True)
    path.write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(AnnotationError, match="no JSON"):
        read_annotations(path)
    path.write_text("[]", "utf-8")
    with pytest.raises(AnnotationError, match="no COCO file"):
        read_annotations(path)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "set", coco())
    picture(tmp_path / "secret.png")
    (tmp_path / "set" / "images" / "0.png").unlink()
    os.symlink(tmp_path / "secret.png", tmp_path / "set" / "images" / "0.png")
    assert any("link out of the folder" in fault and "0.png" in fault for fault in faults_of(path))
    content = coco()
    change("images", 0, file_name="../../secret.png")(content)
    path.write_text(json.dumps(content), "utf-8")
    assert any("link out of the folder" in fault for fault in faults_of(path))
    change("images", 0, file_name=str(tmp_path / "secret.png"))(content)
    path.write_text(json.dumps(content), "utf-8")
    assert any("link out of the folder" in fault for fault in faults_of(path))


def test_a_rotated_image_is_told_unless_the_size_says_which_way_boxes_go(tmp_path: Path) -> None:
    content = coco()
    change("images", 0, file_name="0.jpg")(content)
    path = written(tmp_path, content)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(tmp_path / "images" / "0.jpg", SIZE, exif=exif)  # 48 x 64 upright
    assert any("EXIF-rotated image" in fault and "0.jpg" in fault for fault in faults_of(path))
    change("images", 0, width=48, height=64)(content)
    path.write_text(json.dumps(content), "utf-8")
    read = read_annotations(path)
    assert {image.file: image.size for image in (*read.train, *read.validation)}["0.jpg"] == (48, 64)


def test_an_image_keeps_its_side_when_others_are_added(tmp_path: Path) -> None:
    few, more = (
        read_annotations(written(tmp_path / str(count), coco(count)), validation=0.4).validation for count in (40, 80)
    )
    assert {image.file for image in few} <= {image.file for image in more}
    assert all(held_back(image.file, 0.4) for image in more) and 20 < len(more) < 45


def test_a_second_file_is_the_validation_part_and_shares_no_image(tmp_path: Path) -> None:
    path, content = written(tmp_path, coco(3)), coco(5)
    other = tmp_path / "other.json"
    content["images"], content["annotations"] = content["images"][3:], content["annotations"][3:]
    for image in content["images"]:
        picture(tmp_path / "images" / image["file_name"])
    other.write_text(json.dumps(content), "utf-8")
    read = read_annotations(path, validation=other)
    assert [len(read.train), len(read.validation)] == [3, 2] and read.count("pipe") == (2, 1)
    other.write_text(json.dumps(coco(3)), "utf-8")
    with pytest.raises(AnnotationError, match="image in both parts"):
        read_annotations(path, validation=other, skip_bad=True)


@pytest.mark.parametrize("wrong", [0, 1, -0.1, 1.5, True, float("nan"), "no/such.json", None])
def test_a_share_that_makes_no_sense_is_refused(wrong: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="`validation` must be"):
        read_annotations(written(tmp_path, coco()), validation=wrong)


@pytest.mark.parametrize("given", [{"data": "no/such"}, {"images": "no/such"}, {"kind": "csv"}])
def test_arguments_are_checked(given: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"`{next(iter(given))}` must be"):
        read_annotations(**({"data": written(tmp_path, coco())} | given))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="a folder with a COCO JSON"):
        read_annotations(empty)


# --- as Roboflow exports them: train, valid and test, in three formats


def test_a_coco_export_of_roboflow(tmp_path: Path) -> None:
    for part, count in (("train", 3), ("valid", 2), ("test", 1)):
        content = coco(count)
        for image in content["images"]:
            image["file_name"] = f"IMG_{image['id']}_jpg.rf.0a1b2c{part}.jpg"
            picture(tmp_path / part / image["file_name"])
        # The root of its tree comes first, with the project's name, which may be that of a class.
        content["categories"] = [
            {"id": 0, "name": "pipe", "supercategory": "none"},
            {"id": 1, "name": "pipe", "supercategory": "pipe"},
            {"id": 2, "name": "valve", "supercategory": "pipe"},
        ]
        content["annotations"] = [
            each | {"segmentation": [], "area": 600.5, "iscrowd": 0} for each in content["annotations"]
        ]
        (tmp_path / part / "_annotations.coco.json").write_text(json.dumps(content), "utf-8")
    read = read_annotations(tmp_path)
    assert (read.kind, len(read.train), len(read.validation), read.names) == ("coco", 3, 2, ("pipe", "valve"))


def yolo(folder: Path, labels: dict[str, bytes], settings: str) -> Path:
    """A YOLO folder: labels by "part/name"."""
    for name, content in labels.items():
        part, stem = name.split("/")
        picture(folder / part / "images" / f"{stem}.jpg")
        (folder / part / "labels").mkdir(exist_ok=True)
        (folder / part / "labels" / f"{stem}.txt").write_bytes(content)
    (folder / "data.yaml").write_text(settings, "utf-8")
    return folder


ROBOFLOW_YAML = """train: ../train/images
val: ../valid/images
test: ../test/images

nc: 2
names: ['pipe', 'valve']

roboflow:
  workspace: plant
  license: CC BY 4.0
"""


def test_a_yolo_export_of_roboflow_with_the_quirks_of_its_tools(tmp_path: Path) -> None:
    labels = {
        "train/a.rf.12": b"0 0.5 0.5 0.25 0.5\r\n\r\n1 0.25 0.25 0.125 0.25\r\n   \r\n",
        "train/b": b"\xef\xbb\xbf1 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75\n",  # an outline, after a mark of UTF-8
        "train/empty": b"",
        "valid/c": b"0 0.5 0.5 1.0000001 1",
    }
    folder = yolo(tmp_path / "set", labels, ROBOFLOW_YAML)
    picture(folder / "train" / "images" / "background.png")  # no text file: nothing is on it
    for data in (folder, folder / "data.yaml"):
        read = read_annotations(data)
        by_file = {image.file: image.objects for image in (*read.train, *read.validation)}
        assert (read.kind, len(read.train), len(read.validation)) == ("yolo", 4, 1)
        first, second = by_file["train/images/a.rf.12.jpg"]
        assert (first.name, first.xyxy, second.name) == ("pipe", (24, 12, 40, 36), "valve")
        (third,) = by_file["train/images/b.jpg"]
        assert third.xyxy == (16, 12, 48, 36) and third.mask(SIZE).sum() == 32 * 24
        assert by_file["valid/images/c.jpg"][0].xyxy == (0, 0, 64, 48)
        assert by_file["train/images/background.png"] == ()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"2 0.5 0.5 0.25 0.5", "class beyond the names"),
        (b"-1 0.5 0.5 0.25 0.5", "class beyond the names"),
        (b"pipe 0.5 0.5 0.25 0.5", "class that is no whole number"),
        (b"0 0.5 0.5 0.25", "not of four numbers"),
        (b"0 0.9 0.5 0.5 0.5", "box outside the image"),
        (b"0 32 24 16 12", "box in pixels"),
        (b"0 0.5 0.5 0 0.5", "zero area"),
        (b"0 0.5 0.5 -0.2 0.5", "negative width"),
        (b"0 0.5 nan 0.2 0.5", "no finite number"),
        (b"0 0.1 0.1 0.5 0.1 0.5 0.5 0.9", "odd count"),
        (b"0 0.1 0.1 0.5 0.1 0.5 1.9", "polygon outside"),
        (b"0 0,5 0,5 0,2 0,5", "no finite number"),
    ],
)
def test_a_fault_in_a_yolo_line_is_told_with_its_line(line: bytes, told: str, tmp_path: Path) -> None:
    good = b"0 0.5 0.5 0.25 0.5\r\n"
    folder = yolo(tmp_path, {"train/a": good + b"\r\n" + line, "valid/b": good}, ROBOFLOW_YAML)
    faults = faults_of(folder)
    assert [fault for fault in faults if told in fault and "a.txt" in fault and "line 3" in fault], faults


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ("train: train/images\nval: valid/images\nnames: {0: pipe, 1: valve}\nnc: 3\n", "wrong count of names"),
        ("train: train/images\nval: valid/images\nnames: {1: pipe, 2: valve}\n", "names not numbered from 0"),
        ("train: train/images\nval: valid/images\nnames: [pipe, pipe]\n", "duplicate name"),
        ("train: train/images\nval: valid/images\nnames: [pipe, '']\n", "empty name"),
        ("train: train/images\nval: valid/images\n", "no list of names"),
        ("train: nowhere/images\nnames: [pipe]\n", "no folder of images"),
        ("train: /etc\nnames: [pipe]\n", "link out of the folder"),
        ("train: [", "no YAML"),
        ("!!python/object/apply:os.system ['true']", "no YAML"),
    ],
)
def test_a_fault_in_data_yaml_is_told(settings: str, told: str, tmp_path: Path) -> None:
    good = b"0 0.5 0.5 0.25 0.5\n"
    folder = yolo(tmp_path, {"train/a": good, "valid/b": good}, settings)
    assert any(told in fault and "data.yaml" in fault for fault in faults_of(folder, skip_bad=True))


def test_darknet_folders_and_lists_of_images(tmp_path: Path) -> None:
    for stem in "ab":
        picture(tmp_path / f"{stem}.jpg")
        (tmp_path / f"{stem}.txt").write_text("1 0.5 0.5 0.25 0.5\n", "utf-8")
    (tmp_path / "classes.txt").write_text("pipe\r\nvalve\r\n", "utf-8")
    read = read_annotations(tmp_path, validation=0.5)
    assert (read.kind, read.names, len(read.train), len(read.validation)) == ("yolo", ("valve",), 1, 1)
    folder = yolo(tmp_path / "set", {"train/a": b"0 .5 .5 .2 .2", "train/b": b"1 .5 .5 .2 .2"}, "")
    (folder / "train.txt").write_text("./train/images/a.jpg\n", "utf-8")
    (folder / "val.txt").write_text("train/images/b.jpg\n", "utf-8")
    (folder / "data.yaml").write_text("path: /elsewhere\ntrain: train.txt\nval: val.txt\nnames: {0: pipe, 1: valve}\n")
    read = read_annotations(folder)
    assert [image.file for image in (*read.train, *read.validation)] == ["train/images/a.jpg", "train/images/b.jpg"]
    (folder / "train" / "labels" / "lost.txt").write_text("0 .5 .5 .2 .2", "utf-8")
    assert any("missing image" in fault and "lost.txt" in fault for fault in faults_of(folder))


VOC = """<annotation>
  <folder>VOC2007</folder><filename>{file}</filename>
  <source><database>The VOC2007 Database</database></source>
  <size><width>{width}</width><height>48</height><depth>3</depth></size><segmented>0</segmented>
  <object><name>pipe</name><pose>Left</pose><truncated>1</truncated><difficult>0</difficult>
    <bndbox><xmin>{left}</xmin><ymin>6.4</ymin><xmax>25</xmax><ymax>36.75</ymax></bndbox>
    <part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part>
  </object>
</annotation>"""


def voc(folder: Path, stem: str, left: str = "5.5", file: str | None = None, width: int = 64) -> None:
    (folder / "Annotations").mkdir(parents=True, exist_ok=True)
    picture(folder / "JPEGImages" / f"{stem}.jpg")
    text = VOC.format(file=file or f"{stem}.jpg", left=left, width=width)
    (folder / "Annotations" / f"{stem}.xml").write_text(text, "utf-8")


def test_voc_with_coordinates_that_have_fractions_and_names_that_lie(tmp_path: Path) -> None:
    voc(tmp_path, "000001")
    voc(tmp_path, "000002", file="C:\\Users\\me\\000002.png")  # renamed after it was annotated
    read = read_annotations(tmp_path, validation=0.5)
    (first,) = next(image.objects for image in (*read.train, *read.validation) if image.file == "000001.jpg")
    assert (read.kind, first.name, first.xyxy) == ("voc", "pipe", (5.5, 6.4, 25, 36.75))
    voc(tmp_path, "000003")
    for part, lines in (("train", "000001\n000002  1\n"), ("val", "000003 -1\n")):
        (tmp_path / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
        (tmp_path / "ImageSets" / "Main" / f"{part}.txt").write_text(lines, "utf-8")
    read = read_annotations(tmp_path)
    assert [len(read.train), len(read.validation)] == [2, 1]


def test_a_voc_export_of_roboflow(tmp_path: Path) -> None:
    for part in ("train", "valid"):
        picture(tmp_path / part / "a_jpg.rf.1.jpg" if part == "train" else tmp_path / part / "b_jpg.rf.2.jpg")
        stem = "a_jpg.rf.1" if part == "train" else "b_jpg.rf.2"
        (tmp_path / part / f"{stem}.xml").write_text(VOC.format(file=f"{stem}.jpg", left=5, width=64), "utf-8")
    read = read_annotations(tmp_path)
    assert (read.kind, len(read.train), len(read.validation)) == ("voc", 1, 1)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"left": "40"}, "negative width or height"),
        ({"left": "-20"}, "box outside the image"),
        ({"left": ""}, "no finite number"),
        ({"width": 65}, "wrong size"),
        ({"left": "</xmin><oops>"}, "no XML"),
    ],
)
def test_a_fault_in_a_voc_file_is_told(given: dict[str, Any], told: str, tmp_path: Path) -> None:
    voc(tmp_path, "good")
    voc(tmp_path, "bad", **given)
    assert any(told in fault and "bad.xml" in fault for fault in faults_of(tmp_path))


def test_entities_are_not_expanded(tmp_path: Path) -> None:
    voc(tmp_path, "good")
    voc(tmp_path, "bad")
    bomb = '<!DOCTYPE a [<!ENTITY b "&c;&c;"><!ENTITY c "x">]>' + VOC.format(file="bad.jpg", left=5, width=64)
    (tmp_path / "Annotations" / "bad.xml").write_text(bomb, "utf-8")
    assert any("declarations of its own" in fault for fault in faults_of(tmp_path))


def labelme(shapes: list[dict[str, Any]], file: str = "a.png", data: str | None = None) -> dict[str, Any]:
    sides = {"imageWidth": 64, "imageHeight": 48}
    return {"version": "5.2.1", "flags": {}, "shapes": shapes, "imagePath": file, "imageData": data, **sides}


def test_labelme_with_corners_in_any_order_and_images_inside(tmp_path: Path) -> None:
    shapes = [
        {"label": "pipe", "points": [[25, 36], [5, 6]], "shape_type": "rectangle", "group_id": None, "flags": {}},
        {"label": "valve", "points": [[5, 36], [25, 6]], "shape_type": "rectangle"},
        {"label": "valve", "points": [[10, 10], [30, 10], [30, 30]], "shape_type": "polygon"},
        {"label": "valve", "points": [[20, 20], [30, 20]], "shape_type": "circle"},
    ]
    inside = base64.b64encode(picture(tmp_path / "elsewhere.png").read_bytes()).decode()
    (tmp_path / "elsewhere.png").unlink()
    (tmp_path / "a.json").write_text(json.dumps(labelme(shapes, "..\\photos\\a.png", inside)), "utf-8")
    picture(tmp_path / "b.png")
    (tmp_path / "b.json").write_text(json.dumps(labelme(shapes[:1], "b.png")), "utf-8")
    read = read_annotations(tmp_path, validation=0.5)
    images = {image.file: image for image in (*read.train, *read.validation)}
    objects = images["../photos/a.png"].objects
    assert read.kind == "labelme" and [each.name for each in objects] == ["pipe", "valve", "valve", "valve"]
    assert objects[0].xyxy == objects[1].xyxy == (5, 6, 25, 36)
    assert objects[2].outlined and objects[2].xyxy == (10, 10, 30, 30)
    assert np.allclose(objects[3].xyxy, (10, 10, 30, 30))
    assert images["../photos/a.png"].load().size == SIZE


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ({"label": "", "points": [[5, 6], [25, 36]], "shape_type": "rectangle"}, "empty name"),
        ({"label": "pipe", "points": [[5, 6], [25]], "shape_type": "rectangle"}, "no pairs of numbers"),
        ({"label": "pipe", "points": [[5, 6]], "shape_type": "point"}, "bounds nothing"),
        ({"label": "pipe", "points": [[5, 6], [5, 36]], "shape_type": "rectangle"}, "zero area"),
        ({"label": "pipe", "points": [[5, 6], [25, 6]], "shape_type": "polygon"}, "fewer than three points"),
        ({"label": "pipe", "points": [[5, 6], [250, 36]], "shape_type": "rectangle"}, "box outside"),
    ],
)
def test_a_fault_in_a_labelme_file_is_told(shape: dict[str, Any], told: str, tmp_path: Path) -> None:
    good = {"label": "pipe", "points": [[5, 6], [25, 36]], "shape_type": "rectangle"}
    for name, shapes in (("a", [good]), ("b", [good, shape])):
        picture(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.json").write_text(json.dumps(labelme(shapes, f"{name}.png")), "utf-8")
    assert any(told in fault and "b.json" in fault and "shape 2" in fault for fault in faults_of(tmp_path))


def test_no_damage_of_a_file_gives_anything_but_a_clear_error(tmp_path: Path) -> None:
    """Values of random places replaced by values of other types: what is read is sound, or the error is ours."""
    path = written(tmp_path, coco())
    wrong = (None, -1, 1e400, "x", [], {}, True, 10**30, [[1]], float("nan"))
    for seed in range(150):
        rng, content = random.Random(seed), coco()
        for _ in range(rng.randint(1, 3)):
            part = content[rng.choice(sorted(content))]
            place = rng.randrange(len(part))
            if isinstance(part[place], dict) and rng.random() < 0.9:
                part[place][rng.choice(sorted(part[place]))] = rng.choice(wrong)
            else:
                part[place] = rng.choice(wrong)
        path.write_text(json.dumps(content), "utf-8")
        for skip_bad in (False, True):
            try:
                read = read_annotations(path, skip_bad=skip_bad)
            except AnnotationError as error:
                assert error.faults
            else:
                assert all(
                    0 <= each.xyxy[0] < each.xyxy[2] <= image.size[0] and each.name
                    for image in (*read.train, *read.validation)
                    for each in image.objects
                )
