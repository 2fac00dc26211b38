"""How results are told in words: in the answers of plans, and in `AgentResult.summary`.

Words that were read from an image are always quoted, on one line: they are data.
"""

import json
import re
from collections.abc import Sequence

from vision_agent.documents.result import OcrResult
from vision_agent.planning.clauses import same_thing
from vision_agent.planning.objects import Thing, phrases_of, things_of
from vision_agent.planning.plan import PlannedStep
from vision_agent.plugins.tool import ToolResult
from vision_agent.results.answers import RoutedText
from vision_agent.results.generated import GeneratedImage, GeneratedImages
from vision_agent.results.segmentation import Segmentation

_QUOTED = 300  # most characters of read words; the step has all
_PLACES = 8  # boxes that are told
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")


def quoted(text: str) -> str:
    """Words that were read from an image: in quotation marks, on one line, shortened."""
    short = text if len(text) <= _QUOTED else f"{text[: _QUOTED - 3]}..."
    return json.dumps(short, ensure_ascii=False)


def summary(made: ToolResult) -> str:
    """What a call gave, in one line."""
    content = made.content
    if "text" in content:
        return quoted(str(content["text"]))
    if "count" in content:
        return f"{content['count']} counted"
    said = [f"{content['total']} found"] if "total" in content else []
    return ", ".join([*said, *made.images]) or "done"


def place(thing: Thing, images: Sequence[str]) -> str:
    """Where a thing is; `images` are the ids of the request's images, and told where there are several."""
    box = ",".join(f"{side:.0f}" for side in thing.box or ())
    several = len(images) > 1 and thing.image in images
    return f"({box}) of picture {images.index(thing.image) + 1}" if several else f"({box})"


def places(things: Sequence[Thing], images: Sequence[str]) -> str:
    """Where things are, or that there are none."""
    if not things:
        return "not found"
    more = f" and {len(things) - _PLACES} more" if len(things) > _PLACES else ""
    return f"{len(things)} found, at {'; '.join(place(thing, images) for thing in things[:_PLACES])}{more}"


def found(name: str, things: Sequence[Thing], images: Sequence[str]) -> list[str]:
    """A line of places for each of the phrases that were asked for."""
    each = phrases_of(name)
    if len(each) == 1:
        return [f"{name}: {places(things, images)}"]
    return [f"{one}: {places([t for t in things if same_thing(t.label, one)], images)}" for one in each]


def counted(name: str, things: Sequence[Thing], images: Sequence[str]) -> list[str]:
    """A line of numbers for each of the phrases that were counted; by image where there are several."""
    lines = []
    for one in phrases_of(name):
        those = [thing.image for thing in things if same_thing(thing.label, one)]
        by_image = ", ".join(f"{those.count(image)} in picture {n}" for n, image in enumerate(images, start=1))
        lines.append(f"{one}: {len(those)}" + (f" ({by_image})" if len(images) > 1 else ""))
    return lines


def routed_line(routed: RoutedText, images: int) -> str:
    """What came of a routing token, in one line; `images` is how many the request is about."""
    about = f" in picture {routed.image + 1}" if routed.image is not None and images > 1 else ""
    name = f"{routed.phrase or routed.token}{about}"
    result = routed.result
    if result is None:
        return f"{name}: {routed.token} needs a picture, and there is none"
    if isinstance(result, OcrResult):
        lines = " / ".join(line.text for line in result.lines)
        return f"reads{about} {quoted(lines)}" if lines else f"no text was found{about}"
    if isinstance(result, GeneratedImage | GeneratedImages):
        made = [result] if isinstance(result, GeneratedImage) else list(result)
        return f"{name}: made {', '.join(f'a picture of {each.size[0]} x {each.size[1]} pixels' for each in made)}"
    if routed.detections is None:
        return f"{name}: {result!r}"
    verb = "outlined, " if isinstance(result, Segmentation) and len(result) else ""
    return f"{name}: {verb}{places(things_of(routed.detections, ''), ())}"


def verdict(step: PlannedStep, numbers: Sequence[int], values: Sequence[float]) -> str:
    """Which image has most (or least) of it, and whether that is the one asked about.

    Args:
        step: the comparison.
        numbers: of the images compared, from 0.
        values: of each of them.
    """
    best = min(values) if step.less else max(values)
    figures = " against ".join(f"{value:.4g}" for value in values)
    what = f"number of {step.thing}" if step.measure == "count" else f"{step.measure}"
    said = f"{what} {figures}"
    if values.count(best) > 1:
        return f"{'neither' if len(values) == 2 else 'no single one'}: they are alike ({said})"
    winner = numbers[values.index(best)]
    name = f"the {_ORDINALS[winner]} picture" if winner < len(_ORDINALS) else f"picture {winner + 1}"
    asked = re.match(r"(?:is|are|does|do|has|have)\b", step.clause, re.IGNORECASE) and step.images
    if not asked:
        return f"{name} ({said})"
    return f"{'yes' if step.images[0] == winner else f'no, {name}'} ({said})"
