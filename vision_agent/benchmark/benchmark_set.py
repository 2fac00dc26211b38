"""What a benchmark is to a run: questions about images, what to ask a model, and what its answers are worth."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from PIL import Image

from vision_agent.batch.records import replacing
from vision_agent.benchmark.found_images import FoundImages
from vision_agent.benchmark.published_rows import SUFFIXES, Row, read_rows
from vision_agent.benchmark.scores import Score
from vision_agent.data.annotations.faults import Faults
from vision_agent.errors import InputError, RouteError, bad_argument

if TYPE_CHECKING:
    from vision_agent.agent import VisionAgent

Said = dict[str, Any]
"""What a model made of a question, as it stands in the records."""

Prompts = Literal["official", "plain"]


@dataclass(frozen=True)
class Item:
    """A question about an image.

    Attributes:
        key: tells it from all others of its benchmark.
        image: its file, or the bytes of one.
        text: the question, a phrase, or "".
        truth: what is known of it.
        group: what figures are given for apart, such as a category; "" for none.
    """

    key: str
    image: Path | bytes
    text: str
    truth: Mapping[str, Any]
    group: str = ""

    @property
    def image_key(self) -> Hashable:
        """The same for all questions about an image."""
        return hashlib.sha256(self.image).digest() if isinstance(self.image, bytes) else self.image


@dataclass(frozen=True)
class SetOptions:
    """How a benchmark is read.

    Attributes:
        path: its file or folder.
        split: which part; None for the one that results are published on.
        images: the folder of its images; None for where publishers put them.
        limit: at most so many questions, the first ones.
        prompts: "official" asks as InternVL's evaluation does; "plain" asks the question alone.
    """

    path: Path
    split: str | None = None
    images: Path | None = None
    limit: int | None = None
    prompts: Prompts = "official"


@dataclass
class Reading:
    """The reading of one benchmark: its options, where images are found, and what is wrong."""

    options: SetOptions
    faults: Faults
    digest: Any = field(default_factory=hashlib.sha256)

    def files(self, *patterns: str) -> list[Path]:
        """Return the file that was named, or those of the folder that fit the first pattern that any fits.

        Raises:
            InputError: there is none.
        """
        path = self.options.path
        if path.is_file():
            if path.suffix.lower() not in SUFFIXES:
                raise InputError(bad_argument("path", f"a folder or a file ({', '.join(SUFFIXES)})", str(path)))
            return [path]
        for pattern in patterns:
            if found := sorted(path.rglob(pattern)) if path.is_dir() else []:
                return found
        expected = f"a folder with {' or '.join(patterns)}, or such a file"
        raise InputError(bad_argument("path", expected, str(path)))

    def rows(self, file: Path) -> list[Row]:
        """Return the rows of a file, which becomes part of the digest."""
        self.add_to_digest(file)
        return read_rows(file, self.faults)

    def add_to_digest(self, file: Path) -> None:
        """Let the digest tell this file from any other."""
        if file.is_file():
            with open(file, "rb") as stream:
                self.digest.update(hashlib.file_digest(stream, "sha256").digest())

    def images(self, file: Path) -> FoundImages:
        """Return what finds the images of a file."""
        given = [self.options.images] if self.options.images else []
        return FoundImages([*given, file.parent, file.parent.parent], self.faults)


class Benchmark(ABC):
    """A benchmark with its data.

    Attributes:
        name: its name, and its part after a colon.
        items: its questions.
        digest: tells its data from others.
        names: what it is called; several sets of one form share a class.
        batch: questions that are asked together.
        route: the route without which it cannot be asked.
    """

    names: ClassVar[tuple[str, ...]]
    batch: ClassVar[int] = 8
    route: ClassVar[str] = ""

    def __init__(self, name: str, items: Sequence[Item], digest: str, prompts: Prompts) -> None:
        self.name = name
        self.items = tuple(items)
        self.digest = digest
        self.prompts = prompts

    @abstractmethod
    def ask(self, agent: "VisionAgent", items: Sequence[Item], images: Sequence[Image.Image]) -> list[Said]:
        """Return what a model makes of some questions."""

    @abstractmethod
    def scores(self, said: Mapping[str, Said | None]) -> list[Score]:
        """Return the figures of what was said to each key; None where asking failed."""

    @abstractmethod
    def submission(self, said: Mapping[str, Said | None], folder: Path) -> list[Path]:
        """Write the files that the benchmark's server or its evaluation script takes."""

    def check_agent(self, agent: "VisionAgent") -> None:
        """Raise RouteError for an agent without the route that this benchmark measures."""
        if self.route and self.route not in agent.routes:
            token = f"[{self.route.upper()}]"
            raise RouteError(f"{self.name} needs a model with a {token} route, but {agent.model!r} has none")


def write_json(path: Path, content: object) -> Path:
    """Write JSON in one step."""
    with replacing(path) as part:
        part.write_text(json.dumps(content, ensure_ascii=False) + "\n", "utf-8")
    return path


def write_json_lines(path: Path, rows: Sequence[object]) -> Path:
    """Write one JSON a line, in one step."""
    with replacing(path) as part:
        part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def file_name(name: str) -> str:
    """Return the name of a benchmark as part of a file's."""
    return name.replace(":", "_").replace("+", "plus")
