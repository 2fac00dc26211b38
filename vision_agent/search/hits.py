"""What a search and a look for duplicates find. Both are drawn as contact sheets."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from PIL import Image
from pydantic import BaseModel, Field, NonNegativeInt

from vision_agent.results.base import ResultSequence
from vision_agent.results.box import FROZEN, Box
from vision_agent.search.contact_sheet import Cell, contact_sheet


class SearchHit(BaseModel):
    """An image that was found.

    Attributes:
        file: its path.
        score: how like the query it is: a cosine, -1..1; by presence the score of the best box, 0..1.
        box: by presence, where the phrase was found, in pixels of the upright original; else None.
    """

    model_config = FROZEN

    file: str
    score: Annotated[float, Field(ge=-1.001, le=1.001)]
    box: Box | None = None


class SearchResults(ResultSequence[SearchHit]):
    """Images that were found: a sequence of `SearchHit`, best first, possibly empty.

    Attributes:
        hits: the images.
        query: the words; for an image what it is.
        method: "embedder" (vectors were compared) or "presence" (the phrase was looked for in every image).
        model: that embedded, or looked.
        images: how many images were compared.
        threshold: by presence, the least score of a hit; else None.
        unknown_words: by presence, words that the model was never taught.
        missing: paths of images that were not looked at, or were found, and are not there or damaged now: the index is
            older than its folder, or the folder has moved.
        kind: always "search"; tells results apart in JSON.
    """

    _field: ClassVar[str] = "hits"

    kind: Literal["search"] = "search"
    hits: tuple[SearchHit, ...]
    query: str
    method: Literal["embedder", "presence"]
    model: str
    images: NonNegativeInt
    threshold: float | None = None
    unknown_words: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def sheet(self, *, columns: int = 5, side: int = 200) -> Image.Image:
        """Draw the images side by side, with their scores and names; boxes where there are some.

        Args:
            columns: images in a row, 1 to 20.
            side: of an image's cell, 64 to 1,024 pixels.

        Returns:
            an RGB image of at most 100 of the hits. A file that can no longer be read is an empty cell.

        Raises:
            InputError: a number out of range.
        """
        cells = [Cell(hit.file, f"{hit.score:.2f} {Path(hit.file).name}", hit.box) for hit in self]
        return contact_sheet(cells, columns, side)


def gone_of(hits: Iterable[SearchHit]) -> tuple[str, ...]:
    """Return the files of hits that are not there any more."""
    return tuple(hit.file for hit in hits if not Path(hit.file).exists())


class DuplicateGroup(BaseModel):
    """Images that show the same.

    Attributes:
        files: their paths, at least two.
        exact: whether their files are equal byte for byte.
    """

    model_config = FROZEN

    files: Annotated[tuple[str, ...], Field(min_length=2)]
    exact: bool


class Duplicates(ResultSequence[DuplicateGroup]):
    """Groups of images that show the same: a sequence of `DuplicateGroup`, possibly empty.

    Attributes:
        groups: the groups, in the order of their first files.
        images: how many images were compared.
        bits: of the 256 of an image's hash, how many may differ; None where only equal files count.
        kind: always "duplicates"; tells results apart in JSON.
    """

    _field: ClassVar[str] = "groups"

    kind: Literal["duplicates"] = "duplicates"
    groups: tuple[DuplicateGroup, ...]
    images: NonNegativeInt
    bits: NonNegativeInt | None

    @property
    def extra_files(self) -> tuple[str, ...]:
        """All files but the first of each group: what could go."""
        return tuple(file for group in self for file in group.files[1:])

    def sheet(self, *, columns: int = 5, side: int = 200) -> Image.Image:
        """Draw the groups, each with its number. Takes, returns and raises what `SearchResults.sheet` does."""
        cells = [
            Cell(file, f"{number}{'=' if group.exact else '~'} {Path(file).name}")
            for number, group in enumerate(self, start=1)
            for file in group.files
        ]
        return contact_sheet(cells, columns, side)


class IndexChanges(BaseModel):
    """What was done to an index.

    Attributes:
        added, changed, removed, unchanged: numbers of files. Changed ones have other bytes than before.
        damaged: how many files of the index cannot be read, those of before too.
    """

    model_config = FROZEN

    added: NonNegativeInt = 0
    changed: NonNegativeInt = 0
    removed: NonNegativeInt = 0
    unchanged: NonNegativeInt = 0
    damaged: NonNegativeInt = 0
