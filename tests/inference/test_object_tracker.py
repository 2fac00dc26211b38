"""Objects keep their numbers from frame to frame: crossings, gaps, births, deaths, uneven times; and bad input."""

import sys
from itertools import permutations
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision_agent import ArgumentTypeError, Detections, InputError, MissingExtraError, ObjectTracker, Tracks
from vision_agent.inference.assignment import assign

SIZE = (200, 100)


def found(*boxes: tuple[float, float, float, float], score: float = 0.9, label: str = "dog") -> Detections:
    return Detections.from_arrays(
        np.array(boxes).reshape(-1, 4), [score] * len(boxes), [label] * len(boxes), image_size=SIZE, model="none"
    )


def at(x: float, y: float = 20) -> tuple[float, float, float, float]:
    return (x, y, x + 30, y + 40)


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=200, deadline=None)
def test_a_pairing_has_the_greatest_sum(rows: int, columns: int, seed: int, whole: bool) -> None:
    gain = np.random.default_rng(seed).uniform(-2, 3, (rows, columns))
    gain = np.round(gain) if whole else gain
    pairs = assign(gain)
    assert len(pairs) == min(rows, columns) == len({row for row, _ in pairs}) == len({column for _, column in pairs})
    short, long = sorted((rows, columns))
    table = gain if rows <= columns else gain.T
    best = max(sum(table[row, column] for row, column in enumerate(each)) for each in permutations(range(long), short))
    assert sum(gain[pair] for pair in pairs) == pytest.approx(best)


def test_objects_that_cross_keep_their_numbers_at_an_uneven_rate() -> None:
    tracker = ObjectTracker()
    times = np.cumsum([0.0, 0.04, 0.12, 0.05, 0.05, 0.2, 0.04, 0.08, 0.1, 0.05, 0.12, 0.05])
    for seconds in times.tolist():
        # They overlap in the middle, and the detector names the right one first from there on.
        boxes = [at(10 + 150 * seconds, 20), at(150 - 150 * seconds, 32)]
        tracker.update(found(*(boxes if seconds < 0.45 else boxes[::-1])), seconds)
    tracks = tracker.tracks()
    assert [track.id for track in tracks] == [1, 2]
    for track, rightwards in zip(tracks, (True, False), strict=True):
        lefts = [each.box.x0 for each in track.boxes]
        assert lefts == sorted(lefts, reverse=not rightwards) and len(lefts) == len(times)


def test_a_short_gap_is_filled_on_the_line_and_says_so() -> None:
    tracker = ObjectTracker(max_gap=0.5)
    for place, seconds in enumerate([0.0, 0.1, 0.2, 0.5, 0.6]):  # the third frame, at 0.2, lies unevenly
        tracker.update(found() if place in (2, 3) else found(at(100 * seconds)), seconds)
    (track,) = tracker.tracks()
    assert [each.seen for each in track.boxes] == [True, True, False, False, True]
    assert [each.box.x0 for each in track.boxes] == pytest.approx([0, 10, 20, 50, 60])
    assert [each.seconds for each in track.boxes] == [0.0, 0.1, 0.2, 0.5, 0.6]
    (left,) = tracker.tracks(fill=False)
    assert [each.index for each in left.boxes] == [0, 1, 4]


def test_after_a_long_gap_it_is_another_object() -> None:
    tracker = ObjectTracker(max_gap=0.5)
    for seconds in (0.0, 0.1, 0.2, 0.3):
        tracker.update(found(at(10)), seconds)
    for seconds in (0.4, 0.8):
        assert tracker.update(found(), seconds).ids == []
    for seconds in (0.9, 1.0):
        tracker.update(found(at(10)), seconds)
    assert [(track.id, track.start, track.end) for track in tracker.tracks()] == [(1, 0.0, 0.3), (2, 0.9, 1.0)]


def test_what_is_found_once_or_weakly_is_no_object() -> None:
    tracker = ObjectTracker(start_score=0.5, mean_score=0.6)
    ids = []
    for place in range(6):
        boxes = found(at(10)) + found(at(100), score=0.55)
        if place == 3:
            boxes += found(at(160, 55))
        ids.append(tracker.update(boxes, place / 10).ids)
    assert ids == [[1]] * 6
    assert [track.id for track in tracker.tracks()] == [1]


def test_a_weak_box_continues_an_object_and_begins_none() -> None:
    tracker = ObjectTracker(start_score=0.5)
    for place in range(6):
        tracker.update(found(at(10 + place), score=0.3 if place in (2, 3) else 0.9) + found(at(120), score=0.3), place)
    (track,) = tracker.tracks()
    assert [each.score for each in track.boxes] == pytest.approx([0.9, 0.9, 0.3, 0.3, 0.9, 0.9])
    assert track.score == pytest.approx(0.7)


def test_a_second_box_on_an_object_begins_none_and_labels_stay_apart() -> None:
    tracker = ObjectTracker()
    for place in range(4):
        tracker.update(found(at(10), at(14)) if place else found(at(10)), place / 10)
    assert len(tracker.tracks()) == 1
    both = ObjectTracker()
    for place in range(3):
        both.update(found(at(10)) + found(at(10), label="cat"), place / 10)
    assert both.tracks().labels == ["dog", "cat"]


def test_a_camera_that_runs_for_days_keeps_nothing() -> None:
    tracker = ObjectTracker(history=False)
    for place in range(50):
        assert tracker.update(found(at(10 + place)), place / 30).ids == [1]
    assert sum(len(each.boxes) for each in tracker._seen.values()) + len(tracker._seconds) <= 1
    with pytest.raises(InputError, match="history=False"):
        tracker.tracks()


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_whatever_is_detected_the_result_holds(data: Any) -> None:
    """No box is in two tracks, times ascend, and the result survives JSON."""
    tracker = ObjectTracker(start_score=0.4, max_gap=data.draw(st.floats(0, 2)))
    seconds, given_boxes = 0.0, 0
    for _ in range(data.draw(st.integers(1, 8))):
        corners = data.draw(st.lists(st.tuples(*[st.floats(0, 200)] * 2, *[st.floats(0, 90)] * 2), max_size=5))
        boxes = np.array([(x, y, x + w, y + h) for x, y, w, h in corners]).reshape(-1, 4)
        scores = data.draw(st.lists(st.floats(0, 1), min_size=len(boxes), max_size=len(boxes)))
        labels = data.draw(st.lists(st.sampled_from("ab"), min_size=len(boxes), max_size=len(boxes)))
        seen = tracker.update(Detections.from_arrays(boxes, scores, labels, image_size=SIZE, model="m"), seconds)
        assert len(set(seen.ids)) == len(seen)
        given_boxes += len(boxes)
        seconds += data.draw(st.floats(1e-3, 3))
    tracks = tracker.tracks()
    assert sum(each.seen for track in tracks for each in track.boxes) <= given_boxes
    assert Tracks.model_validate_json(tracks.model_dump_json()) == tracks


@pytest.mark.parametrize(
    ("settings_", "said"),
    [
        ({"max_gap": -1}, "`max_gap` must be seconds, 0 or more, but got -1"),
        ({"max_gap": float("nan")}, "`max_gap`"),
        ({"max_gap": True}, "`max_gap`"),
        ({"start_score": 1.5}, "`start_score` must be a number from 0 to 1, but got 1.5"),
        ({"mean_score": "high"}, "`mean_score` must be a number from 0 to 1, but got 'high'"),
        ({"tracker": "kalman"}, "`tracker` must be"),
    ],
)
def test_a_setting_that_is_none(settings_: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        ObjectTracker(**settings_)


def test_frames_that_do_not_follow_each_other() -> None:
    tracker = ObjectTracker()
    with pytest.raises(InputError, match="`update` was not called"):
        tracker.tracks()
    tracker.update(found(at(1)), 1.0, index=4)
    for seconds in (1.0, 0.5, float("inf"), "now", True):
        with pytest.raises(InputError, match="`seconds`"):
            tracker.update(found(), seconds)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="`index` must be a whole number from 5"):
        tracker.update(found(), 2.0, index=4)
    with pytest.raises(ArgumentTypeError, match="`found` must be the `Detections`"):
        tracker.update([at(1)], 2.0)  # type: ignore[arg-type]
    other = Detections.empty((50, 50), "none")
    with pytest.raises(InputError, match="of a frame of"):
        tracker.update(other, 2.0)
    assert tracker.tracks().indices == (4,)  # what was refused left nothing behind


def test_byte_track_is_asked_as_its_authors_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interface of `trackers` 2.6: `update(detections, timestamp=)` returns them with `tracker_id`, -1 for none."""
    made: list[dict[str, Any]] = []

    class ByteTrackTracker:
        def __init__(self, **settings: Any) -> None:
            made.append(settings)
            self.calls = 0

        def update(self, detections: Any, timestamp: float) -> Any:
            self.calls += 1
            back = detections[np.arange(len(detections))[::-1]]  # their order may differ
            back.tracker_id = np.array([-1 if self.calls == 1 else 7] * len(back), dtype=int)
            return back

    module = ModuleType("trackers")
    module.ByteTrackTracker = ByteTrackTracker  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trackers", module)
    tracker = ObjectTracker(tracker="bytetrack", max_gap=2.0, start_score=0.25)
    for place in range(4):
        tracker.update(found(at(10)) + found(at(90), label="cat"), place / 10)
    assert [(track.label, len(track.boxes)) for track in tracker.tracks()] == [("dog", 3), ("cat", 3)]
    assert len(made) == 2 and made[0]["lost_track_buffer"] == 60 and made[0]["track_activation_threshold"] == 0.25


def test_byte_track_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(MissingExtraError, match=r'pip install "internvl-vision-agent\[bytetrack\]"'):
        ObjectTracker(tracker="bytetrack")
