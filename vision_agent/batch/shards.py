"""Parts of a run for machines that share no more than a disk, and what makes one output of them.

Which part a file is in follows from a hash of its name alone, so that runs need not know of each other. Beside its
records a shard keeps the places of its files among all, for `merge` to restore the order and to notice what is missing.
"""

import glob
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vision_agent.batch.records import replacing, settings_beside
from vision_agent.errors import InputError, bad_argument

_FORM = re.compile(r"(\d{1,6})/(\d{1,6})")
_PART = re.compile(r"\.shard-(\d+)-of-(\d+)\.jsonl\Z")


@dataclass(frozen=True)
class Shard:
    """One of `count` parts, `number` from 1."""

    number: int
    count: int

    @classmethod
    def of(cls, text: str) -> "Shard":
        """Read "2/3". Raises InputError for anything else."""
        found = _FORM.fullmatch(text) if isinstance(text, str) else None
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise InputError(bad_argument("shard", 'a part such as "1/3", at most "3/3"', text))
        return cls(int(found[1]), int(found[2]))

    def path(self, out: Path) -> Path:
        """Return where its records go."""
        return out.with_name(f"{out.name}.shard-{self.number}-of-{self.count}.jsonl")

    def has(self, file: str) -> bool:
        """Say whether a file belongs to it."""
        return int.from_bytes(_hash(file)[:8], "big") % self.count == self.number - 1

    def choose(self, files: Sequence[str], path: Path) -> list[str]:
        """Return its files, and keep their places beside its records at `path`."""
        places = {file: place for place, file in enumerate(files) if self.has(file)}
        whole = hashlib.sha256()
        for file in files:
            whole.update(_hash(file))
        with replacing(_places_beside(path)) as part:
            content = {"files": len(files), "digest": whole.hexdigest(), "places": places}
            part.write_text(json.dumps(content) + "\n", "utf-8")
        return list(places)


class Shards:
    """All parts of an output, checked.

    Args:
        out: what their runs named.
        paths: of their records.

    Raises:
        InputError: parts that do not belong together.
    """

    def __init__(self, out: Path, paths: Sequence[Path]) -> None:
        self._out = out
        self._paths = paths
        self._places = [_read(_places_beside(path)) for path in paths]
        self._settings = [_read(settings_beside(path)) for path in paths]
        for path, places, settings in zip(paths, self._places, self._settings, strict=True):
            if settings != self._settings[0]:
                changed = sorted(key for key in settings if settings[key] != self._settings[0].get(key))
                raise InputError(f"`out` has shards of other settings: {path.name} has another {' and '.join(changed)}")
            if places["digest"] != self._places[0]["digest"]:
                raise InputError(
                    f"`out` has shards of other files: {path.name} was run over {places['files']}, and not the same as "
                    f"the {self._places[0]['files']} of {paths[0].name}; run all of them over the same"
                )

    @classmethod
    def of(cls, out: Path) -> "Shards":
        """Find the shards of an output. Raises InputError where one is missing."""
        found: dict[int, dict[int, Path]] = {}
        for path in out.parent.glob(f"{glob.escape(out.name)}.shard-*-of-*.jsonl"):
            if part := _PART.search(path.name):
                found.setdefault(int(part[2]), {})[int(part[1])] = path
        if len(found) != 1:
            got = sorted(f"1/{count}" for count in found) or str(out)
            raise InputError(bad_argument("out", "an output of which there are shards, of one run with --shard", got))
        ((count, paths),) = found.items()
        if missing := [number for number in range(1, count + 1) if number not in paths]:
            raise InputError(f"`out` lacks shards: {', '.join(f'{number}/{count}' for number in missing)} were not run")
        return cls(out, [paths[number] for number in range(1, count + 1)])

    def settings(self) -> dict[str, Any]:
        """Return what made all of them."""
        return dict(self._settings[0])

    def write(self, path: Path) -> int:
        """Write all records in the order of the files, each once, and return how many.

        Raises:
            InputError: a shard that has not come to its end.
        """
        lines: list[tuple[int, Path, int, int]] = []
        for part, places in zip(self._paths, self._places, strict=True):
            at, own = 0, {}
            with open(part, "rb") as stream:
                for line in stream:
                    own[json.loads(line)["file"]] = (part, at, len(line))
                    at += len(line)
            if left := len(places["places"].keys() - own.keys()):
                raise InputError(f"`out` has a shard without its end: {part.name} lacks {left} files; run it again")
            lines += [(place, *own[file]) for file, place in places["places"].items()]
        lines.sort()
        if len(lines) != self._places[0]["files"]:
            raise InputError(
                f"`out` has {len(lines)} records of {self._places[0]['files']} files: run its shards again"
            )
        streams = {part: open(part, "rb") for part in self._paths}
        try:
            with replacing(path) as whole, open(whole, "wb") as target:
                for _, part, at, length in lines:
                    streams[part].seek(at)
                    target.write(streams[part].read(length))
        finally:
            for stream in streams.values():
                stream.close()
        return len(lines)


def _hash(file: str) -> bytes:
    return hashlib.sha256(file.encode("utf-8", "surrogateescape")).digest()


def _places_beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.places.json")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"`out` has shards with a missing or broken {path.name}: run them again") from error
    if not isinstance(content, dict):
        raise InputError(f"`out` has shards with a broken {path.name}: run them again")
    return content
