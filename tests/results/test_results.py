"""Results: values, sequences, JSON, exports that other programs load, and drawings checked on their pixels."""

import contextlib
import copy
import io
import json
import pickle
import sys
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import BaseModel, ValidationError

from vision_agent.errors import ArgumentTypeError, InputError, MissingExtraError
from vision_agent.results import annotate
from vision_agent.results.answers import Answer, RoutedText
from vision_agent.results.box import Box
from vision_agent.results.detections import Detection, Detections

SIZE = (640, 480)
COLOR = (12, 200, 34)


def some(
    labels: Sequence[str] = ("red car", "dog", "red car"), phrases: Sequence[str] = ("dog", "red car")
) -> Detections:
    boxes = [[10.25, 20, 110.5, 220], [300, 200, 420.125, 400], [12, 22, 112, 218]]
    scores = [0.91, 0.55, 0.4]
    return Detections.from_arrays(
        boxes[: len(labels)], scores[: len(labels)], labels, image_size=SIZE, model="toy", phrases=phrases
    )


numbers = st.floats(-1e6, 1e6)
boxes = st.builds(
    lambda x, y, w, h: Box(x0=x, y0=y, x1=x + w, y1=y + h), numbers, numbers, st.floats(0, 1e6), st.floats(0, 1e6)
)
found = st.builds(
    Detections,
    detections=st.lists(st.builds(Detection, label=st.text(), score=st.floats(0, 1), box=boxes), max_size=4),
    image_size=st.tuples(st.integers(1, 9999), st.integers(1, 9999)),
    model=st.text(),
    phrases=st.lists(st.text(), max_size=3),
    decoder=st.text(),
)


# --- Box ------------------------------------------------------------------------------------------------------------


def test_box_measures():
    box = Box(x0=10, y0=20, x1=40, y1=100)
    assert box.xyxy == (10, 20, 40, 100) and box.xywh == (10, 20, 30, 80)
    assert (box.width, box.height, box.area, box.center) == (30, 80, 2400, (25, 60))
    assert box == Box.from_xyxy(np.array([10, 20, 40, 100], dtype=np.float32)) and hash(box) == hash(box.model_copy())
    assert box.iou(box) == 1 and box.iou(Box(x0=10, y0=60, x1=40, y1=100)) == 0.5
    line = Box(x0=1, y0=1, x1=1, y1=9)
    assert line.area == 0 and line.iou(line) == 0


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        ((5, 0, 4, 9), "x1 >= x0 and y1 >= y0.*5.0, 0.0, 4.0, 9.0"),
        ((0, 9, 4, 8), "x1 >= x0 and y1 >= y0"),
        ((0, 0, float("nan"), 1), "x1\n.*finite"),
        ((0, float("-inf"), 1, 1), "y0\n.*finite"),
    ],
)
def test_box_refuses(sides, message):
    with pytest.raises(ValidationError, match=message):
        Box.from_xyxy(sides)
    with pytest.raises(InputError, match="four numbers"):
        Box.from_xyxy([1, 2, 3])


@pytest.mark.parametrize("score", [-0.1, 1.01, float("nan")])
def test_score_is_from_0_to_1(score):
    with pytest.raises(ValidationError, match="score"):
        Detection(label="a", score=score, box=Box(x0=0, y0=0, x1=1, y1=1))


# --- values and JSON ------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(found)
def test_json_round_trip_is_exact(detections):
    again = Detections.model_validate_json(detections.model_dump_json())
    assert again == detections and hash(again) == hash(detections)
    assert Detections.model_validate(detections.model_dump()) == detections
    assert Detections.model_validate(json.loads(json.dumps(detections.model_dump(mode="json")))) == detections


def test_dumps_copies_and_schema_are_pydantics_own():
    detections = some()
    fields = ["kind", "detections", "image_size", "model", "phrases", "decoder", "unknown_words", "tiles"]
    assert list(detections.model_dump()) == fields
    with pytest.warns(DeprecationWarning):
        assert detections.dict() == detections.model_dump()
    for other in (pickle.loads(pickle.dumps(detections)), copy.deepcopy(detections), copy.copy(detections)):
        assert other == detections and list(other) == list(detections)
    assert "detections" in Detections.model_json_schema()["properties"]
    assert len({detections, some(), some(("dog",))}) == 2

    class Holder(BaseModel):
        either: Answer | Detections

    assert Holder.model_validate_json(Holder(either=detections).model_dump_json()).either == detections


def test_frozen_means_frozen():
    detections = some()
    for change in (
        lambda: setattr(detections, "detections", ()),
        lambda: setattr(detections[0], "score", 1.0),
        lambda: setattr(detections[0].box, "x0", 1.0),
    ):
        with pytest.raises(ValidationError, match="frozen"):
            change()
    detections.xyxy[:] = 0
    detections.scores[:] = 0
    detections.labels.clear()
    assert detections == some()
    with pytest.raises(ValidationError, match="extra"):
        Detections(detections=(), image_size=SIZE, model="toy", phrase="a")
    with pytest.raises(ValidationError, match="image_size"):
        Detections.empty((0, 5), "toy")


def test_arrays():
    detections = some()
    assert detections.xyxy.dtype == np.float32 and detections.xyxy.shape == (3, 4)
    assert detections.xyxy[0].tolist() == [10.25, 20, 110.5, 220]
    assert detections.scores.dtype == np.float32 and detections.scores.tolist() == pytest.approx([0.91, 0.55, 0.4])
    assert detections.labels == ["red car", "dog", "red car"]
    again = Detections.from_arrays(
        detections.xyxy, detections.scores, detections.labels, image_size=SIZE, model="toy", phrases=["dog", "red car"]
    )
    np.testing.assert_array_equal(again.xyxy, detections.xyxy)
    np.testing.assert_array_equal(again.scores, detections.scores)


def test_empty():
    nothing = Detections.empty(SIZE, "toy", ["dog"])
    assert not nothing and len(nothing) == 0 and list(nothing) == []
    assert nothing.xyxy.shape == (0, 4) and nothing.scores.shape == (0,) and nothing.labels == []
    assert nothing == Detections.from_arrays([], [], [], image_size=SIZE, model="toy", phrases=["dog"])
    assert nothing == Detections.from_arrays(np.zeros((0, 4)), [], [], image_size=SIZE, model="toy", phrases=["dog"])
    assert nothing.nms() == nothing.filter(0.5) == nothing[:] == nothing[[]] == nothing[np.zeros(0, bool)] == nothing
    assert nothing.to_yolo() == "" and nothing.to_coco()["annotations"] == []


@pytest.mark.parametrize(
    ("xyxy", "scores", "labels", "message"),
    [
        ([1, 2, 3, 4], [1], ["a"], r"xyxy.*\(n, 4\).*\(4,\)"),
        (np.zeros((2, 5)), [1, 1], ["a", "b"], r"xyxy.*\(2, 5\)"),
        (np.zeros((2, 4)), [1], ["a", "b"], r"scores.*\(2,\).*\(1,\)"),
        (np.zeros((2, 4)), [1, 1], ["a"], "labels.*2 strings"),
        (np.zeros((2, 4)), [1, 1], "ab", "labels.*2 strings"),
        ([[0, 0, 1, 1], [0, 0, np.nan, 1]], [1, 1], ["a", "b"], r"xyxy\[1\].*finite"),
        ([[5, 0, 1, 1]], [1], ["a"], r"xyxy\[0\].*x1 >= x0"),
        (np.zeros((2, 4)), [0.5, 1.5], ["a", "b"], r"scores\[1\].*0 to 1.*1\.5"),
        (np.zeros((1, 4)), [np.nan], ["a"], r"scores\[0\]"),
    ],
)
def test_from_arrays_refuses(xyxy, scores, labels, message):
    with pytest.raises(InputError, match=message):
        Detections.from_arrays(xyxy, scores, labels, image_size=SIZE, model="toy")


# --- a sequence -----------------------------------------------------------------------------------------------------


def test_sequence_protocol():
    detections = some()
    first, second, third = detections
    assert isinstance(detections, Sequence) and len(detections) == 3 and bool(detections)
    assert list(detections) == [first, second, third] and list(reversed(detections)) == [third, second, first]
    assert second in detections and detections.index(second) == 1 and detections.count(third) == 1
    assert Detection(label="x", score=1, box=first.box) not in detections
    assert all(isinstance(each, Detection) for each in detections)
    assert detections[0] == detections[-3] == detections[np.int64(0)] == first
    with pytest.raises(IndexError):
        detections[3]


@pytest.mark.parametrize(
    ("key", "rows"),
    [
        (slice(1, None), [1, 2]),
        (slice(None, None, -1), [2, 1, 0]),
        ([2, 0], [2, 0]),
        ((1,), [1]),
        ([-1], [2]),
        ([], []),
        ([True, False, True], [0, 2]),
        (np.array([False, True, False]), [1]),
        (np.array([0, 0]), [0, 0]),
        (np.array([], dtype=int), []),
    ],
)
def test_indexing_with_many(key, rows):
    detections = some()
    picked = detections[key]
    assert isinstance(picked, Detections) and list(picked) == [detections[row] for row in rows]
    assert (picked.image_size, picked.model, picked.phrases) == (SIZE, "toy", detections.phrases)


def test_the_decoder_is_told_and_kept():
    assert some().decoder == "" == Detections.empty(SIZE, "toy").decoder
    assert Detections.empty(SIZE, "toy", decoder="box").decoder == "box"
    made = Detections.from_arrays([[0, 0, 9, 9]], [0.5], ["dog"], image_size=SIZE, model="toy", decoder="grounding")
    assert made != made.model_copy(update={"decoder": "box"})
    for other in (made[:0], made[[0]], made.filter(0.9), made.nms(), Detections(**made.model_dump())):
        assert other.decoder == "grounding"
    older = made.model_dump(exclude={"decoder"})
    assert Detections.model_validate(older).decoder == ""


def test_indexing_by_score_and_bad_indices():
    detections = some()
    assert detections[detections.scores > 0.5].labels == ["red car", "dog"]
    with pytest.raises(InputError, match="mask of 3 bools"):
        detections[[True]]
    with pytest.raises(IndexError):
        detections[[7]]
    for key in ("dog", 1.0, [0.5], np.zeros((3, 1), dtype=bool), None):
        with pytest.raises(ArgumentTypeError, match="index"):
            detections[key]


def test_filter_and_nms():
    detections = some()
    assert detections.filter(min_score=0.55).scores.tolist() == pytest.approx([0.91, 0.55])
    assert detections.filter(label="dog").labels == ["dog"]
    assert detections.filter(0.5, label=["dog", "red car"]).labels == ["red car", "dog"]
    assert len(detections.filter(label="d")) == 0  # a string is one label, not a set of letters
    assert list(detections.nms()) == [detections[0], detections[1]]
    assert len(detections.nms(0.99)) == 3
    renamed = some(("red car", "dog", "bus"))
    assert len(renamed.nms()) == 3 and len(renamed.nms(class_agnostic=True)) == 2


def test_views():
    assert repr(some()) == str(some()) == "Detections(3 on 640x480: red car 0.91, dog 0.55, red car 0.40)"
    assert repr(Detections.empty(SIZE, "toy")) == "Detections(0 on 640x480)"
    many = some(("a" * 99, "two\nlines"))[[0, 1] * 5]
    assert repr(many).endswith(", 5 more)") and "\n" not in repr(many) and len(repr(many)) < 250
    page = some(("<script>", "b"))._repr_html_()
    assert "&lt;script&gt;" in page and "<script>" not in page and page.count("<tr>") == 3
    assert "10.2, 20.0, 110.5, 220.0" in page
    assert "50 more" in many[[0] * 100]._repr_html_()


# --- exports --------------------------------------------------------------------------------------------------------


def test_supervision():
    sv = pytest.importorskip("supervision")
    detections = some(("red car", "dog", "bus"))
    exported = detections.to_supervision()
    assert isinstance(exported, sv.Detections) and len(exported) == 3
    np.testing.assert_array_equal(exported.xyxy, detections.xyxy)
    np.testing.assert_array_equal(exported.confidence, detections.scores)
    assert exported.class_id.tolist() == [1, 0, 2]  # the phrases' order, then what is in none of them
    assert exported.data["class_name"].tolist() == detections.labels
    assert exported[exported.class_id == 0].data["class_name"].tolist() == ["dog"]
    assert len(sv.Detections.merge([exported, some().to_supervision()])) == 6
    scene = sv.BoxAnnotator().annotate(np.zeros((480, 640, 3), np.uint8), exported)
    scene = sv.LabelAnnotator().annotate(scene, exported)
    assert scene.any()
    nothing = Detections.empty(SIZE, "toy").to_supervision()
    assert len(nothing) == 0 and nothing.is_empty()
    sv.LabelAnnotator().annotate(np.zeros((480, 640, 3), np.uint8), nothing)


def test_supervision_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingExtraError, match=r'pip install "internvl-vision-agent\[supervision\]"$'):
        some().to_supervision()


def test_coco():
    data = some().to_coco(image_id=7, file_name="a.jpg")
    assert json.loads(json.dumps(data)) == data
    assert data["images"] == [{"id": 7, "width": 640, "height": 480, "file_name": "a.jpg"}]
    assert data["categories"] == [{"id": 1, "name": "dog"}, {"id": 2, "name": "red car"}]
    assert data["annotations"][0] == {
        "id": 1,
        "image_id": 7,
        "category_id": 2,
        "bbox": [10.25, 20, 100.25, 200],
        "area": 20050.0,
        "iscrowd": 0,
        "score": 0.91,
    }
    assert [each["id"] for each in data["annotations"]] == [1, 2, 3]
    numbered = some().to_coco(category_ids={"red car": 3, "dog": 18, "cat": 17})
    assert [each["category_id"] for each in numbered["annotations"]] == [3, 18, 3]
    assert {each["name"]: each["id"] for each in numbered["categories"]} == {"red car": 3, "dog": 18, "cat": 17}
    with pytest.raises(InputError, match=r"category_ids.*'red car'"):
        some().to_coco(category_ids={"dog": 1})


@pytest.mark.parametrize("package", ["pycocotools", "faster_coco_eval"])
def test_coco_loads_and_scores_itself_as_perfect(package):
    if package == "pycocotools":
        coco_type = pytest.importorskip("pycocotools.coco").COCO
        eval_type = pytest.importorskip("pycocotools.cocoeval").COCOeval
    else:
        faster = pytest.importorskip("faster_coco_eval")
        coco_type, eval_type = faster.COCO, faster.COCOeval_faster
    data = some().to_coco(image_id=7)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco_type()
        truth.dataset = data
        truth.createIndex()
        assert len(truth.loadAnns(truth.getAnnIds(imgIds=[7], catIds=[2]))) == 2
        evaluation = eval_type(truth, truth.loadRes(copy.deepcopy(data["annotations"])), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)


def test_yolo():
    detections = Detections.from_arrays(
        [[0, 0, 320, 240], [600, 400, 700, 500], [700, 0, 800, 10]],
        [0.5, 0.25, 1],
        ["dog", "bus", "dog"],
        image_size=SIZE,
        model="toy",
        phrases=["cat", "dog"],
    )
    assert detections.to_yolo().splitlines() == [
        "1 0.250000 0.250000 0.500000 0.500000",
        "2 0.968750 0.916667 0.062500 0.166667",  # cut at the edge; the third lies outside
    ]
    assert detections.to_yolo(include_scores=True).splitlines()[0].endswith(" 0.500000")
    for line in detections.to_yolo().splitlines():
        assert all(0 <= float(value) <= 1 for value in line.split()[1:])


# --- drawing --------------------------------------------------------------------------------------------------------


def one(box: Sequence[float], size: tuple[int, int] = SIZE, label: str = "thing", score: float = 0.5) -> Detections:
    return Detections.from_arrays([box], [score], [label], image_size=size, model="toy")


@pytest.mark.parametrize("background", ["black", "white", "gray", COLOR])
@pytest.mark.parametrize("size", [(200, 150), (640, 480), (3000, 2000)])
def test_color_runs_along_the_edges(background, size):
    width, height = size
    box = np.array([0.25 * width, 0.4 * height, 0.75 * width, 0.8 * height])
    image = Image.new("RGB", size, background)
    drawn = one(box, size).draw(image, colors={"thing": COLOR}, labels=False, scores=False)
    assert drawn.mode == "RGB" and drawn.size == size
    pixels = np.asarray(drawn)
    x0, y0, x1, y1 = box.astype(int)
    for edge in (pixels[y0, x0:x1], pixels[y1 - 1, x0:x1], pixels[y0:y1, x0], pixels[y0:y1, x1 - 1]):
        assert (edge == COLOR).all()
    assert (pixels[y0 - 1, x0:x1] != COLOR).any(-1).all()  # the rim, also where the image has the line's colour
    middle = pixels[(y0 + y1) // 2, (x0 + x1) // 2]
    assert (middle == image.getpixel((0, 0))).all()


def test_the_image_itself_is_not_touched():
    array = np.zeros((480, 640, 3), np.uint8)
    image = Image.fromarray(array)
    some().draw(image)
    some().draw(array)
    assert not np.asarray(image).any() and not array.any()
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    assert some().draw(buffer.getvalue()).tobytes() == some().draw(image.convert("L")).tobytes()
    assert Detections.empty(SIZE, "toy").draw(image).tobytes() == image.tobytes()


@pytest.mark.parametrize("size", [(10, 10), (8, 60), (64, 400), (400, 40), (200, 150), (640, 480)])
@pytest.mark.parametrize(
    "part",
    [(0, 0, 1, 1), (0, 0, 0.1, 0.1), (0.9, 0.9, 1, 1), (0.9, 0, 1, 0.1), (0, 0.9, 0.1, 1), (-3, -3, 4, 4), (0.5,) * 4],
)
@pytest.mark.parametrize("label", ["a", "a long name of a thing " * 30, "猫の写真 кот", "", "\n\x00\u202e"])
def test_any_box_on_any_image(size, part, label):
    image = Image.new("RGB", size, "white")
    drawn = np.asarray(one(np.array(part) * [*size, *size], size, label).draw(image, colors={label: COLOR}))
    assert (drawn == COLOR).all(-1).any()


def test_nothing_of_a_box_outside_is_drawn():
    image = Image.new("RGB", SIZE, "white")
    for box in ([-50, 0, 0, 50], [640, 0, 700, 50], [0, 480, 9, 500], [10, -30, 20, -10]):
        assert one(box).draw(image).tobytes() == image.tobytes()


@pytest.mark.parametrize(
    "box", [[0, 0, 50, 40], [590, 0, 640, 40], [0, 440, 50, 480], [590, 440, 640, 480], [0, 0, *SIZE]]
)
def test_tags_stay_inside_the_image(box):
    """Drawn in the middle of a larger image, where there is room on all sides, a tag is as large as at the edge."""
    label = "name of a thing"

    def tag_pixels(size: tuple[int, int], place: Sequence[float]) -> int:
        image = Image.new("RGB", size, "white")
        options = {"colors": {label: COLOR}, "line_width": 1, "font_size": 14}
        with_tag = np.asarray(one(place, size, label).draw(image, **options))
        without = np.asarray(one(place, size, label).draw(image, labels=False, scores=False, **options))
        return int((with_tag != without).any(-1).sum())

    shifted = np.add(box, [*SIZE, *SIZE])
    at_edge, in_middle = tag_pixels(SIZE, box), tag_pixels((3 * SIZE[0], 3 * SIZE[1]), shifted)
    assert at_edge == pytest.approx(in_middle, rel=0.1)  # a tag inside its box covers some of the line


def test_tags_do_not_cover_each_other_when_there_is_room():
    image = Image.new("RGB", SIZE, "white")
    labels = ["first", "second", "third"]
    colors = {"first": (200, 0, 0), "second": (0, 200, 0), "third": (0, 0, 200)}
    boxes = [[100, 100, 300, 300]] * 3
    drawn = np.asarray(
        Detections.from_arrays(boxes, [0.9, 0.8, 0.7], labels, image_size=SIZE, model="toy").draw(image, colors=colors)
    )
    for label, color in colors.items():
        alone = Detections.from_arrays(boxes[:1], [0.7], [label], image_size=SIZE, model="toy")
        count = (np.asarray(alone.draw(image, colors=colors, scores=True)) == color).all(-1).sum()
        frame = (np.asarray(alone.draw(image, colors=colors, labels=False, scores=False)) == color).all(-1).sum()
        assert (drawn == color).all(-1).sum() >= 0.9 * (count - frame)


def test_colors_are_stable_and_different():
    names = ["red car", "dog", "person", "bicycle", "bus", "tree", "cat", "sign"]
    colors = annotate.label_colors(names)
    assert len(set(colors.values())) == len(names)
    assert annotate.label_colors(["dog"])["dog"] == annotate.label_colors(["dog", "cat"])["dog"]
    assert len(annotate.label_colors(map(str, range(100)))) == 100
    assert annotate.label_colors(["\ud800"])  # half a character, as JSON may hold


def test_text_contrasts_with_its_tag():
    def luminance(color: Sequence[int]) -> float:
        linear = [(c / 255) / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in color]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for color in annotate._PALETTE:
        bright, dark = sorted((luminance(color), luminance(annotate._contrast(color))), reverse=True)
        assert (bright + 0.05) / (dark + 0.05) >= 4.5  # WCAG AA


def test_draw_refuses():
    with pytest.raises(InputError, match=r"640 x 480 pixels when upright.*\(480, 640\)"):
        some().draw(Image.new("RGB", (480, 640)))
    with pytest.raises(InputError, match="line_width"):
        some().draw(Image.new("RGB", SIZE), line_width=0)
    with pytest.raises(ArgumentTypeError, match="image"):
        some().draw(42)


def test_a_turned_photo_is_drawn_upright():
    photo = Image.new("RGB", (480, 640), "white")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", exif=exif)
    assert some().draw(buffer.getvalue()).size == SIZE


# --- answers --------------------------------------------------------------------------------------------------------


def test_answer():
    routed = RoutedText(token="[DET]", phrase="dog", start=4, end=7, result=some())
    answer = Answer(
        text="The dog.",
        finish_reason="stop",
        prompt_tokens=12,
        completion_tokens=4,
        confidence=0.9,
        model="toy",
        routes=(routed,),
    )
    assert str(answer) == answer.text and answer.text[routed.start : routed.end] == routed.phrase
    assert Answer.model_validate_json(answer.model_dump_json()) == answer
    assert hash(answer) == hash(answer.model_copy()) and answer.routes[0].detections[0].label == "red car"
    with pytest.raises(ValidationError, match="finish_reason"):
        Answer(text="", finish_reason="eos", prompt_tokens=0, completion_tokens=0, confidence=1, model="toy")
    with pytest.raises(ValidationError, match="end"):
        RoutedText(token="[DET]", phrase="dog", start=4, end=3)


def test_the_best_box_is_drawn_over_worse_ones():
    image, colors = Image.new("RGB", SIZE, "white"), {"dog": (255, 0, 0), "cat": (0, 0, 255)}
    boxes = [[100, 100, 300, 300], [100, 100, 300, 200]]  # with a common upper edge
    for scores in ([0.9, 0.4], [0.4, 0.9]):
        found = Detections.from_arrays(boxes, scores, ["dog", "cat"], image_size=SIZE, model="toy")
        drawn = found.draw(image, labels=False, scores=False, colors=colors)
        assert drawn.getpixel((200, 100)) == colors[found.labels[int(np.argmax(found.scores))]]
