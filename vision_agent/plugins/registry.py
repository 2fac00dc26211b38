"""Finds plug-ins by name through entry points: one group for each kind.

Built-in and third-party plug-ins register alike. Nothing of a plug-in is imported until it is asked for; one that
cannot be imported is named in a message and does not disturb the others. Decoders of hidden states (`Decoder`) and of
the model's own words (`TextDecoder`) share a group. The environment variable `VISION_AGENT_DECODERS` (comma-separated
names; empty for none) restricts which of them may load.
"""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vision_agent.errors import (
    CheckpointError,
    InputError,
    MissingExtraError,
    UnknownDecoderError,
    bad_argument,
    missing_extra,
)
from vision_agent.plugins.tool import Tool

if TYPE_CHECKING:
    import typer

    from vision_agent.plugins.decoder import Decoder, TextDecoder


class PluginWarning(RuntimeWarning):
    """A plug-in that is broken, or that another one hides."""


def _is_decoder(loaded: Any) -> bool:
    # Imported here because it imports torch, which `load_commands` must do without.
    from vision_agent.plugins.decoder import Decoder, TextDecoder

    return isinstance(loaded, type) and issubclass(loaded, Decoder | TextDecoder)


@dataclass(frozen=True)
class _Group:
    """An entry-point group.

    Attributes:
        name: of the group.
        kind: what messages call its plug-ins.
        expected: what a plug-in has to be, in words.
        fits: whether a loaded object is that.
        restricted_by: environment variable that lists the names that may load; None where all may.
    """

    name: str
    kind: str
    expected: str = "callable"
    fits: Callable[[Any], bool] = callable
    restricted_by: str | None = None

    def entries(self) -> list[EntryPoint]:
        """Return the entry points, built-in ones first, then by name."""
        found = entry_points(group=self.name)
        return sorted(found, key=lambda entry: (not entry.value.startswith("vision_agent."), entry.name))

    def by_name(self) -> dict[str, EntryPoint]:
        """Return the entry points that may load. A name that is registered twice is warned about."""
        allowed = self._allowed()
        names = None if allowed is None else {name.strip() for name in allowed.split(",")}
        found: dict[str, EntryPoint] = {}
        for entry in self.entries():
            if names is not None and entry.name not in names:
                continue
            used = found.setdefault(entry.name, entry).value
            if used != entry.value:
                _warn(f"{self.kind} {entry.name!r} is registered twice: {used} is used, {entry.value} is not")
        return found

    def load(self, name: str) -> Any:
        """Import the plug-in of that name.

        Raises:
            UnknownDecoderError: it is not registered or not allowed, or importing it fails (also warned about).
            MissingExtraError: it needs a package that is not installed.
        """
        found = self.by_name()
        if name not in found:
            allowed = self._allowed()
            limit = "" if allowed is None else f" ({self.restricted_by}={allowed!r} restricts them)"
            raise UnknownDecoderError(f"no {self.kind} {name!r} is registered; there are {sorted(found)}{limit}")
        return self._import(found[name])

    def load_each(self, entries: Iterable[EntryPoint]) -> Iterator[tuple[EntryPoint, Any]]:
        """Import the plug-ins of these entry points. One that fails is skipped with a warning that names it."""
        for entry in entries:
            try:
                yield entry, self._import(entry)
            except UnknownDecoderError:
                continue  # _import has warned
            except MissingExtraError as error:
                self._warn_broken(entry, error)

    def _import(self, entry: EntryPoint) -> Any:
        try:
            loaded = entry.load()
            if not self.fits(loaded):
                raise TypeError(f"{entry.value} is no {self.expected}")
        except MissingExtraError:
            raise
        except Exception as error:  # a plug-in may fail in any way while it is imported
            self._warn_broken(entry, error)
            where = f"{entry.value}, from {_distribution(entry)}"
            raise UnknownDecoderError(f"{self.kind} {entry.name!r} ({where}) cannot be loaded: {error}") from error
        return loaded

    def _warn_broken(self, entry: EntryPoint, error: Exception) -> None:
        _warn(f"{self.kind} {entry.name!r} of {_distribution(entry)} is broken and skipped: {error!r}")

    def _allowed(self) -> str | None:
        return None if self.restricted_by is None else os.environ.get(self.restricted_by)


_DECODERS = _Group(
    "vision_agent.decoders",
    "decoder",
    "subclass of vision_agent.Decoder or TextDecoder",
    _is_decoder,
    restricted_by="VISION_AGENT_DECODERS",
)
_SEGMENTERS = _Group("vision_agent.segmenters", "segmenter")
_EMBEDDERS = _Group("vision_agent.embedders", "embedder")
_READERS = _Group("vision_agent.readers", "reader")
_TOOLS = _Group("vision_agent.tools", "tool", "vision_agent.Tool", lambda loaded: isinstance(loaded, Tool))
_TOOLKITS = _Group("vision_agent.toolkits", "toolkit")
_COMMANDS = _Group("vision_agent.commands", "command group")


def decoder_names() -> list[str]:
    """Return the names of all decoders that may load, sorted. Imports none of them."""
    return sorted(_DECODERS.by_name())


def load_decoder(name: str) -> "type[Decoder]":
    """Return the decoder class of that name, for a route.

    Raises:
        UnknownDecoderError: not registered, not allowed by `VISION_AGENT_DECODERS`, its plug-in is broken (which is
            also warned about, by name), or it reads words.
        MissingExtraError: it needs a package that is not installed.
    """
    from vision_agent.plugins.decoder import Decoder

    loaded: type[object] = _DECODERS.load(name)
    if not issubclass(loaded, Decoder):
        raise UnknownDecoderError(f"decoder {name!r} reads the model's words; a route needs one of hidden states")
    return loaded


def load_text_decoder(name: str) -> "type[TextDecoder]":
    """Return the decoder class of that name, for a checkpoint without routes.

    Raises:
        UnknownDecoderError: as `load_decoder`, or it reads hidden states.
        MissingExtraError: it needs a package that is not installed.
    """
    from vision_agent.plugins.decoder import TextDecoder

    loaded: type[object] = _DECODERS.load(name)
    if not issubclass(loaded, TextDecoder):
        raise UnknownDecoderError(f"decoder {name!r} reads hidden states; words need a TextDecoder")
    return loaded


def load_all_decoders() -> "dict[str, type[Decoder] | type[TextDecoder]]":
    """Return all decoders of both kinds that load; a broken one is skipped with a warning that names it."""
    entries = _DECODERS.by_name()
    return {entry.name: loaded for entry, loaded in _DECODERS.load_each(entries[name] for name in sorted(entries))}


def load_segmenter(name: str) -> Any:
    """Return the segmenter class of that name: `from_pretrained(path, device)` gives a `segmenter.Segmenter`.

    Raises:
        UnknownDecoderError: not registered, or its plug-in is broken.
        MissingExtraError: it needs a package that is not installed.
    """
    return _SEGMENTERS.load(name)


def load_embedder(folder: Path) -> Any:
    """Return the embedder class that reads a folder: `from_pretrained(folder, device)` gives an `embedder.Embedder`.

    Raises:
        CheckpointError: no such folder, or no registered embedder reads it.
    """
    if not folder.is_dir():
        raise CheckpointError(f"there is no embedder at {str(folder)!r}: no such folder")
    names = []
    for entry, loaded in _EMBEDDERS.load_each(_EMBEDDERS.by_name().values()):
        if loaded.reads(folder):
            return loaded
        names.append(entry.name)
    raise CheckpointError(f"{str(folder)!r} is no embedder that is known here; there are {', '.join(names) or 'none'}")


def load_reader(name: str) -> Callable[..., Any]:
    """Return the reader class of that name: called with a number of threads, it gives a `PageReader`.

    Raises:
        UnknownDecoderError: not registered, or its plug-in is broken.
        MissingExtraError: it needs a package that is not installed.
    """
    loaded: Callable[..., Any] = _READERS.load(name)
    return loaded


def load_tools() -> dict[str, Tool]:
    """Return all tools by their own names: built-in ones first, then in the order of their entry points' names.

    A broken plug-in, or a second tool of the same name, is skipped with a warning that names it.
    """
    found: dict[str, Tool] = {}
    for entry, tool in _TOOLS.load_each(_TOOLS.entries()):
        if found.setdefault(tool.name, tool) is not tool:
            _warn(f"tool {tool.name!r} of {_distribution(entry)} is skipped: another tool has its name")
    return found


def lacking(name: object) -> str | None:
    """Return what a registered tool needs that is not installed, with the install line; None where that is nothing."""
    tool = load_tools().get(name) if isinstance(name, str) else None
    return None if tool is None or tool.extra is None else missing_extra(tool.extra)


def load_toolkit(name: str) -> Any:
    """Return a form that tools are offered in, by its name, such as "langchain".

    Raises:
        InputError: not registered.
        UnknownDecoderError: its plug-in is broken.
        MissingExtraError: it needs a package that is not installed.
    """
    known = sorted(_TOOLKITS.by_name())
    if name not in known:
        raise InputError(bad_argument("form", f"one of {known}", name))
    return _TOOLKITS.load(name)


def load_commands() -> "list[Callable[[typer.Typer], None]]":
    """Return the functions that add commands to the command line, built-in ones first. Each takes the `typer.Typer`.

    A broken plug-in is skipped with a warning that names it, in one line. Imports no torch.
    """
    return [register for _, register in _COMMANDS.load_each(_COMMANDS.by_name().values())]


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else "an unknown distribution"


def _warn(problem: str) -> None:
    warnings.warn(problem, PluginWarning, stacklevel=4)
