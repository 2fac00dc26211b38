"""Reading documents: sources in, pages with blocks in reading order out, as they are asked for, some side by side."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from typing import Any, Literal, TypeVar

from vision_agent.documents.model_reader import Ask, ModelReader
from vision_agent.documents.page_reader import PageReader
from vision_agent.documents.pdf_text import trusted_lines
from vision_agent.documents.reading_order import blocks_of
from vision_agent.documents.result import Line, OcrResult, Page
from vision_agent.documents.source import DocumentSource, PageChoice, PageImage, documents_in, page_images
from vision_agent.documents.table_detection import with_tables
from vision_agent.errors import ArgumentTypeError, InputError, bad_argument
from vision_agent.images.loading import ImageLimits
from vision_agent.plugins.registry import load_reader

TextLayer = Literal["auto", "never"]
Documents = DocumentSource | Sequence[DocumentSource]

T = TypeVar("T")
R = TypeVar("R")


class DocumentReader:
    """Reads documents for an agent, or on its own: `DocumentReader().read("scan.pdf")` needs no language model.

    Readers are loaded once and kept. One reader may be shared by threads.

    Args:
        limits: what images are accepted.
        ask: the model's `ask`, for `engine="model"`.
        model: the model's name.
    """

    def __init__(self, limits: ImageLimits | None = None, ask: Ask | None = None, model: str = "") -> None:
        self._limits = limits or ImageLimits()
        self._ask = ask
        self._model = model
        self._readers: dict[tuple[str, int | None], PageReader] = {}
        self._lock = threading.Lock()

    def read(
        self,
        source: Documents,
        *,
        pages: PageChoice = None,
        password: str | None = None,
        engine: str | PageReader = "rapidocr",
        workers: int = 1,
        text_layer: TextLayer = "auto",
        progress: bool = False,
    ) -> OcrResult | list[OcrResult]:
        """All pages; see `VisionAgent.ocr`."""
        many = documents_in(source)
        documents = [source] if many is None else many
        name = engine if isinstance(engine, str) else engine.name
        found = self._read_all(documents, many is not None, pages, password, engine, workers, text_layer, progress)
        results = [
            OcrResult.of([page for _, page in group], self._model if name == "model" else name)
            for _, group in groupby(found, key=lambda item: item[0])
        ]
        return results[0] if many is None else results

    def pages(
        self,
        source: Documents,
        *,
        pages: PageChoice = None,
        password: str | None = None,
        engine: str | PageReader = "rapidocr",
        workers: int = 1,
        text_layer: TextLayer = "auto",
        progress: bool = False,
    ) -> Iterator[Page]:
        """Pages one by one, read as they are asked for; see `VisionAgent.ocr_pages`."""
        many = documents_in(source)
        documents = [source] if many is None else many
        found = self._read_all(documents, many is not None, pages, password, engine, workers, text_layer, progress)
        return (page for _, page in found)

    def _read_all(
        self,
        documents: Sequence[Any],
        several: bool,
        pages: PageChoice,
        password: str | None,
        engine: str | PageReader,
        workers: int,
        text_layer: TextLayer,
        progress: bool,
    ) -> Iterator[tuple[int, Page]]:
        """Number of the document and page, in order."""
        _check(workers, text_layer)
        if password is not None and not isinstance(password, str):
            raise ArgumentTypeError(bad_argument("password", "a string", type(password).__name__))
        reader = self._reader(engine, workers)

        def images() -> Iterator[tuple[int, PageImage]]:
            for number, document in enumerate(documents):
                with_layer = text_layer == "auto" and not isinstance(reader, ModelReader)
                for image in page_images(
                    document,
                    pages=pages,
                    password=password,
                    limits=self._limits,
                    with_layer=with_layer,
                    name=f"source[{number}]" if several else "source",
                ):
                    yield number, image

        def work(item: tuple[int, PageImage]) -> tuple[int, Page]:
            return item[0], read_page(item[1], reader)

        found = map(work, images()) if workers == 1 else side_by_side(work, images(), workers)
        return _with_bar(found) if progress else iter(found)

    def _reader(self, engine: str | PageReader, workers: int) -> "PageReader | ModelReader":
        if not isinstance(engine, str):
            return engine
        if engine == "model":
            if self._ask is None:
                raise InputError(bad_argument("engine", "the name of a reader where there is no model", engine))
            return ModelReader(self._ask)
        # Pages read side by side share the cores; a page that is read alone has them all.
        threads = None if workers == 1 else max(1, (os.cpu_count() or 1) // workers)
        with self._lock:
            if (engine, threads) not in self._readers:
                self._readers[engine, threads] = load_reader(engine)(threads)
            return self._readers[engine, threads]


def read_page(image: PageImage, reader: "PageReader | ModelReader") -> Page:
    """One page, read. A PDF's own text is taken where it agrees with what the page shows (see `textlayer`)."""
    if isinstance(reader, ModelReader):
        return reader.page(image)
    lines: Sequence[Line] | None = None
    if image.layer is not None:
        lines = trusted_lines(image.layer, image.image, reader)
    source: Literal["ocr", "text layer"] = "ocr" if lines is None else "text layer"
    if lines is None:
        lines = reader.read(image.image)
    layout = blocks_of(lines, image.image.size)
    page = Page(
        number=image.number,
        width=image.image.width,
        height=image.image.height,
        angle=layout.angle,
        blocks=layout.blocks,
        source=source,
        scale=image.scale,
        file=image.file,
    )
    return with_tables(page, image.image)


def side_by_side(work: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """`map` by threads, in order and lazily: at most `workers` + 1 items are taken and not yet given back."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="read")
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _with_bar(found: Iterable[T]) -> Iterator[T]:
    from tqdm import tqdm

    yield from tqdm(found, unit=" page")


def _check(workers: Any, text_layer: Any) -> None:
    if isinstance(workers, bool) or not isinstance(workers, int) or not 1 <= workers <= 256:
        raise InputError(bad_argument("workers", "a whole number from 1 to 256", workers))
    if text_layer not in ("auto", "never"):
        raise InputError(bad_argument("text_layer", '"auto" or "never"', text_layer))
