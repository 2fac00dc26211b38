"""Finds decoders by name through the entry-point group `vision_agent.decoders`.

Decoders of hidden states (`Decoder`) and of the model's own words (`TextDecoder`) share the group, and built-in and
third-party ones register alike. Nothing is imported until a decoder is asked for. The environment
variable `VISION_AGENT_DECODERS` (comma-separated names; empty for none) restricts which may load.
"""

import os
import warnings
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from vision_agent.errors import InputError, MissingExtraError, UnknownDecoderError, bad_argument
from vision_agent.plugins.decoder import Decoder, TextDecoder
from vision_agent.plugins.tool import Tool

GROUP = "vision_agent.decoders"
SEGMENTER_GROUP = "vision_agent.segmenters"
TOOL_GROUP = "vision_agent.tools"
TOOLKIT_GROUP = "vision_agent.toolkits"
RESTRICT_VARIABLE = "VISION_AGENT_DECODERS"


def decoder_names() -> list[str]:
    """Names of all decoders that may load, sorted. Imports none of them."""
    return sorted(_entries())


def load_decoder(name: str) -> type[Decoder]:
    """The decoder class of that name, for a route.

    Raises:
        UnknownDecoderError: not registered, not allowed by `VISION_AGENT_DECODERS`, its plug-in is broken (which is
            also warned about, by name), or it reads words.
    """
    loaded = _load(name)
    if not issubclass(loaded, Decoder):
        raise UnknownDecoderError(f"decoder {name!r} reads the model's words; a route needs one of hidden states")
    return loaded


def load_text_decoder(name: str) -> type[TextDecoder]:
    """The decoder class of that name, for a checkpoint without routes.

    Raises:
        UnknownDecoderError: as `load_decoder`, or it reads hidden states.
    """
    loaded = _load(name)
    if not issubclass(loaded, TextDecoder):
        raise UnknownDecoderError(f"decoder {name!r} reads hidden states; words need a TextDecoder")
    return loaded


def load_segmenter(name: str) -> Any:
    """The segmenter class of that name: `from_pretrained(path, device)` gives a `segments.Segmenter`.

    Raises:
        UnknownDecoderError: not registered, or its plug-in is broken.
    """
    for entry in entry_points(group=SEGMENTER_GROUP, name=name):
        try:
            return entry.load()
        except Exception as error:  # a plug-in may fail in any way while it is imported
            raise UnknownDecoderError(f"segmenter {name!r} ({entry.value}) cannot be loaded: {error}") from error
    raise UnknownDecoderError(f"no segmenter {name!r} is registered")


def load_tools() -> dict[str, Tool]:
    """All tools of the entry-point group `vision_agent.tools`, by name: built-in ones first, then by entry name.

    A broken plug-in, or a second tool of the same name, is skipped with a warning that names it.
    """
    found: dict[str, Tool] = {}
    for entry in sorted(entry_points(group=TOOL_GROUP), key=lambda each: (not _is_built_in(each), each.name)):
        source = entry.dist.name if entry.dist else "an unknown distribution"
        try:
            tool = entry.load()
            if not isinstance(tool, Tool):
                raise TypeError(f"{entry.value} is no vision_agent.Tool")
        except Exception as error:  # a plug-in may fail in any way while it is imported
            problem = f"tool {entry.name!r} of {source} is broken and skipped: {error!r}"
            warnings.warn(problem, RuntimeWarning, stacklevel=2)
            continue
        if tool.name in found:
            if found[tool.name] is not tool:
                problem = f"tool {tool.name!r} of {source} is skipped: another tool has its name"
                warnings.warn(problem, RuntimeWarning, stacklevel=2)
            continue
        found[tool.name] = tool
    return found


def _is_built_in(entry: EntryPoint) -> bool:
    return entry.value.startswith("vision_agent.")


def load_toolkit(name: str) -> Any:
    """A form that tools are offered in, by its name in the group `vision_agent.toolkits`, such as "langchain".

    Raises:
        InputError: not registered.
        MissingExtraError: it needs a package that is not installed.
    """
    for entry in entry_points(group=TOOLKIT_GROUP, name=name):
        return entry.load()
    known = sorted({entry.name for entry in entry_points(group=TOOLKIT_GROUP)})
    raise InputError(bad_argument("form", f"one of {known}", name))


def load_all_decoders() -> dict[str, type[Decoder] | type[TextDecoder]]:
    """All decoders of both kinds that load; a broken one is skipped with a warning that names it."""
    found = {}
    for name in decoder_names():
        try:
            found[name] = _load(name)
        except UnknownDecoderError:
            continue  # _load has warned
    return found


def _load(name: str) -> type[Decoder] | type[TextDecoder]:
    entry = _entries().get(name)
    if entry is None:
        raise UnknownDecoderError(f"no decoder {name!r} is registered; there are {decoder_names()}{_restriction()}")
    try:
        loaded = entry.load()
        if not (isinstance(loaded, type) and issubclass(loaded, Decoder | TextDecoder)):
            raise TypeError(f"{entry.value} is no subclass of vision_agent.Decoder or TextDecoder")
    except Exception as error:  # a plug-in may fail in any way while it is imported
        source = entry.dist.name if entry.dist else "an unknown distribution"
        warnings.warn(f"decoder {name!r} of {source} is broken and skipped: {error!r}", RuntimeWarning, stacklevel=3)
        raise UnknownDecoderError(
            f"decoder {name!r} ({entry.value}, from {source}) cannot be loaded: {error}"
        ) from error
    return loaded


def _entries() -> dict[str, EntryPoint]:
    allowed = os.environ.get(RESTRICT_VARIABLE)
    names = None if allowed is None else {name.strip() for name in allowed.split(",")}
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUP):
        if names is not None and entry.name not in names:
            continue
        if entry.name in found and found[entry.name].value != entry.value:
            warnings.warn(
                f"decoder {entry.name!r} is registered twice: {found[entry.name].value} is used, {entry.value} is not",
                RuntimeWarning,
                stacklevel=3,
            )
            continue
        found.setdefault(entry.name, entry)
    return found


def _restriction() -> str:
    allowed = os.environ.get(RESTRICT_VARIABLE)
    return "" if allowed is None else f" ({RESTRICT_VARIABLE}={allowed!r} restricts them)"


READER_GROUP = "vision_agent.readers"


def load_reader(name: str) -> Any:
    """The reader class of that name: `cls(threads)` gives a `documents.reader.PageReader`.

    Raises:
        UnknownDecoderError: not registered, or its plug-in is broken.
        MissingExtraError: it needs a package that is not installed.
    """
    for entry in entry_points(group=READER_GROUP, name=name):
        try:
            return entry.load()
        except MissingExtraError:
            raise
        except Exception as error:  # a plug-in may fail in any way while it is imported
            raise UnknownDecoderError(f"reader {name!r} ({entry.value}) cannot be loaded: {error}") from error
    known = sorted({entry.name for entry in entry_points(group=READER_GROUP)})
    raise UnknownDecoderError(f"no reader {name!r} is registered; there are {known}")
