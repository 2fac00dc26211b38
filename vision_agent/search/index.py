"""`Index`: what is known of the images of a folder, so that they are found again by words, by an image or by a part.

Of each image the index keeps size, time and hash of its file, a difference hash and a small copy, and with an agent its
vector. Words are looked up in the vectors where the agent's embedder reads texts; else each phrase is looked for in
every image, which is slow and exact, and what was found is kept.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from PIL import Image

from vision_agent.batch.files import find_images
from vision_agent.embedding.text_or_image import Kind, is_text
from vision_agent.errors import ArgumentTypeError, InputError, RouteError, VisionAgentError, bad_argument, first_line
from vision_agent.images.loading import ImageLimits, ImageSource, load_image
from vision_agent.images.perceptual_hash import HASH_BITS, SMALL_SIDE, difference_hash, small_copy
from vision_agent.images.regular_files import open_regular
from vision_agent.plugins.embedder import Embedder
from vision_agent.results.box import Box
from vision_agent.search.hits import DuplicateGroup, Duplicates, IndexChanges, SearchHit, SearchResults, gone_of
from vision_agent.search.index_file import (
    EmbedderIdentity,
    IndexArrays,
    IndexContent,
    IndexedImage,
    read_index,
    write_index,
)
from vision_agent.search.nearest import Engine, Searcher, searcher
from vision_agent.search.phrase_search import PhraseSearch
from vision_agent.search.query_part import part_of
from vision_agent.search.twins import MOST_BITS, groups

if TYPE_CHECKING:
    from vision_agent.agent import VisionAgent

Progress = Callable[[int, int], None]
_AT_ONCE = 8  # images that are loaded and embedded together


class _Row:
    """The numbers of one image."""

    __slots__ = ("hash", "small", "vector")

    def __init__(self, vector: Any, hashed: Any, small: Any) -> None:
        self.vector, self.hash, self.small = vector, hashed, small


class Index:
    """The images of a folder, to be searched. Make one with `Index.build`, or read one with `Index.load`.

    Example:
        >>> from vision_agent import Index, VisionAgent
        >>> index = Index.build("examples/photos", VisionAgent())
        >>> index.search("bus", limit=3).sheet().save("found.jpg")  # doctest: +SKIP
    """

    def __init__(self, folder: str | os.PathLike[str], agent: "VisionAgent | None" = None) -> None:
        """Make an empty index.

        Args:
            folder: that its images lie in.
            agent: whose embedder makes vectors, and that looks for phrases; None for an index that finds duplicates.

        Raises:
            InputError: no such folder.
        """
        self._folder = Path(os.path.abspath(folder))
        if not self._folder.is_dir():
            raise InputError(bad_argument("folder", "a folder that exists", os.fspath(folder)))
        self._agent = agent
        self._limits = ImageLimits() if agent is None else agent.image_limits
        self._embedder: Embedder | None = None if agent is None else agent.embedder
        self._made_by = None if self._embedder is None else EmbedderIdentity.of(self._embedder)
        self._images: dict[str, IndexedImage] = {}
        self._rows: dict[str, _Row] = {}
        self._stacked: IndexArrays | None = None
        self._searchers: dict[Engine, Searcher] = {}
        self._phrases = PhraseSearch()
        self._unsaved = False

    @classmethod
    def build(
        cls,
        folder: str | os.PathLike[str],
        agent: "VisionAgent | None" = None,
        *,
        out: str | os.PathLike[str] | None = None,
        save_every: int = 256,
        progress: Progress | None = None,
    ) -> Self:
        """Index the images of a folder and of those below it.

        Args:
            folder: of images.
            agent: see `Index`.
            out: file of the index, which is saved there as it grows. Where it is there already, it is brought up to
                date: what was indexed before and has not changed is not read again, also where the folder was moved.
            save_every: new images from one time of saving to the next.
            progress: called as `progress(images done, images of the folder)`.

        Raises:
            InputError: no folder, no image in it, a place that cannot be written, an `out` that is no index, or one of
                another folder or embedder.
        """
        if type(save_every) is not int or save_every < 1:
            raise InputError(bad_argument("save_every", "a whole number of at least 1", save_every))
        index = cls(folder, agent)
        if out is None:
            index._update(progress, lambda: None, save_every)
            return index
        target = Path(out)
        if not target.parent.is_dir() or target.is_dir():
            raise InputError(bad_argument("out", "a file in a folder that exists", os.fspath(out)))
        if target.exists():
            try:
                before = cls.load(target, agent)
            except InputError as error:
                raise InputError(f"{error}; name another `out`, or delete it to begin anew") from error
            if before._folder != index._folder:
                if before._folder.is_dir():
                    raise InputError(
                        f"`out` must be an index of {str(index._folder)!r}, but is one of {str(before._folder)!r}"
                    )
                before._folder, before._unsaved = index._folder, True  # it was moved, or is mounted elsewhere
            index = before
        index._update(progress, lambda: index.save(target), save_every)
        index.save(target)
        return index

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        agent: "VisionAgent | None" = None,
        *,
        folder: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Read an index that `save` wrote. No code in it is run.

        Args:
            path: of the index.
            agent: to search with; None to look for duplicates alone.
            folder: where its images lie now; None for where they lay.

        Raises:
            InputError: no index, a damaged one, or one of another embedder than the agent's.
        """
        content, arrays = read_index(Path(path))
        index = cls.__new__(cls)
        index._folder = Path(os.path.abspath(content.folder if folder is None else folder))
        index._agent = agent
        index._limits = ImageLimits() if agent is None else agent.image_limits
        index._embedder = None if agent is None else agent.embedder
        index._made_by = content.embedder
        index._check_embedder(path)
        index._images = {each.file: each for each in content.images}
        readable = [each.file for each in content.images if each.error is None]
        rows = zip(arrays.vectors, arrays.hashes, arrays.small, strict=True)
        index._rows = {file: _Row(*row) for file, row in zip(readable, rows, strict=True)}
        index._stacked = arrays
        index._searchers = {}
        index._phrases = PhraseSearch(content.detector, content.phrases)
        index._unsaved = False
        return index

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to one file: whole, or not at all.

        Raises:
            InputError: a place that cannot be written.
        """
        content = IndexContent(
            folder=str(self._folder),
            embedder=self._made_by,
            images=tuple(self._images.values()),
            detector=self._phrases.detector,
            phrases=self._phrases.found,
        )
        write_index(Path(path), content, self._arrays())
        self._unsaved = self._phrases.changed = False

    def __len__(self) -> int:
        """How many images can be found; damaged ones cannot."""
        return len(self._rows)

    @property
    def unsaved(self) -> bool:
        """Whether it knows more than when it was read or saved: of images, or of what a phrase found in them."""
        return self._unsaved or self._phrases.changed

    @property
    def folder(self) -> Path:
        """The folder that the images lie in."""
        return self._folder

    @property
    def files(self) -> tuple[str, ...]:
        """Paths of the images that can be found."""
        return tuple(map(self._path, self._rows))

    @property
    def errors(self) -> dict[str, str]:
        """Why images could not be read, by path."""
        return {self._path(each.file): each.error for each in self._images.values() if each.error is not None}

    def update(self, progress: Progress | None = None) -> IndexChanges:
        """Look through the folder again: new files are added, changed ones read again, missing ones forgotten.

        A file is changed where its size or its time is another than before and its bytes are too.
        """
        return self._update(progress, lambda: None, len(self._images) + 2**31)

    def add(self, files: Iterable[str | os.PathLike[str]]) -> IndexChanges:
        """Add images, or read changed ones again.

        Args:
            files: images, folders and patterns, all inside the index's folder.

        Raises:
            InputError: nothing at a path, or a file outside the folder.
        """
        return self._add([self._name(file) for file in find_images(files)], None, lambda: None, 2**31)

    def remove(self, files: Iterable[str | os.PathLike[str]]) -> IndexChanges:
        """Forget images, whether their files are still there or not.

        Raises:
            InputError: a file that the index does not have.
            ArgumentTypeError: `files` is one path.
        """
        if isinstance(files, str | os.PathLike):
            raise ArgumentTypeError(bad_argument("files", "a list of paths", files))
        names = [self._name(file) for file in files]
        for name in names:
            if name not in self._images:
                raise InputError(bad_argument("files", "files of the index", name))
        for name in set(names):
            self._forget(name)
        return IndexChanges(removed=len(set(names)), unchanged=len(self._images), damaged=len(self.errors))

    def search(
        self,
        query: ImageSource,
        *,
        box: Box | Sequence[float] | None = None,
        limit: int = 10,
        threshold: float | None = None,
        kind: Kind = "auto",
        engine: Engine = "numpy",
        progress: Progress | None = None,
    ) -> SearchResults:
        """Find images by words, by an image, or by a part of one.

        Args:
            query: an image (see `load_image` for the kinds), or words; see `VisionAgent.embed` for what a string is.
            box: the part of the image that is looked for: x0, y0, x1, y1 in pixels of the upright original.
            limit: most images that are returned.
            threshold: by presence, least score of a hit, 0-1; None for the model's own, from which it says that a
                thing is there.
            kind: what a string is: "auto", "text" or "image".
            engine: "numpy", or "faiss" (extra "faiss"). Both are exact.
            progress: by presence, called as `progress(images done, images)`.

        Returns:
            images, best first. Words are compared with the images' vectors where the agent's embedder reads texts.
            Else the words are looked for in every image: for the default some 0.3 seconds an image on one core, once
            for each phrase, and the hits have boxes.

        Raises:
            InputError: an empty query, a box of no area inside the image, a limit under 1.
            RouteError: words, and the agent has neither an embedder of texts nor a `[DET]` route; or the index was
                made without an agent.
            MissingExtraError: faiss is not installed.
        """
        if type(limit) is not int or limit < 1:
            raise InputError(bad_argument("limit", "a whole number of at least 1", limit))
        agent, embedder = self._agent, self._embedder
        if agent is None or embedder is None:
            raise RouteError("an index without an agent finds duplicates alone: Index.load(path, agent)")
        words = isinstance(query, str) and is_text(query, kind)
        if words and box is not None:
            raise InputError(bad_argument("box", "left out where words are looked for", box))
        if words and not embedder.embeds_texts:
            files = {name: self._path(name) for name in self._rows}
            return self._phrases.search(agent, str(query), files, limit, threshold, progress)
        shown = (
            query
            if words
            else part_of(load_image(query, limits=self._limits, name="query"), box, self._limits.min_side)
        )
        vector = agent.embed(shown, kind="text" if words else "auto")
        if engine not in self._searchers:
            self._searchers[engine] = searcher(self._arrays().vectors, engine)
        scores, rows = self._searchers[engine](vector, min(limit, max(1, len(self._rows))))
        names = list(self._rows)
        hits = [
            SearchHit(file=self._path(names[row]), score=float(score)) for score, row in zip(scores, rows, strict=True)
        ]
        said = str(query) if isinstance(query, str | os.PathLike) else "an image"
        return SearchResults(
            hits=tuple(hits),
            query=said,
            method="embedder",
            model=embedder.name,
            images=len(self._rows),
            missing=gone_of(hits),
        )

    def duplicates(self, *, bits: int | None = MOST_BITS) -> Duplicates:
        """Find images that are there twice, or look alike: resized, recompressed, brighter or darker, cropped by 1 %.

        No model is needed. Mirrored ones and larger crops are not found; pages of one form may be taken for one.
        Every image is compared with every other: 5,000 take about a second, 100,000 minutes.

        Args:
            bits: of the 256 of an image's hash, how many may differ, 0 to 64; None for files that are equal alone.

        Raises:
            InputError: a number out of range.
        """
        if bits is not None and (type(bits) is not int or not 0 <= bits <= 64):
            raise InputError(bad_argument("bits", "a whole number from 0 to 64, or None", bits))
        names = list(self._rows)
        arrays, digests = self._arrays(), [self._images[name].sha256 for name in names]
        found = []
        for rows in groups(arrays.hashes, arrays.small, digests, -1 if bits is None else bits):
            files = tuple(self._path(names[row]) for row in rows)
            found.append(DuplicateGroup(files=files, exact=len({digests[row] for row in rows}) == 1))
        return Duplicates(groups=tuple(found), images=len(names), bits=bits)

    # Inside ----------------------------------------------------------------------------------------------------------

    def _update(self, progress: Progress | None, save: Callable[[], None], save_every: int) -> IndexChanges:
        if not self._folder.is_dir():
            raise InputError(bad_argument("folder", "a folder that exists", str(self._folder)))
        try:
            names = [self._name(file) for file in find_images([self._folder])]
        except InputError:
            if not self._images:
                raise
            names = []  # all of them were deleted
        gone = self._images.keys() - set(names)
        for name in gone:
            self._forget(name)
        done = self._add(names, progress, save, save_every)
        return done.model_copy(update={"removed": len(gone)})

    def _add(
        self, names: Sequence[str], progress: Progress | None, save: Callable[[], None], save_every: int
    ) -> IndexChanges:
        """Read what is new or changed, some images at a time; what was read is saved also where an error ends it."""
        counts = {"added": 0, "changed": 0, "unchanged": 0}
        by_digest = {each.sha256: name for name, each in self._images.items() if each.error is None}
        waiting: list[tuple[IndexedImage, Image.Image]] = []
        unsaved = 0
        try:
            for done, name in enumerate(names, start=1):
                before = self._images.get(name)
                image = self._looked_at(name, before)
                if before is not None and (image == before or image.sha256 == before.sha256 != ""):
                    times = {"size": image.size, "mtime_ns": image.mtime_ns}
                    self._images[name] = before.model_copy(update=times)
                    counts["unchanged"] += 1
                else:
                    counts["added" if before is None else "changed"] += 1
                    self._forget(name)
                    unsaved += 1
                    twin = by_digest.get(image.sha256)
                    if image.error is None and twin in self._rows:
                        self._images[name] = image.model_copy(update={"image_size": self._images[twin].image_size})
                        self._rows[name] = self._rows[twin]
                        self._changed()
                    else:
                        self._read(image, waiting)
                        by_digest[image.sha256] = name
                if len(waiting) == _AT_ONCE:
                    self._take(waiting)
                if unsaved >= save_every:
                    self._take(waiting)
                    save()
                    unsaved = 0
                if progress is not None:
                    progress(done, len(names))
            self._take(waiting)
        finally:
            if unsaved:
                save()
        return IndexChanges(**counts, damaged=len(self.errors))

    def _looked_at(self, name: str, before: IndexedImage | None) -> IndexedImage:
        """A file's size, time and hash; what is known of it where size and time are those of before."""
        path = self._path(name)
        try:
            stat = os.stat(path)
            if before is not None and (before.size, before.mtime_ns) == (stat.st_size, stat.st_mtime_ns):
                return before
            digest = _digest(path)
        except OSError as error:
            problem = f"{type(error).__name__}: {error.strerror or error}"
            return IndexedImage(file=name, size=0, mtime_ns=0, sha256="", error=problem)
        return IndexedImage(file=name, size=stat.st_size, mtime_ns=stat.st_mtime_ns, sha256=digest)

    def _read(self, image: IndexedImage, waiting: list[tuple[IndexedImage, Image.Image]]) -> None:
        """Load an image that is to be embedded; a damaged one is noted."""
        if image.error is None:
            try:
                loaded = load_image(self._path(image.file), limits=self._limits)
            except VisionAgentError as error:
                image = image.model_copy(update={"error": first_line(error)})
            else:
                waiting.append((image.model_copy(update={"image_size": loaded.size}), loaded))
                return
        self._images[image.file] = image

    def _take(self, waiting: list[tuple[IndexedImage, Image.Image]]) -> None:
        """Embed the images that wait, and keep what is known of them."""
        loaded = [each for _, each in waiting]
        if self._made_by is None:
            vectors = np.empty((len(loaded), 0), dtype=np.float32)
        elif self._embedder is not None:
            vectors = self._embedder.embed_images(loaded)
        else:
            raise InputError(f"the index has vectors of {self._made_by.name!r}: load it with an agent to add images")
        for (image, each), vector in zip(waiting, vectors, strict=True):
            self._images[image.file] = image
            self._rows[image.file] = _Row(vector, np.packbits(difference_hash(each)), small_copy(each))
        waiting.clear()
        self._changed()

    def _forget(self, name: str) -> None:
        self._images.pop(name, None)
        self._rows.pop(name, None)
        self._phrases.forget(name)
        self._changed()

    def _changed(self) -> None:
        self._stacked, self._unsaved = None, True
        self._searchers.clear()

    def _arrays(self) -> IndexArrays:
        if self._stacked is None:
            self._stacked = self._stack()
        return self._stacked

    def _stack(self) -> IndexArrays:
        rows = list(self._rows.values())
        width = 0 if self._made_by is None else self._made_by.width
        if not rows:
            return IndexArrays(
                vectors=np.empty((0, width), dtype=np.float32),
                hashes=np.empty((0, HASH_BITS // 8), dtype=np.uint8),
                small=np.empty((0, 3 * SMALL_SIDE**2), dtype=np.uint8),
            )
        return IndexArrays(
            vectors=np.stack([each.vector for each in rows]),
            hashes=np.stack([each.hash for each in rows]),
            small=np.stack([each.small for each in rows]),
        )

    def _path(self, name: str) -> str:
        return str(self._folder / name)

    def _name(self, file: str | os.PathLike[str]) -> str:
        """A file's path from the folder. Raises InputError where it lies outside."""
        try:
            name = Path(os.path.abspath(file)).relative_to(self._folder).as_posix()
        except ValueError as error:
            expected = f"inside the folder of the index, {str(self._folder)!r}"
            raise InputError(bad_argument("files", expected, os.fspath(file))) from error
        # A name that is no text in UTF-8 could not be written down: its file is told as one that cannot be read.
        return name.encode("utf-8", "backslashreplace").decode("utf-8")

    def _check_embedder(self, path: str | os.PathLike[str]) -> None:
        """Raise InputError where the index was made by another embedder than the agent's."""
        mine, made_by = self._embedder, self._made_by
        if mine is None:
            return
        name = "no embedder" if made_by is None else repr(made_by.name)
        if made_by is None or (made_by.fingerprint, made_by.width) != (mine.fingerprint, mine.width):
            raise InputError(
                f"the index {os.fspath(path)!r} was made by {name}, and vectors of {mine.name!r} cannot be compared "
                f"with its own: load it with the agent that made it, or build another index"
            )


def _digest(path: str) -> str:
    """SHA-256 of a file's bytes. Raises OSError."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()
