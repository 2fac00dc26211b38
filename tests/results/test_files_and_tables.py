"""Results as tables, files, crops and previews; colours by name; labels in any script."""

import copy
import csv
import io
import json
import pickle
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import PHOTOS
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image

from vision_agent import (
    ArgumentTypeError,
    Detections,
    InputError,
    MissingExtraError,
    Points,
    Segmentation,
    VisionAgent,
)
from vision_agent.results import fonts

SIZE = (80, 60)
PHOTO = Image.new("RGB", SIZE, (40, 90, 160))
DOG = PHOTOS / "000000139872.jpg"


def some(labels: tuple[str, ...] = ("dog", "cat")) -> Detections:
    boxes = [[10.5, 10, 40.25, 50], [-5, 30, 20, 70]][: len(labels)]
    return Detections.from_arrays(
        boxes, [0.9, 0.5][: len(labels)], labels, image_size=SIZE, model="toy", phrases=("dog", "cat"), decoder="box"
    )


def masks() -> Segmentation:
    mask = np.zeros((1, SIZE[1], SIZE[0]), dtype=np.bool_)
    mask[0, 10:20, 30:50] = True
    return Segmentation.from_masks(mask, [0.8], ["dog"], image_size=SIZE, model="toy", mask_scores=[0.75])


def test_tables() -> None:
    frame = some().to_pandas()
    assert list(frame.columns) == ["label", "score", "x0", "y0", "x1", "y1"]
    assert frame.loc[0].tolist() == ["dog", 0.9, 10.5, 10, 40.25, 50] and len(frame) == 2
    assert frame[frame.score > 0.6].label.tolist() == ["dog"]
    empty = Detections.empty(SIZE, "toy").to_pandas()
    assert list(empty.columns) == list(frame.columns) and len(empty) == 0
    shapes = masks().to_pandas()
    assert shapes.loc[0, "area"] == 200 and shapes.loc[0, "mask_score"] == 0.75
    points = Points.from_detections(some()).to_pandas()
    assert points.loc[0].tolist() == ["dog", 0.9, 25.375, 30]


def test_tables_without_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match=r'pip install "internvl-vision-agent\[tables\]"'):
        some().to_pandas()


@pytest.mark.parametrize("result", [some(), masks()])
def test_files(result: Detections | Segmentation, tmp_path: Path) -> None:
    saved = result.save(tmp_path / "found.json")
    assert type(result).model_validate_json(saved.read_text()) == result
    result.save(str(tmp_path / "found.csv"))
    rows = list(csv.DictReader(io.StringIO((tmp_path / "found.csv").read_text())))
    assert [row["label"] for row in rows] == result.labels and float(rows[0]["x0"]) == result[0].box.x0
    for name, kind in (("a.PNG", "PNG"), ("a.jpg", "JPEG"), ("a.webp", "WEBP")):
        with Image.open(result.save(tmp_path / name, PHOTO)) as drawn:
            assert drawn.format == kind and drawn.size == SIZE
    with Image.open(tmp_path / "a.PNG") as drawn:
        assert np.array_equal(np.asarray(drawn), np.asarray(result.draw(PHOTO)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.PNG", "a.jpg", "a.webp", "found.csv", "found.json"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("found", "a file name that ends in .json, .csv, .png"),
        ("found.xlsx", "a file name that ends in"),
        ("found.png.exe", "a file name that ends in"),
        ("nowhere/found.png", "in a folder that exists"),
        ("file.json/found.png", "in a folder that exists"),
        ("folder.png", "a file, not a folder"),
    ],
)
def test_where_nothing_can_be_saved(path: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file.json").write_text("{}")
    with pytest.raises(InputError, match=said):  # before the image is even looked for
        some().save(tmp_path / path)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file.json", "folder.png"]


def test_a_drawing_needs_its_image(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="`image` must be the image of these detections, which is not kept"):
        some().save(tmp_path / "a.png")
    with pytest.raises(InputError, match="80 x 60"):
        some().save(tmp_path / "a.png", Image.new("RGB", (8, 8)))
    with pytest.raises(ArgumentTypeError, match="`path` must be a path"):
        some().save(3)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_crops() -> None:
    first, second = some().crop(PHOTO)
    assert first.size == (31, 40) and second.size == (20, 30)  # whole pixels, inside the image
    assert some()[:1].crop(PHOTO, margin=1)[0].size == (70, 60)
    assert masks().crop(PHOTO)[0].size == (20, 10)
    outside = Detections.from_arrays([[500, 500, 510, 510]], [1], ["x"], image_size=SIZE, model="toy")
    assert outside.crop(PHOTO)[0].size == (1, 1)
    for margin in (-0.1, float("nan"), True, "1", 1e9):
        with pytest.raises(InputError, match="`margin`"):
            some().crop(PHOTO, margin=margin)  # type: ignore[arg-type]


def test_two_results_of_one_image_are_one() -> None:
    other = Detections.from_arrays(
        [[0, 0, 5, 5]], [0.3], ["bird"], image_size=SIZE, model="other", phrases=("bird", "dog"), decoder="box"
    )
    both = some() + other
    assert both.labels == ["dog", "cat", "bird"] and both.phrases == ("dog", "cat", "bird")
    assert both.model == "toy, other" and both.decoder == "box"
    assert sum([some(), some()]) == some() + some() and len((some() + some()).nms()) == 2
    assert len(masks() + masks()) == 2 and len(Points.from_detections(some()) + Points.from_detections(other)) == 3
    with pytest.raises(InputError, match=r"of an image of \(80, 60\)"):
        some() + Detections.empty((60, 80), "toy")
    for wrong in (3, None, masks(), [some()]):
        with pytest.raises(TypeError):
            some() + wrong  # type: ignore[operator]


def test_previews_while_the_agent_keeps_the_image(agent: VisionAgent) -> None:
    agent.clear_cache()
    found = agent.detect("dog", DOG)
    png = found._repr_png_()
    assert png is not None
    with Image.open(io.BytesIO(png)) as shown:
        assert shown.size == (640, 480) and np.array_equal(np.asarray(shown), np.asarray(found.draw(DOG)))
    assert "data:image/jpeg;base64," in found._repr_html_()
    assert found[:0]._repr_png_() is not None and found.crop()[0].size == found.crop(DOG)[0].size
    segments = agent.segment("dog", DOG)
    assert segments._repr_png_() and segments.cutout().mode == "RGBA"
    again = agent.detect("dog", DOG)
    assert again == found and again._repr_png_() == png
    for other in (copy.deepcopy(found), pickle.loads(pickle.dumps(found)), found.model_copy()):
        assert other == found and hash(other) == hash(found)
    read = Detections.model_validate_json(found.model_dump_json())
    assert read == found and read._repr_png_() is None and "<img" not in read._repr_html_()
    agent.clear_cache()
    assert found._repr_png_() is None  # results do not fill the memory with images


@pytest.mark.parametrize(
    "color", ["lime", "LIME", "#00ff00", "#0F0", (0, 255, 0), [np.uint8(0), 255, 0], "rgb(0,255,0)"]
)
def test_colours_by_name(color: Any) -> None:
    expected = np.asarray(some().draw(PHOTO, colors={"dog": (0, 255, 0), "cat": (0, 255, 0)}))
    assert np.array_equal(np.asarray(some().draw(PHOTO, colors=color)), expected)
    assert np.array_equal(np.asarray(some().draw(PHOTO, colors={"dog": color, "cat": color})), expected)
    masks().draw(PHOTO, colors=color)


@pytest.mark.parametrize("color", ["", "gren", "#12", 7, (0, 0), (0, 0, 256), (0.5, 0, 0), (-1, 0, 0), None])
def test_no_colours(color: Any) -> None:
    for result in (some(), masks()):
        with pytest.raises(InputError, match=r"`colors\['dog'\]` must be a colour: a name such as"):
            result.draw(PHOTO, colors={"dog": color})


def test_coco_takes_the_ids_of_numpy() -> None:
    frame = some().to_coco(np.int64(7), {"dog": np.uint8(3), "cat": np.int32(9)})
    assert json.loads(json.dumps(frame)) == frame
    assert [each["category_id"] for each in frame["annotations"]] == [3, 9]
    assert {each["image_id"] for each in frame["annotations"]} == {7}
    assert json.dumps(masks().to_coco(np.int16(1)))
    for wrong in ("7", 7.0, None, True):
        with pytest.raises(InputError, match="`image_id` must be a whole number"):
            some().to_coco(wrong)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r"`category_ids\['dog'\]` must be a whole number"):
            some().to_coco(1, {"dog": wrong, "cat": 1})  # type: ignore[dict-item]


# --- labels in any script --------------------------------------------------------------------------------------------


def small_font(path: Path, characters: str) -> Path:
    """A TrueType font in which every one of the characters is a filled square."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 800), (800, 800), (800, 0)):
        pen.lineTo(corner)
    pen.closePath()
    square, empty = pen.glyph(), TTGlyphPen(None).glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord(each): "square" for each in characters})
    builder.setupGlyf({".notdef": empty, "square": square})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "square": (1000, 0)})
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return path


@pytest.fixture
def no_fonts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine whose only folder of fonts is the one that is returned."""
    folder = tmp_path / "fonts"
    folder.mkdir()
    monkeypatch.setattr(fonts, "_folders", lambda: [folder])
    monkeypatch.setattr(fonts, "_packaged", lambda: ())
    monkeypatch.setattr(fonts, "_COMMON", ())
    monkeypatch.setattr(fonts, "_warned", set())
    for cache in (fonts._installed, fonts._font_for):
        cache.cache_clear()
    yield folder  # type: ignore[misc]
    for cache in (fonts._installed, fonts._font_for):
        cache.cache_clear()


def drawn(label: str, **settings: Any) -> np.ndarray:
    found = Detections.from_arrays([[5, 60, 390, 190]], [0.87], [label], image_size=(400, 200), model="toy")
    return np.asarray(found.draw(Image.new("RGB", (400, 200)), **settings))


def test_a_missing_character_is_told_once_with_what_helps(no_fonts: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"'猫写'.*vision-agent\[fonts\].*font='a font.ttf'"):
        boxes = drawn("猫 写 cat")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(drawn("猫 写 cat"), boxes)  # once
        chosen = small_font(tmp_path / "squares.ttf", "猫写")
        helped = drawn("猫 写 cat", font=chosen)
        assert np.array_equal(drawn("dog", font=chosen), drawn("dog"))  # the letters are Pillow's own
    assert not np.array_equal(helped, boxes)


def test_a_font_of_the_machine_is_found(no_fonts: Path, tmp_path: Path) -> None:
    (no_fonts / "deep" / "er").mkdir(parents=True)
    (no_fonts / "broken.ttf").write_bytes(b"no font")
    font = small_font(no_fonts / "deep" / "er" / "Squares-Regular.ttf", "狗कсобака")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = drawn("狗 क собака dog")
    assert np.array_equal(found, drawn("狗 क собака dog", font=font))


def test_the_extra_has_fonts_for_a_machine_that_has_none(no_fonts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(UserWarning, match="no font of this machine"):
        boxes = [drawn(label) for label in ("狗", "いぬ", "개", "σκύλος", "собака")]
    monkeypatch.undo()
    fonts._font_for.cache_clear()
    monkeypatch.setattr(fonts, "_COMMON", ())
    monkeypatch.setattr(fonts, "_folders", lambda: [no_fonts])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pictures = [drawn(label) for label in ("狗", "いぬ", "개", "σκύλος", "собака")]
    assert not any(np.array_equal(one, other) for one, other in zip(boxes, pictures, strict=True))
    names = {Path(fonts._font_for(character, None) or "").name for character in "狗ぬ개σб"}
    assert names == {"NotoSansCJK-Regular.ttc", "NotoSans[wdth,wght].ttf"}


def test_segments_take_a_font_too(no_fonts: Path, tmp_path: Path) -> None:
    named = masks()[0].model_copy(update={"label": "猫"})
    result = masks().model_copy(update={"segments": (named,)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result.draw(PHOTO, font=small_font(tmp_path / "squares.ttf", "猫"))


@pytest.mark.parametrize("font", ["nothing.ttf", "", 3, DOG])
def test_what_is_no_font(font: Any) -> None:
    for result in (some(), masks()):
        with pytest.raises(InputError, match="`font` must be the path of a TrueType or OpenType font"):
            result.draw(PHOTO, font=font)


@pytest.mark.parametrize(
    "label",
    [
        "\u0915\u094d\u0937\u0924\u094d\u0930\u093f\u092f",  # Devanagari
        "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645",  # Arabic
        "\U0001f468\u200d\U0001f469\u200d\U0001f467 family",
        "e\u0301a\u0300",
        "\u200d",
        "\ufe0f",
        "\U0001d518\U0001d52b",
    ],
)
def test_any_label_is_drawn(label: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert drawn(label).shape == (200, 400, 3)


def test_other_labels_keep_the_rest() -> None:
    found = some()
    renamed = found.renamed({"dog": "狗", "frisbee": "飞盘"})
    assert list(renamed.labels) == ["狗", "cat"] and renamed.phrases == ("狗", "cat")
    assert np.array_equal(renamed.xyxy, found.xyxy) and np.array_equal(renamed.scores, found.scores)
    assert renamed.renamed({"狗": "dog"}) == found
    assert masks().renamed({"dog": "hund"})[0].mask == masks()[0].mask
    for wrong in (["狗"], {"dog": 3}, "狗"):
        with pytest.raises(ArgumentTypeError, match="`labels`"):
            found.renamed(wrong)  # type: ignore[arg-type]
