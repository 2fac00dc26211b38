"""OpenTelemetry spans of tool calls: which tool, which images by id, size and hash; never their bytes or texts.

Only the API package is used (extra `tracing`): without it, or without an exporter of the program's own, nothing is
recorded. Names follow OpenTelemetry's conventions for generative AI where they have one.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from vision_agent.images.store import ImageStore, StoredImage

try:
    from opentelemetry import trace
except ImportError:  # the extra "tracing" is not installed: nothing is recorded
    trace = None  # type: ignore[assignment]

_DEEPEST = 5  # lists and objects within each other that are shown
_LARGEST_BITS = 256
_DATA = re.compile(r"data:[^\s\"']{64,}", re.IGNORECASE)


def image_facts(stored: StoredImage) -> dict[str, Any]:
    """Return what may be recorded about an image: its id, size and hash."""
    return {"id": stored.id, "width": stored.size[0], "height": stored.size[1], "sha256": stored.sha256}


def without_bytes(value: Any, deep: int = 0) -> Any:
    """Return arguments as they may be recorded: images in `data:` addresses become their length.

    What was not checked yet may come here: what is nested without end, or a number too long to be written, is cut.
    """
    if isinstance(value, str):
        return _DATA.sub(lambda found: f"data: address of {len(found[0])} characters", value)
    if isinstance(value, int) and value.bit_length() > _LARGEST_BITS:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, Mapping | list | tuple) and deep > _DEEPEST:
        return "..."
    if isinstance(value, Mapping):
        return {key: without_bytes(part, deep + 1) for key, part in value.items()}
    return [without_bytes(part, deep + 1) for part in value] if isinstance(value, list | tuple) else value


class CallSpan:
    """The span of one tool call; without OpenTelemetry it records nothing."""

    def __init__(self, span: Any = None) -> None:
        self._span = span

    def finished(self, store: ImageStore, seen: str | None, made: tuple[str, ...]) -> None:
        """Note the images of a call that went well: `seen` was looked at, `made` are new."""
        if self._span is None:
            return
        if seen is not None and seen in store:
            for key, value in image_facts(store.get(seen)).items():
                self._span.set_attribute(f"vision_agent.image.{key}", value)
        facts = [image_facts(store.get(each)) for each in made if each in store]
        for key in facts[0] if facts else ():
            self._span.set_attribute(f"vision_agent.new_images.{key}", [each[key] for each in facts])


@contextmanager
def call_span(tool: str, model: str) -> Iterator[CallSpan]:
    """Open a span around a tool call. Of an error only its type is recorded: messages may quote content."""
    if trace is None:
        yield CallSpan()
        return
    tracer = trace.get_tracer("vision_agent")
    attributes = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": tool,
        "gen_ai.tool.type": "function",
        "vision_agent.model": model,
    }
    with tracer.start_as_current_span(
        f"execute_tool {tool}", attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            yield CallSpan(span)
        except BaseException as error:
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(trace.StatusCode.ERROR)
            raise
