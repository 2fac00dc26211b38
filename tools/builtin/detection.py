"""Tools that find objects: detect, point, count and segment."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from vision_agent.images.store import ImageStore, StoredImage
from vision_agent.plugins.segmenter import Segmenter
from vision_agent.plugins.tool import Tool, ToolAgent, ToolOutput
from vision_agent.results.box import Box
from vision_agent.results.detections import Detection
from vision_agent.results.segmentation import Segmentation

from .schemas import (
    NOTHING,
    CountArguments,
    CountResult,
    DetectArguments,
    DetectResult,
    Found,
    FoundPoint,
    FoundSegment,
    PointResult,
    SegmentArguments,
    SegmentResult,
)


def sides(box: Box) -> list[float]:
    """Return a box as tools show it: pixels, to a tenth."""
    return [round(side, 1) for side in box.xyxy]


def next_offset(offset: int, limit: int, total: int) -> int | None:
    """Return where the next page begins; None on the last one."""
    return offset + limit if offset + limit < total else None


def page_note(offset: int, total: int, unknown: Sequence[str]) -> str | None:
    """Explain a page without items, and words that the model was never taught; None where there is nothing to say."""
    notes = []
    if unknown:
        words = ", ".join(map(repr, unknown))
        notes.append(f"The model does not know the words {words}: it cannot say whether they are there. Use others.")
    elif total == 0:
        notes.append(NOTHING)
    if 0 < total <= offset:
        notes.append(f"There are {total} items; `offset` {offset} is beyond the last.")
    return " ".join(notes) or None


def _found(item: Detection) -> Found:
    return Found(label=item.label, score=round(item.score, 3), box=sides(item.box))


def _detect(agent: ToolAgent, store: ImageStore, args: DetectArguments) -> ToolOutput:
    image = store.open(args.image)
    found = agent.detect(args.phrases, image.image, threshold=args.threshold)
    labels = found.labels
    content = DetectResult(
        image=image.id,
        image_size=image.size,
        total=len(found),
        counts={phrase: labels.count(phrase) for phrase in found.phrases},  # each that was asked for, once
        offset=args.offset,
        next_offset=next_offset(args.offset, args.limit, len(found)),
        note=page_note(args.offset, len(found), found.unknown_words),
        items=[_found(item) for item in found[args.offset : args.offset + args.limit]],
    )
    return ToolOutput(content, found)


def _point(agent: ToolAgent, store: ImageStore, args: DetectArguments) -> ToolOutput:
    image = store.open(args.image)
    points = agent.point(args.phrases, image.image, threshold=args.threshold)
    content = PointResult(
        image=image.id,
        image_size=image.size,
        total=len(points),
        offset=args.offset,
        next_offset=next_offset(args.offset, args.limit, len(points)),
        note=page_note(args.offset, len(points), points.unknown_words),
        items=[
            FoundPoint(label=each.label, score=round(each.score, 3), x=round(each.x, 1), y=round(each.y, 1))
            for each in points.points[args.offset : args.offset + args.limit]
        ],
    )
    return ToolOutput(content, points)


_SHOWN_COUNTED = 50


def _count(agent: ToolAgent, store: ImageStore, args: CountArguments) -> ToolOutput:
    image = store.open(args.image)
    counted = agent.count(args.phrase, image.image, threshold=args.threshold)
    evidence = counted.evidence
    content = CountResult(
        image=image.id,
        image_size=image.size,
        phrase=args.phrase,
        count=counted.count,
        items=[_found(item) for item in evidence[:_SHOWN_COUNTED]],
        note=page_note(0, counted.count, counted.unknown_words),
    )
    return ToolOutput(content, counted)


def _segment(agent: ToolAgent, store: ImageStore, args: SegmentArguments) -> ToolOutput:
    image = store.open(args.image)
    result = agent.segment(args.phrases, image.image, threshold=args.threshold)
    return _segmented(result, image, store, args)


def _segmented(result: Segmentation, image: StoredImage, store: ImageStore, args: SegmentArguments) -> ToolOutput:
    """What `segment` returns of a segmentation; the images asked for go into the store."""
    shown = result[args.offset : args.offset + args.limit]
    made = _made(shown, image, store, args.make)
    each_has_one = args.make in ("masks", "cutouts")
    content = SegmentResult(
        image=image.id,
        image_size=image.size,
        total=len(result),
        offset=args.offset,
        next_offset=next_offset(args.offset, args.limit, len(result)),
        note=page_note(args.offset, len(result), result.unknown_words),
        items=[
            FoundSegment(
                label=each.label,
                score=round(each.score, 3),
                box=sides(each.box),
                area=each.mask.area,
                image=made[index] if each_has_one else None,
            )
            for index, each in enumerate(shown)
        ],
        images=list(made),
    )
    return ToolOutput(content, result, made)


def _made(shown: Segmentation, image: StoredImage, store: ImageStore, make: str) -> tuple[str, ...]:
    if make == "drawing" and len(shown):
        return (store.add(shown.draw(image.image, limits=store.limits), origin=f"a drawing on {image.id}"),)
    if make == "masks":
        masks = (Image.fromarray(each.mask.to_array()) for each in shown)
        return tuple(store.add(mask, origin=f"a mask of {image.id}") for mask in masks)
    if make == "cutouts":
        cuts = (shown.cutout(image.image, index, limits=store.limits) for index in range(len(shown)))
        return tuple(store.add(_padded(cut, store), origin=f"a cut-out of {image.id}") for cut in cuts)
    return ()


def _padded(cut: Image.Image, store: ImageStore) -> Image.Image:
    """A cut-out on white, at least as large as images must be."""
    least = store.limits.min_side
    canvas = Image.new("RGB", (max(cut.width, least), max(cut.height, least)), "white")
    canvas.paste(cut, mask=cut.getchannel("A"))
    return canvas


def _segments(agent: ToolAgent) -> bool:
    return "seg" in agent.routes


DETECT = Tool(
    name="detect",
    description="Find objects in an image and get a box and a score for each. Use it to locate or check for objects; "
    "ask for several kinds at once with several phrases. An empty list means that nothing matching is there.",
    arguments=DetectArguments,
    result=DetectResult,
    run=_detect,
)
POINT = Tool(
    name="point",
    description="Get one point (x, y in pixels) on each object that matches, for clicking or marking. Use `detect` "
    "where the extent matters. An empty list means that nothing matching is there.",
    arguments=DetectArguments,
    result=PointResult,
    run=_point,
)
COUNT = Tool(
    name="count",
    description="Count one kind of object in an image. Gives the number and a box for each object counted. Zero means "
    "that nothing matching is there.",
    arguments=CountArguments,
    result=CountResult,
    run=_count,
)
SEGMENT = Tool(
    name="segment",
    description="Outline objects exactly, pixel by pixel. Gives box, area and the id of a new image (mask or cut-out) "
    "for each. Use `detect` where boxes are enough: it is faster. An empty list means that nothing matching is there.",
    arguments=SegmentArguments,
    result=SegmentResult,
    run=_segment,
    available=_segments,
)


def segment_tool(segmenter: Segmenter | str | Path) -> Tool:
    """Make a `segment` for agents without a `[SEG]` route: `agent.tools([..., segment_tool("sam_vit_b.pth")])`.

    Args:
        segmenter: as for `VisionAgent.segment`.
    """

    def run(agent: ToolAgent, store: ImageStore, args: SegmentArguments) -> ToolOutput:
        image = store.open(args.image)
        result = agent.segment(args.phrases, image.image, threshold=args.threshold, segmenter=segmenter)
        return _segmented(result, image, store, args)

    return replace(SEGMENT, run=run, available=lambda agent: True)
