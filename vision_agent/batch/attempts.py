"""How often a file is tried that cannot be read or that brings down what works on it, and what its record says then.

A file that cannot be read is tried again at once: a disk of the network may have failed. A process that ends, or takes
too long, may be the file's fault or not: another process tries the file again, after the others. Every other error is
an answer about the file, and final. The record is the same whatever ran the job.
"""

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from typing import Protocol, TypeVar

from vision_agent.batch.jobs import Job
from vision_agent.batch.records import Record, as_line, failed
from vision_agent.errors import InputError, bad_argument

T = TypeVar("T")

ATTEMPTS = 3
"""How often a file is tried that cannot be read, or whose worker ends or takes too long."""
_UNREADABLE = (InputError, OSError)

Done = Generator[tuple[str, bytes, bool], None, None]
"""Files, each with its record as a line and whether it went well, as they are done."""


class Executor(Protocol):
    """What runs a job: workers of this machine, of a Ray cluster, or servers."""

    def work(self, job: Job, files: Sequence[str]) -> Done:
        """Yield each file with its record as a line and whether it went well, as they are done.

        Raises:
            VisionAgentError: what would fail for every file.
        """
        ...


def attempted(work: Callable[[str], T], file: str) -> T:
    """Return what `work` gives for a file; one that cannot be read is tried again. Raises the last attempt's error."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return work(file)
        except _UNREADABLE:
            if attempt == ATTEMPTS:
                raise
    raise AssertionError("an attempt returns or raises")


def failed_in_the_end(file: str, error: Exception) -> Record:
    """Return the record of a file that `attempted` gave up, or of any other error."""
    record = failed(file, error)
    if isinstance(error, _UNREADABLE):
        record["error"]["message"] = f"{error}, in {ATTEMPTS} attempts"
    return record


class Attempts:
    """Counts, for each file, the workers that it brought down.

    Args:
        seconds: that a file may take; None for no bound.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._counts: Counter[str] = Counter()
        self._slow: Counter[str] = Counter()

    def __contains__(self, file: str) -> bool:
        """Whether a file has brought down a worker."""
        return file in self._counts

    def failed(self, file: str, *, slow: bool) -> bytes | None:
        """Count a worker that ended, or that was ended as it took too long. Return the last one's record."""
        self._counts[file] += 1
        self._slow[file] += slow
        if self._counts[file] < ATTEMPTS:
            return None
        # Of most attempts: one worker may have been ended by something else, or its end be heard of late.
        if 2 * self._slow[file] > ATTEMPTS:
            took = f"it took longer than {self._seconds:g} s, in {ATTEMPTS} attempts"
            return as_line({"file": file, "error": {"type": "TimedOut", "message": took}})
        ended = f"the process that worked on it ended, in {ATTEMPTS} attempts"
        return as_line({"file": file, "error": {"type": "WorkerDied", "message": ended}})


def check_count(name: str, count: int, most: int = 256) -> int:
    """Return a number of workers. Raises InputError for what is none."""
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= most:
        raise InputError(bad_argument(name, f"a whole number from 1 to {most}", count))
    return count


def check_seconds(seconds: float | None) -> float | None:
    """Return how long a file may take. Raises InputError for what is no time."""
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < float("inf"):
        raise InputError(bad_argument("seconds", "a number above 0, or None", seconds))
    return float(seconds)
