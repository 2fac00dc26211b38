"""The records of a run on disk: JSON Lines, appended as files are done, and never damaged by a process that is killed.

A record is written in one piece and flushed. A killed process can leave half of the last line, which the next start
cuts off, so that its file counts as not done. Beside the output, `OUT.settings.json` says what made it: records of
different settings never mix in one file.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vision_agent.errors import InputError, bad_argument

try:
    from fcntl import LOCK_EX, LOCK_NB, flock
except ImportError:  # Windows; two runs at once then go unnoticed
    flock = None  # type: ignore[assignment]

Record = dict[str, Any]


def as_line(record: Mapping[str, Any]) -> bytes:
    """Return a record as one line of JSON. File names that are no UTF-8 become escapes, which read back the same."""
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def head_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns that every row of a record begins with: its file, and what went wrong in one text."""
    error = record["error"]
    return {"file": record["file"], "error": error and f"{error['type']}: {error['message']}"}


def failed(file: str, error: Exception) -> Record:
    """Return the record of a file that failed."""
    return {"file": file, "error": {"type": type(error).__name__, "message": str(error)}}


class Records:
    """The records of one output, open for a run; a context manager.

    Args:
        path: of the JSON Lines file.
        out: the output that the user named; the same file, or one that is written from it.
        settings: what makes the records, as plain JSON.

    Raises:
        InputError: the output was made with other settings or by something else, or another run writes it now.
    """

    def __init__(self, path: Path, out: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self._out = out
        self._began = _check_settings(path, out, settings)
        self._file = open(path, "ab", buffering=0)
        try:
            self._lock()
            self._cut_half_line()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if error is not None and self._began and not self.path.stat().st_size:
            # Nothing came of it, such as a wrong name of a model: the next try is not bound to its settings.
            self.path.unlink()
            settings_beside(self._out).unlink(missing_ok=True)

    def append(self, line: bytes) -> None:
        """Add a record, as `as_line` gives it."""
        rest = memoryview(line)
        while rest:  # a raw file may take less than it is given
            rest = rest[self._file.write(rest) :]

    def done(self) -> dict[str, bool]:
        """Return files that have a record, each with whether it went well."""
        return {record["file"]: record["error"] is None for record in read_records(self.path)}

    def sort(self, files: Sequence[str]) -> None:
        """Put the records in the order of `files`, one each (the last); those of other files follow as they stood.

        The file is replaced in one step, so that a killed process leaves the old or the new one. A file that is in
        order already is not touched.
        """
        places: dict[str, tuple[int, int]] = {}
        at = count = 0
        with open(self.path, "rb") as stream:
            for line in stream:
                places[json.loads(line)["file"]] = (at, len(line))
                at, count = at + len(line), count + 1
            order = [file for file in dict.fromkeys([*files, *places]) if file in places]
            if len(order) == count and order == sorted(places, key=lambda file: places[file]):
                return
            with replacing(self.path) as target, open(target, "wb") as sorted_file:
                for file in order:
                    stream.seek(places[file][0])
                    sorted_file.write(stream.read(places[file][1]))

    def _lock(self) -> None:
        if flock is None:
            return
        try:
            flock(self._file, LOCK_EX | LOCK_NB)
        except OSError as error:
            raise InputError(bad_argument("out", "a file that no other run is writing", str(self._out))) from error

    def _cut_half_line(self) -> None:
        """Remove what follows the last line break: half a record, of a run that was killed."""
        whole = 0
        with open(self.path, "rb") as stream:
            for line in stream:
                whole += len(line) if line.endswith(b"\n") else 0
        self._file.truncate(whole)


def read_records(path: Path) -> Iterator[Record]:
    """Yield the records of a file, one at a time."""
    with open(path, "rb") as stream:
        for line in stream:
            yield json.loads(line)


class replacing:
    """`with replacing(path) as part`: what is written to `part` takes the place of `path` at the end, or not at all."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_name(f".{path.name}.part")

    def __enter__(self) -> Path:
        return self._part

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            os.replace(self._part, self._path)
        else:
            self._part.unlink(missing_ok=True)


def settings_beside(out: Path) -> Path:
    """Return the file that says what made an output."""
    return out.with_name(f"{out.name}.settings.json")


def _check_settings(path: Path, out: Path, settings: Mapping[str, Any]) -> bool:
    """An output belongs to the settings that began it; a new one gets them written down. Whether it is new."""
    beside = settings_beside(out)
    wanted = json.loads(json.dumps(settings))
    anew = f"name another file, or delete {out.name} and {beside.name} to begin anew"
    if beside.exists():
        try:
            before = json.loads(beside.read_text("utf-8"))
        except ValueError as error:
            raise InputError(f"`out` has a broken {beside.name} beside it; {anew}") from error
        if not isinstance(before, dict) or before != wanted:
            old = before if isinstance(before, dict) else {}
            changed = sorted(key for key in {*old, *wanted} if old.get(key) != wanted.get(key))
            raise InputError(
                f"`out` must be an output of the same settings, but {str(out)!r} was made with another "
                f"{' and '.join(changed) or 'command'}; {anew}"
            )
        return False
    for file in {path, out}:
        if file.exists() and file.stat().st_size:
            raise InputError(f"`out` must be new or an output of this command, but got {str(file)!r}; {anew}")
    with replacing(beside) as part:
        part.write_text(json.dumps(wanted, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return True
