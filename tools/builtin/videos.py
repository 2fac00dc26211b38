"""The tool that follows objects through a video: track."""

from vision_agent.errors import InputError, bad_argument, missing_extra
from vision_agent.images.store import ImageStore
from vision_agent.plugins.tool import Tool, ToolAgent, ToolOutput
from vision_agent.results.tracks import Track

from .detection import next_offset, page_note, sides
from .schemas import TrackArguments, TrackedItem, TrackResult

_FILL_GAP = 1.0  # seconds that an object may be hidden, at least
_LONGEST = 1e6  # seconds


def _track(agent: ToolAgent, store: ImageStore, args: TrackArguments) -> ToolOutput:
    start = args.start or 0.0
    end = _LONGEST if args.end is None else args.end
    if end <= start:
        raise InputError(bad_argument("end", f"a time after `start`, which is {start:g}", end))
    _, data = store.read(args.video.strip(), name="video")
    gap = max(_FILL_GAP, 2.5 / args.fps)
    found = agent.track(args.phrases, data, threshold=args.threshold, fps=args.fps, bounds=(start, end), max_gap=gap)
    labels = found.labels
    content = TrackResult(
        video=args.video,
        image_size=found.image_size,
        frames=len(found.seconds),
        seconds=round(found.seconds[-1], 2) if found.seconds else 0.0,
        total=len(found),
        counts={phrase: labels.count(phrase) for phrase in found.phrases},
        offset=args.offset,
        next_offset=next_offset(args.offset, args.limit, len(found)),
        note=page_note(args.offset, len(found), found.unknown_words),
        items=[_item(track) for track in found.tracks[args.offset : args.offset + args.limit]],
    )
    return ToolOutput(content, found)


def _item(track: Track) -> TrackedItem:
    return TrackedItem(
        id=track.id,
        label=track.label,
        score=round(track.score, 3),
        start=round(track.start, 2),
        end=round(track.end, 2),
        first_box=sides(track.boxes[0].box),
        last_box=sides(track.boxes[-1].box),
    )


def _reads_videos(agent: ToolAgent) -> bool:
    """Whether the extra `video` is installed. It is not imported: that takes a while."""
    return missing_extra("video") is None


TRACK = Tool(
    name="track",
    description="Follow objects through a video file. Gives each one a number, when it is seen (seconds), and its box "
    "at the beginning and at the end. Use `detect` for single images. An empty list means that nothing is there.",
    arguments=TrackArguments,
    result=TrackResult,
    run=_track,
    available=_reads_videos,
    extra="video",
)
