"""The command about videos: `track`."""

from pathlib import Path
from typing import Annotated

import typer

from vision_agent.cli.exits import told
from vision_agent.cli.option_sets import EngineOptions, FindingOptions, expanded
from vision_agent.cli.options import JsonOption, read_tiles
from vision_agent.errors import InputError, bad_argument
from vision_agent.images.video import check_rate
from vision_agent.results.export import check_target
from vision_agent.results.tracks import TRACK_FILES
from vision_agent.validation import check_phrases


def register(app: typer.Typer) -> None:
    """Add the command to `vision-agent`."""
    app.command()(expanded(track))


def track(
    phrase: Annotated[str, typer.Argument(help="What to follow. A semicolon separates phrases.")],
    video: Annotated[Path, typer.Argument(help="A video file.")],
    finding: FindingOptions,
    by: EngineOptions,
    save: Annotated[
        Path | None,
        typer.Option("--save", help="Write the drawn video (.mp4), a table (.csv), the result (.json) or MOT (.txt)."),
    ] = None,
    fps: Annotated[float | None, typer.Option("--fps", help="Look at no more than so many frames a second.")] = None,
    part: Annotated[str | None, typer.Option("--part", help="Only this part: start,end in seconds.")] = None,
    max_gap: Annotated[
        float, typer.Option("--max-gap", help="Seconds that an object may not be found and still be the same one.")
    ] = 1.0,
    tracker: Annotated[str, typer.Option("--tracker", help="motion, or bytetrack (extra bytetrack).")] = "motion",
    as_json: JsonOption = False,
) -> None:
    """Follow objects through a video: number, label, score, first and last second, and frames, one a line."""
    from vision_agent.inference.object_tracker import check_gap, check_tracker

    check_phrases(phrase, None)
    if not video.is_file():
        raise InputError(bad_argument("video", "the path of a video file that exists", str(video)))
    if save is not None:
        check_target(save, TRACK_FILES)
    bounds = _numbers(part)
    check_rate("fps", fps)
    check_gap(max_gap)
    name = check_tracker(tracker)
    tracks = by.load().track(
        phrase,
        video,
        threshold=finding.threshold,
        only_known=not finding.unknown,
        tiles=read_tiles(finding.tiles),
        detail=finding.detail,
        fps=fps,
        bounds=bounds,
        max_gap=max_gap,
        tracker=name,
    )
    if as_json:
        print(tracks.model_dump_json())
    else:
        for each in tracks:
            seen = sum(box.seen for box in each.boxes)
            span = f"{each.start:.2f}-{each.end:.2f} s"
            print(f"{each.id}\t{each.label}\t{each.score:.2f}\t{span}\tseen in {seen} of {len(tracks.indices)} frames")
    if save is not None:
        told(f"saved {tracks.save(save)}")


def _numbers(part: str | None) -> tuple[float, float] | None:
    if part is None:
        return None
    try:
        start, end = (float(each) for each in part.split(","))
    except ValueError as error:
        raise InputError(bad_argument("part", "two numbers, start,end in seconds", part)) from error
    return start, end
