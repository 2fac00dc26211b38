"""How a command ends: its exit code, and what it says on stderr."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

import typer

if TYPE_CHECKING:
    from vision_agent.batch import Summary

T = TypeVar("T")

DONE, FAILED, BAD_INPUT = 0, 1, 2
INTERRUPTED, PIPE_CLOSED = 130, 141  # as shells count SIGINT and SIGPIPE


class StoppedByUser(Exception):
    """Ctrl-C; the text is the line to print."""


def told(line: str) -> None:
    """Print a line on stderr."""
    print(line, file=sys.stderr)


def one_line(error: BaseException) -> str:
    """Return an error's text in one line."""
    if isinstance(error, OSError) and error.strerror:
        where = f": {os.fsdecode(error.filename)!r}" if isinstance(error.filename, str | bytes) else ""
        return f"{error.strerror}{where}"
    return " ".join(str(error).split()) or type(error).__name__


def run_to_end(process: Callable[[], "Summary"]) -> None:
    """Run a batch, and tell how it went.

    Raises:
        typer.Exit: with 1 where files failed.
        StoppedByUser: the run was interrupted.
    """
    try:
        summary = process()
    except KeyboardInterrupt:
        raise StoppedByUser("stopped; run the same command again to resume") from None
    counts = f"{summary.files} files: {summary.done} done, {summary.failed} failed"
    told(f"{counts}; {summary.before} of them before" if summary.before else counts)
    if summary.failed:
        raise typer.Exit(FAILED)


def with_bar(items: Iterable[T], total: int, *, shown: bool) -> Iterator[T]:
    """Yield items, with a bar on stderr where that is a terminal and stdout, whose lines it would cut, is none."""
    if not shown or sys.stdout.isatty() or not sys.stderr.isatty():
        yield from items
        return
    from tqdm import tqdm

    yield from tqdm(items, total=total, unit=" image")


def silence_stdout() -> None:
    """Give up on stdout: what is left in its buffer must not raise again when the process ends."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # no file: it is captured
        return
