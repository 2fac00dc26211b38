"""RefCOCO's published files as data to train on: a pickle of Python 2, COCO's objects, photos of 2014."""

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from refcoco_files import INSTANCES, REFERENCES, published, reference

from vision_agent.data.annotations.annotation_sets import read_annotations
from vision_agent.errors import AnnotationError, InputError


def test_expressions_name_the_objects_that_they_mean(tmp_path: Path) -> None:
    for data in (published(tmp_path), tmp_path / "refs(unc).p"):
        read = read_annotations(data)
        assert (read.kind, read.by_expressions, len(read.train), len(read.validation)) == ("refcoco", True, 1, 1)
        left, right = read.train[0].objects
        assert left.names == ("left dog", "the dog on the left", "dog in front") and left.xyxy == (2, 5, 22, 35)
        assert right.names == ("right dog",) and right.outlined
        assert read.validation[0].objects[0].names == ("brown dog",)
        assert read.count("dog in front") == (1, 0) and len(read.names) == 5


def test_expressions_of_several_objects_and_of_none(tmp_path: Path) -> None:
    """gRefCOCO: a list of ids, and -1 where nothing is meant."""
    (published(tmp_path) / "refs(unc).p").unlink()
    some = [reference(1, "train", 7, [70, 71], "both dogs"), reference(2, "train", 7, [-1], "the cat")]
    (tmp_path / "grefs(unc).json").write_text(json.dumps([*some, reference(3, "val", 8, [80], "a dog")]), "utf-8")
    read = read_annotations(tmp_path, images=tmp_path / "train2014")
    assert [each.names for each in read.train[0].objects] == [("both dogs",), ("both dogs",)]


def changed(place: int, **fields: Any) -> Callable[[Any, Any], None]:
    def change(references: Any, instances: Any) -> None:
        references[place] |= fields

    return change


def broken_box(references: Any, instances: Any) -> None:
    instances["annotations"][0]["bbox"] = [2, 5, -20, 30]


def lying_size(references: Any, instances: Any) -> None:
    instances["images"][0]["width"] = 640


@pytest.mark.parametrize(
    ("change", "told", "place"),
    [
        (changed(0, ann_id=12345), "unknown annotation id", "reference 1"),
        (changed(0, image_id=12345), "unknown image id", "reference 1"),
        (changed(1, sentences=[]), "reference without an expression", "reference 2"),
        (changed(1, sentences=[{"sent": "  "}]), "reference without an expression", "reference 2"),
        (changed(3, image_id=9, ann_id=90), "missing image", "COCO_train2014_000000000009.jpg"),
        (broken_box, "negative width", "annotation 70"),
        (lying_size, "wrong size", "COCO_train2014_000000000007.jpg"),
    ],
)
def test_a_fault_is_told_with_its_reference(
    change: Callable[[Any, Any], None], told: str, place: str, tmp_path: Path
) -> None:
    references, instances = copy.deepcopy(REFERENCES), copy.deepcopy(INSTANCES)
    change(references, instances)
    with pytest.raises(AnnotationError) as caught:
        read_annotations(published(tmp_path, references, instances))
    assert any(told in fault and place in fault for fault in caught.value.faults), caught.value.faults


def test_a_pickle_is_never_run_and_other_folders_are_refused(tmp_path: Path) -> None:
    path = published(tmp_path) / "refs(unc).p"
    path.write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    with pytest.raises(AnnotationError, match="cannot be read"):
        read_annotations(tmp_path)
    path.write_bytes(pickle.dumps({"no": "list"}))
    with pytest.raises(AnnotationError, match="no reference"):
        read_annotations(tmp_path)
    (tmp_path / "refs(google).p").write_bytes(path.read_bytes())
    with pytest.raises(InputError, match=r"name refs\(google\).p, refs\(unc\).p"):
        read_annotations(tmp_path)
    (tmp_path / "instances.json").unlink()
    with pytest.raises(InputError, match=r"instances\.json"):
        read_annotations(path)
