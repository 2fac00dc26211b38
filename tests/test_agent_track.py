"""`agent.track` with the shipped model: files, frames, uneven times, drawings, tables, the command, asyncio."""

import io
import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from vision_agent import Box, InputError, Track, TrackedBox, Tracks, VisionAgent, load_image, stream_frames
from vision_agent.cli.main import main
from vision_agent.evaluate.composed_videos import TrueBox
from vision_agent.evaluate.identities import measure_identities

TIMES = (0, 120, 160, 360, 400, 560)  # milliseconds


@pytest.fixture(scope="module")
def frames() -> list[Image.Image]:
    """A dog, and its photo with it, that slides over a plain ground, 2 pixels in 10 ms."""
    photo = load_image(Path(__file__).parents[1] / "examples" / "photos" / "000000139872.jpg").resize((200, 150))
    made = []
    for time in TIMES:
        frame = Image.new("RGB", (301, 160), (90, 120, 80))
        frame.paste(photo, (round(time / 5), 5))
        made.append(frame)
    return made


@pytest.fixture(scope="module")
def clip(frames: list[Image.Image], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a WebM, whose frames come at an uneven rate."""
    file = io.BytesIO()
    with av.open(file, "w", format="webm") as container:
        stream = container.add_stream("libvpx", rate=25)
        stream.width, stream.height, stream.pix_fmt = 300, 160, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for frame, time in zip(frames, TIMES, strict=True):
            shown = av.VideoFrame.from_ndarray(np.asarray(frame.crop((0, 0, 300, 160))), format="rgb24")
            shown.pts, shown.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(shown))
        container.mux(stream.encode(None))
    path = tmp_path_factory.mktemp("clip") / "dog.webm"
    path.write_bytes(file.getvalue())
    return path


@pytest.fixture(scope="module")
def tracks(agent: VisionAgent, clip: Path) -> Tracks:
    return agent.track("dog", clip, detail="low")


def test_a_dog_has_one_number_and_the_times_of_the_file(tracks: Tracks) -> None:
    assert tracks.labels == ["dog"]
    assert tracks.seconds == pytest.approx([time / 1000 for time in TIMES], abs=0.002)
    (dog,) = tracks
    middles = [(each.box.x0 + each.box.x1) / 2 for each in dog.boxes]
    assert np.polyfit([each.seconds for each in dog.boxes], middles, 1)[0] == pytest.approx(
        200, abs=60
    )  # pixels a second
    assert len(dog.boxes) == len(TIMES) and dog.score > 0.5 and (dog.start, dog.end) == (0, tracks.seconds[-1])
    assert tracks.frame(-1).ids == [1] and tracks.frame(0).seconds == 0
    assert Tracks.model_validate_json(tracks.model_dump_json()) == tracks


def test_a_drawn_video_has_the_frames_that_were_looked_at_at_their_times(tracks: Tracks, tmp_path: Path) -> None:
    out = tracks.save(tmp_path / "drawn.mp4")
    drawn, plain = list(stream_frames(out)), list(tracks.draw())
    assert [each.seconds for each in drawn] == pytest.approx(tracks.seconds, abs=0.002)
    for shown, meant in zip(drawn, plain, strict=True):
        assert np.abs(np.asarray(shown.image, dtype=float) - np.asarray(meant)).mean() < 6
    assert list(tmp_path.iterdir()) == [out]
    box = tracks.frame(2).objects[0].box
    before = np.asarray(Image.new("RGB", (300, 160), (90, 120, 80)), dtype=float)
    edge = np.asarray(plain[2], dtype=float)[round(box.y0) + 5 : round(box.y1) - 5, int(box.x0)]
    assert np.abs(edge - before[0, 0]).mean() > 10  # there is a line


def test_tables(tracks: Tracks, tmp_path: Path) -> None:
    rows = tracks.save(tmp_path / "t.csv").read_text("utf-8").splitlines()
    assert rows[0] == "id,label,frame,seconds,score,x0,y0,x1,y1,seen" and len(rows) == 1 + len(TIMES)
    lines = tracks.save(tmp_path / "t.txt").read_text("utf-8").splitlines()
    assert [line.split(",")[:2] for line in lines] == [[str(frame), "1"] for frame in range(1, 7)]
    assert json.loads(tracks.save(tmp_path / "t.json").read_text("utf-8"))["kind"] == "tracks"
    assert list(tracks.to_pandas()["frame"]) == list(range(6))


def test_given_frames_have_the_times_that_a_caller_says(
    agent: VisionAgent, frames: list[Image.Image], tmp_path: Path
) -> None:
    found = agent.track(["dog"], frames[:3], fps=2, detail="low", bounds=(0.5, 9))
    assert found.indices == (1, 2) and found.seconds == (0.5, 1.0) and found.image_size == (301, 160)
    with pytest.raises(InputError, match="`video` must be the video of these tracks"):
        found.save(tmp_path / "no.mp4")
    assert next(stream_frames(found.save(tmp_path / "odd.mp4", frames))).image.size == (302, 160)
    with pytest.raises(InputError, match="`video` must be the video of these tracks, of 301 x 160 pixels"):
        found.save(tmp_path / "no.mp4", [frames[0].resize((99, 99))] * 3)
    with pytest.raises(InputError, match="of which 2 frames are missing"):
        found.save(tmp_path / "no.mp4", frames[:1])
    assert [path.name for path in tmp_path.iterdir()] == ["odd.mp4"]


def test_fewer_frames_a_second_by_their_times(clip: Path) -> None:
    taken = [round(frame.seconds, 2) for frame in stream_frames(clip, fps=5)]
    assert taken == [0.0, 0.36, 0.4]  # of 0, .12, .16, .36, .4, .56: the first one that is due every 0.2 s
    assert [frame.index for frame in stream_frames(clip, bounds=(0.1, 0.4))] == [1, 2, 3, 4]
    assert len(list(stream_frames(clip, fps=1000))) == len(TIMES)


async def test_it_is_awaited(agent: VisionAgent, frames: list[Image.Image]) -> None:
    assert (await agent.aio.track("dog", frames[:2], detail="low")).labels == ["dog"]


def test_the_command(
    agent: VisionAgent, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vision_agent.batch.load_agent.load_agent", lambda *_, **__: agent)

    def run(*arguments: object) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as left:
            main([str(each) for each in arguments])
        said = capsys.readouterr()
        return left.value.code, said.out, said.err

    out = tmp_path / "out.mp4"
    code, words, _ = run("track", "dog", clip, "--save", out, "--detail", "low", "--part", "0,0.3")
    assert code == 0 and words.startswith("1\tdog\t0.") and words.endswith("\t0.00-0.16 s\tseen in 3 of 3 frames\n")
    assert len(list(stream_frames(out))) == 3
    code, words, _ = run("track", "dog", clip, "--json", "--detail", "low", "--fps", "3")
    assert code == 0 and Tracks.model_validate_json(words).labels == ["dog"]
    for wrong, said in (
        (("no.mp4",), "`video` must be the path of a video file that exists"),
        ((clip, "--save", tmp_path / "out.avi"), "ends in .mp4, .json, .csv, .txt"),
        ((clip, "--part", "1"), "`part` must be two numbers"),
        ((clip, "--fps", "0"), "`fps` must be a number above 0"),
        ((clip, "--tracker", "sort"), "`tracker` must be"),
    ):
        code, words, error = run("track", "dog", *wrong)
        assert code == 2 and said in error and not words


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"phrase": ""}, "`phrase`"),
        ({"fps": -1}, "`fps` must be a number above 0"),
        ({"fps": True}, "`fps`"),
        ({"bounds": (2, 1)}, "`bounds`"),
        ({"bounds": (7, 8)}, "`bounds`"),
        ({"max_gap": -0.1}, "`max_gap`"),
        ({"tracker": "best"}, "`tracker`"),
        ({"threshold": 2}, "`threshold`"),
        ({"video": []}, "`video` must be a video or a list with at least one frame"),
        ({"video": b"no video"}, "`video` must be"),
        ({"video": "https://example.org/a.mp4"}, "`video`"),
        ({"video": [Image.new("RGB", (60, 60)), Image.new("RGB", (60, 61))]}, "frames of one size, 60 x 60"),
    ],
)
def test_what_cannot_be_tracked(agent: VisionAgent, clip: Path, arguments: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        agent.track(**({"phrase": "dog", "video": clip, "detail": "low"} | arguments))  # type: ignore[arg-type]


def test_a_result_that_does_not_hold_together() -> None:
    box = TrackedBox.model_validate(
        {"index": 1, "seconds": 0.1, "box": {"x0": 0, "y0": 0, "x1": 5, "y1": 5}, "score": 1}
    )
    track = Track(id=1, label="dog", score=1, boxes=(box,))
    told = {"image_size": (9, 9), "seconds": (0.0,), "indices": (0,)}
    for tracks in ((track,), ()):
        with pytest.raises(ValueError, match="of one length" if not tracks else "frames in `indices` alone"):
            Tracks.model_validate(told | {"tracks": tracks} | ({} if tracks else {"indices": (0, 1)}))
    with pytest.raises(ValueError, match="an `id` of their own"):
        Tracks(tracks=(track, track), image_size=(9, 9), indices=(1,), seconds=(0.1,))
    with pytest.raises(ValueError, match="in the order of the video's frames"):
        Track(id=1, label="dog", score=1, boxes=(box, box))


def test_figures_of_identities() -> None:
    """By hand: two objects in four frames; two tracks that are swapped half way, a box that is missing, a false one."""

    def true(number: int, x: float) -> TrueBox:
        return TrueBox(number, "dog", (x, 0, x + 10, 10), True)

    truth = [(true(0, 0), true(1, 50))] * 4
    places = {1: [0, 0, 50, 50], 2: [50, None, 0, 0], 3: [80, None, None, None]}
    tracks = []
    for number, where in places.items():
        boxes = [
            TrackedBox(index=place, seconds=place, box=Box(x0=x, y0=0, x1=x + 10, y1=10), score=1)
            for place, x in enumerate(where)
            if x is not None
        ]
        tracks.append(Track(id=number, label="dog", score=1, boxes=tuple(boxes)))
    whole = Tracks(tracks=tuple(tracks), image_size=(100, 20), indices=tuple(range(4)), seconds=(0, 1, 2, 3))
    figures = measure_identities(truth, whole)
    assert (figures.true, figures.found, figures.right, figures.switches) == (8, 8, 7, 2)
    assert figures.mota == pytest.approx(1 - (1 + 1 + 2) / 8)
    assert figures.right_identity == 4 and figures.idf1 == pytest.approx(8 / 16)
