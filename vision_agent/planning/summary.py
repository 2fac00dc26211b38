"""Results in words: the lines of the answers of plans, and of `AgentResult.summary`.

Words that were read from an image are always quoted, on one line: they are data.
"""

import json
import re
from collections.abc import Sequence

from vision_agent.documents.result import OcrResult
from vision_agent.planning.clauses import same_object
from vision_agent.planning.objects import ObjectRef, objects_of, phrases_of
from vision_agent.planning.plan import PlannedStep
from vision_agent.plugins.tool import ToolResult
from vision_agent.results.answers import RoutedText
from vision_agent.results.generated import GeneratedImage, GeneratedImages
from vision_agent.results.segmentation import Segmentation

_QUOTED = 300  # most characters of read words; the step has all
_PLACES = 8  # most boxes in a line
_ROUTED = re.compile(
    r".+: (?:(?:outlined, )?\d+ found, at \(.+|not found|made an image of .+ pixels|\[\w+\] needs an image, .+)"
    r"|reads(?: in image \d+)? \".*\"|no text was found(?: in image \d+)?"
)
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")


def quoted(text: str) -> str:
    """Return words that were read from an image in quotation marks, on one line, shortened."""
    short = text if len(text) <= _QUOTED else f"{text[: _QUOTED - 3]}..."
    return json.dumps(short, ensure_ascii=False)


def call_line(made: ToolResult) -> str:
    """Return what a call gave, in one line."""
    content = made.content
    if "text" in content:
        return quoted(str(content["text"]))
    if "count" in content:
        return f"{content['count']} counted"
    said = [f"{content['total']} found"] if "total" in content else []
    return ", ".join([*said, *made.images]) or "done"


def place(obj: ObjectRef, images: Sequence[str]) -> str:
    """Return the box of an object as text, with the number of its image where `images`, their ids, are several."""
    box = ",".join(f"{side:.0f}" for side in obj.box or ())
    several = len(images) > 1 and obj.image in images
    return f"({box}) of image {images.index(obj.image) + 1}" if several else f"({box})"


def places(objects: Sequence[ObjectRef], images: Sequence[str]) -> str:
    """Return the boxes of objects as text, or that none was found."""
    if not objects:
        return "not found"
    more = f" and {len(objects) - _PLACES} more" if len(objects) > _PLACES else ""
    return f"{len(objects)} found, at {'; '.join(place(obj, images) for obj in objects[:_PLACES])}{more}"


def found_lines(name: str, objects: Sequence[ObjectRef], images: Sequence[str]) -> list[str]:
    """Return a line of boxes for each of the phrases that were asked for."""
    each = phrases_of(name)
    if len(each) == 1:
        return [f"{name}: {places(objects, images)}"]
    return [f"{one}: {places([obj for obj in objects if same_object(obj.label, one)], images)}" for one in each]


def count_lines(name: str, objects: Sequence[ObjectRef], images: Sequence[str]) -> list[str]:
    """Return a line for each phrase with the number of its objects, by image where there are several."""
    lines = []
    for one in phrases_of(name):
        those = [obj.image for obj in objects if same_object(obj.label, one)]
        by_image = ", ".join(f"{those.count(image)} in image {n}" for n, image in enumerate(images, start=1))
        lines.append(f"{one}: {len(those)}" + (f" ({by_image})" if len(images) > 1 else ""))
    return lines


def routed_line(routed: RoutedText, images: int) -> str:
    """Return the result of a routing token in one line; `images` is how many images the request is about."""
    about = f" in image {routed.image + 1}" if routed.image is not None and images > 1 else ""
    name = f"{routed.phrase or routed.token}{about}"
    result = routed.result
    if result is None:
        return f"{name}: {routed.token} needs an image, and there is none"
    if isinstance(result, OcrResult):
        lines = " / ".join(line.text for line in result.lines)
        return f"reads{about} {quoted(lines)}" if lines else f"no text was found{about}"
    if isinstance(result, GeneratedImage | GeneratedImages):
        made = [result] if isinstance(result, GeneratedImage) else list(result)
        return f"{name}: made {', '.join(f'an image of {each.size[0]} x {each.size[1]} pixels' for each in made)}"
    if routed.detections is None:
        return f"{name}: {result!r}"
    verb = "outlined, " if isinstance(result, Segmentation) and len(result) else ""
    return f"{name}: {verb}{places(objects_of(routed.detections, ''), ())}"


def without_routed_lines(text: str) -> str:
    """Return an earlier answer without the lines of `routed_line` at its end: the model did not write them."""
    lines = text.split("\n")
    while len(lines) > 1 and _ROUTED.fullmatch(lines[-1]):
        lines.pop()
    return "\n".join(lines)


def comparison_line(step: PlannedStep, numbers: Sequence[int], values: Sequence[float]) -> str:
    """Return which image has the largest (or smallest) value, and whether it is the one asked about.

    Args:
        step: the comparison.
        numbers: of the images compared, from 0.
        values: of each of them.
    """
    best = min(values) if step.less else max(values)
    figures = " against ".join(f"{value:.4g}" for value in values)
    what = f"number of {step.phrase}" if step.measure == "count" else f"{step.measure}"
    said = f"{what} {figures}"
    if values.count(best) > 1:
        return f"{'neither' if len(values) == 2 else 'no single one'}: they are alike ({said})"
    winner = numbers[values.index(best)]
    name = f"the {_ORDINALS[winner]} image" if winner < len(_ORDINALS) else f"image {winner + 1}"
    asked = re.match(r"(?:is|are|does|do|has|have)\b", step.clause, re.IGNORECASE) and step.images
    if not asked:
        return f"{name} ({said})"
    return f"{'yes' if step.images[0] == winner else f'no, {name}'} ({said})"
