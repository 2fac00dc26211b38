"""Objects of a video and where each of them was, frame by frame. Frozen, comparable by value and exact through JSON.

Boxes are float xyxy in pixels of the upright frame; times are seconds from the video's first frame.
"""

import os
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from PIL import Image
from pydantic import BaseModel, Field, NonNegativeFloat, NonNegativeInt, PositiveInt, PrivateAttr, model_validator

from vision_agent.errors import InputError, bad_argument
from vision_agent.images.video import VideoSource, stream_frames
from vision_agent.images.video_writing import write_mp4
from vision_agent.results.base import FoundObjects, ResultSequence
from vision_agent.results.box import FROZEN, Box
from vision_agent.results.export import check_target, csv_text, data_frame, write_whole

if TYPE_CHECKING:
    import pandas

    from vision_agent.images.loading import ImageLimits

_SHOWN = 5
TRACK_FILES = (".mp4", ".json", ".csv", ".txt")
"""Suffixes of files that tracks are saved as."""


class TrackedObject(BaseModel):
    """An object in one frame of a video.

    Attributes:
        id: its number, from 1; it is the same in every frame.
        label: what it is.
        score: how sure the model is, 0..1.
        box: where it is, in pixels of the upright frame.
        seen: it was found in this frame; False where its place was filled in between two frames.
    """

    model_config = FROZEN

    id: PositiveInt
    label: str
    score: Annotated[float, Field(ge=0, le=1)]
    box: Box
    seen: bool = True


class TrackedObjects(FoundObjects[TrackedObject]):
    """The objects of one frame, with their numbers: a sequence of `TrackedObject`, possibly empty.

    Attributes:
        objects: the objects.
        seconds: the frame's time.
        image_size: (width, height) of the upright frame, pixels.
        model, phrases, decoder, unknown_words, tiles: as in `Detections`.
        kind: always "tracked_objects"; tells results apart in JSON.
    """

    _field: ClassVar[str] = "objects"

    kind: Literal["tracked_objects"] = "tracked_objects"
    objects: tuple[TrackedObject, ...]
    seconds: float = 0.0
    image_size: tuple[PositiveInt, PositiveInt]
    model: str = ""
    phrases: tuple[str, ...] = ()
    decoder: str = ""
    unknown_words: tuple[str, ...] = ()
    tiles: NonNegativeInt = 0

    @property
    def ids(self) -> list[int]:
        """The numbers of the objects."""
        return [each.id for each in self]

    def draw(self, image: Any = None, **settings: Any) -> Image.Image:
        """Draw boxes and tags such as "dog 2" on a copy of the frame, RGB; each object has a colour of its own.

        Takes and raises what `Detections.draw` does.
        """
        named = tuple(each.model_copy(update={"label": f"{each.label} {each.id}"}) for each in self)
        drawn = self.model_copy(update={"objects": named, "phrases": ()})
        return FoundObjects.draw(drawn, self._given(image), **settings)


class TrackedBox(BaseModel):
    """Where an object was in one frame.

    Attributes:
        index: the frame's number in the video, from 0.
        seconds: the frame's time.
        box: in pixels of the upright frame.
        score: how sure the model is, 0..1; of a place that was filled in, the lesser one of the two beside it.
        seen: it was found in this frame; False where its place was filled in between two frames.
    """

    model_config = FROZEN

    index: NonNegativeInt
    seconds: NonNegativeFloat
    box: Box
    score: Annotated[float, Field(ge=0, le=1)]
    seen: bool = True


class Track(BaseModel):
    """One object of a video and where it was.

    Attributes:
        id: its number, from 1, in the order in which objects appear.
        label: what it is, in the words of the request.
        score: how sure the model is, 0..1: the mean over the frames in which it was found.
        boxes: where it was, frame by frame. A frame in between that has no box is one in which it was not found.
    """

    model_config = FROZEN

    id: PositiveInt
    label: str
    score: Annotated[float, Field(ge=0, le=1)]
    boxes: Annotated[tuple[TrackedBox, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        indices = [each.index for each in self.boxes]
        if any(after <= before for before, after in pairwise(indices)):
            raise ValueError("`boxes` must be in the order of the video's frames")
        return self

    @property
    def start(self) -> float:
        """When it was first found, in seconds."""
        return self.boxes[0].seconds

    @property
    def end(self) -> float:
        """When it was last found, in seconds."""
        return self.boxes[-1].seconds

    def at(self, index: int) -> TrackedBox | None:
        """Return where it was in the frame with this number; None where it was not found."""
        place = bisect_left(self.boxes, index, key=lambda each: each.index)
        found = self.boxes[place : place + 1]
        return found[0] if found and found[0].index == index else None


class SeenVideo:
    """The path of the video that tracks are of. It takes no part in comparisons and copies of results."""

    def __init__(self, path: str | None = None) -> None:
        self.path = path

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SeenVideo)

    def __hash__(self) -> int:
        return 0


class Tracks(ResultSequence[Track]):
    """The objects of a video: a sequence of `Track`, in the order in which they appear, possibly empty.

    Attributes:
        tracks: the objects.
        indices: numbers of the frames that were looked at, from 0.
        seconds: their times, from the video's first frame. They need not be evenly far apart.
        image_size: (width, height) of the upright frames, pixels.
        model: the model that found them.
        phrases: what was asked for.
        decoder: name of the decoder that found them.
        unknown_words: words of the phrases that the model was never taught.
        fps: of frames without times of their own, how many were taken to be a second; None for those of a file.
        kind: always "tracks"; tells results apart in JSON.

    Raises:
        pydantic.ValidationError: (a ValueError) `indices` and `seconds` differ in number, a box is of a frame that was
            not looked at, or two tracks have one number.
    """

    _field: ClassVar[str] = "tracks"
    _video: SeenVideo = PrivateAttr(default_factory=SeenVideo)

    kind: Literal["tracks"] = "tracks"
    tracks: tuple[Track, ...]
    indices: tuple[NonNegativeInt, ...]
    seconds: tuple[NonNegativeFloat, ...]
    image_size: tuple[PositiveInt, PositiveInt]
    model: str = ""
    phrases: tuple[str, ...] = ()
    decoder: str = ""
    unknown_words: tuple[str, ...] = ()
    fps: float | None = None

    @model_validator(mode="after")
    def _frames_agree(self) -> Self:
        if len(self.indices) != len(self.seconds):
            lengths = f"{len(self.indices)} and {len(self.seconds)}"
            raise ValueError(f"`indices` and `seconds` must be of one length, but got {lengths}")
        looked_at = set(self.indices)
        if any(each.index not in looked_at for track in self for each in track.boxes):
            raise ValueError("`tracks` must have boxes of frames in `indices` alone")
        if len({track.id for track in self}) < len(self):
            raise ValueError("`tracks` must each have an `id` of their own")
        return self

    @property
    def labels(self) -> list[str]:
        """What the objects are."""
        return [track.label for track in self]

    def frame(self, place: int) -> TrackedObjects:
        """Return the objects of one frame, by its place in `indices`; negative places count from the end.

        Raises IndexError where there is no such frame.
        """
        index = self.indices[place]
        objects = tuple(
            TrackedObject(id=track.id, label=track.label, score=each.score, box=each.box, seen=each.seen)
            for track in self
            if (each := track.at(index)) is not None
        )
        told = {name: getattr(self, name) for name in ("image_size", "model", "phrases", "decoder", "unknown_words")}
        return TrackedObjects(objects=objects, seconds=self.seconds[place], **told)

    def seen_in(self, video: object) -> Self:
        """Remember the path of the video, where it is one, for `draw` and `save`; return the result."""
        path = os.path.abspath(os.fsdecode(video)) if isinstance(video, str | os.PathLike) else None
        self._video = SeenVideo(path)
        return self

    # --- drawings, tables and files

    def draw(
        self, video: VideoSource | None = None, *, limits: "ImageLimits | None" = None, **settings: Any
    ) -> Iterator[Image.Image]:
        """Yield every frame that was looked at with its objects drawn, RGB, each as it is asked for.

        Args:
            video: the video, or its frames; it may be left out where it was the path of a file.
            limits: what a frame may measure; `load_image`'s own if None.
            settings: of `Detections.draw`.

        Raises:
            InputError: no video, or one that is not of these tracks.
        """
        source = self._video.path if video is None else video
        if source is None:
            raise InputError(bad_argument("video", "the video of these tracks, which is not kept", video))
        return self._drawn(source, {} if limits is None else {"limits": limits}, settings)

    def _drawn(
        self, video: VideoSource, limits: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> Iterator[Image.Image]:
        place_of = {index: place for place, index in enumerate(self.indices)}
        left = len(self.indices)
        for frame in stream_frames(video, **limits):
            if frame.index not in place_of:
                continue
            if frame.image.size != self.image_size:
                width, height = self.image_size
                expected = f"the video of these tracks, of {width} x {height} pixels"
                raise InputError(bad_argument("video", expected, frame.image.size))
            yield self.frame(place_of[frame.index]).draw(frame.image, **settings)
            left -= 1
            if not left:
                return
        raise InputError(bad_argument("video", f"the video of these tracks, of which {left} frames are missing", video))

    def _rows(self) -> tuple[list[str], list[dict[str, Any]]]:
        columns = ["id", "label", "frame", "seconds", "score", "x0", "y0", "x1", "y1", "seen"]
        values = (
            (track.id, track.label, each.index, each.seconds, each.score, *each.box.xyxy, each.seen)
            for track in self
            for each in track.boxes
        )
        return columns, [dict(zip(columns, row, strict=True)) for row in values]

    def to_pandas(self) -> "pandas.DataFrame":
        """Return a data frame with a row for each object and frame: id, label, frame, seconds, score, box, seen.

        Raises MissingExtraError where pandas (extra "tables") is not installed.
        """
        columns, rows = self._rows()
        return data_frame(rows, columns)

    def to_mot(self) -> str:
        """Return the lines of MOTChallenge: "frame, id, left, top, width, height, score, -1, -1, -1", frames from 1."""
        rows = sorted((each.index + 1, track.id, each) for track in self for each in track.boxes)
        return "".join(
            f"{frame},{number},{','.join(f'{side:.2f}' for side in each.box.xywh)},{each.score:.4f},-1,-1,-1\n"
            for frame, number, each in rows
        )

    def save(
        self,
        path: str | os.PathLike[str],
        video: VideoSource | None = None,
        *,
        limits: "ImageLimits | None" = None,
        **settings: Any,
    ) -> Path:
        """Write a file: by its extension, the drawn video (.mp4), the result (.json), a table (.csv) or MOTChallenge's
        lines (.txt).

        Args:
            path: of the file, in a folder that exists. A file that is there is replaced at once, or not at all.
            video: for .mp4, the video; it may be left out where it was the path of a file. Only frames that were looked
                at are in the drawn one, each at its own time.
            limits, settings: for .mp4, as for `draw`.

        Returns:
            the path.

        Raises:
            InputError: another extension, a folder that is not there, a drawing without its video.
            ArgumentTypeError: `path` is no path.
            MissingExtraError: .mp4 without the extra "video".
        """
        target = check_target(path, TRACK_FILES)
        suffix = target.suffix.lower()
        if suffix == ".mp4":
            write_mp4(target, self.draw(video, limits=limits, **settings), self.seconds)
            return target
        if suffix == ".csv":
            columns, rows = self._rows()
            text = csv_text(rows, columns)
        else:
            text = self.to_mot() if suffix == ".txt" else self.model_dump_json(indent=2)
        write_whole(target, text.encode())
        return target

    def __repr__(self) -> str:
        shown = [f"{track.id} {track.label} {track.start:.1f}-{track.end:.1f} s" for track in self.tracks[:_SHOWN]]
        if len(self) > _SHOWN:
            shown.append(f"{len(self) - _SHOWN} more")
        size = "{}x{}".format(*self.image_size)
        return f"Tracks({len(self)} on {len(self.indices)} frames of {size}{': ' if shown else ''}{', '.join(shown)})"

    __str__ = __repr__
