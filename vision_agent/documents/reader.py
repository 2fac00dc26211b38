"""From sources to pages with blocks in reading order: lazily, and several pages side by side."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, TypeVar

from vision_agent.documents.check_boxes import check_boxes_of
from vision_agent.documents.key_values import holds, key_values_of, placed
from vision_agent.documents.model_reader import Ask, ModelReader
from vision_agent.documents.options import OcrOptions
from vision_agent.documents.page_figures import figures_of, with_figures
from vision_agent.documents.page_reader import PageReader
from vision_agent.documents.pdf_trust import layer_lines, trusted_lines
from vision_agent.documents.readability import reading_warnings
from vision_agent.documents.reading_order import blocks_of
from vision_agent.documents.result import Block, KeyValue, Line, OcrResult, Page, Word, quad_of
from vision_agent.documents.source import Documents, PageImage, documents_in, page_images
from vision_agent.documents.structure import structured
from vision_agent.documents.table_detection import with_tables
from vision_agent.documents.typesetting import SetBlock
from vision_agent.errors import InputError, bad_argument
from vision_agent.images.loading import ImageLimits
from vision_agent.model.threads import available_cpus
from vision_agent.plugins.cancellation import CANCELLED, raise_if_cancelled
from vision_agent.plugins.registry import load_reader
from vision_agent.results.box import Box

_DEFAULT = OcrOptions()

T = TypeVar("T")
R = TypeVar("R")


class DocumentReader:
    """A reader of documents, for an agent or alone: `DocumentReader().read("scan.pdf")` needs no language model.

    Page readers are loaded once and kept. It may be shared by threads.

    Args:
        limits: what images are accepted.
        ask: the model's `ask`, for `engine="model"`.
        model: the model's name.
    """

    def __init__(self, limits: ImageLimits | None = None, ask: Ask | None = None, model: str = "") -> None:
        self._limits = limits or ImageLimits()
        self._ask = ask
        self._model = model
        self._readers: dict[tuple[str, int | None, str | None], PageReader] = {}
        self._lock = threading.Lock()

    def read(self, source: Documents, options: OcrOptions = _DEFAULT) -> OcrResult | list[OcrResult]:
        """Return all pages of a document, or a result for each of several; see `VisionAgent.ocr`."""
        documents, several = _documents(source)
        engine = options.engine if isinstance(options.engine, str) else options.engine.name
        results = [
            OcrResult.of(structured([page for _, page in group]), self._model if engine == "model" else engine)
            for _, group in groupby(self._read_all(documents, several, options), key=lambda item: item[0])
        ]
        return results if several else results[0]

    def read_each(self, sources: Iterator[Any], options: OcrOptions = _DEFAULT) -> Iterator[OcrResult]:
        """Yield the result of each document, read as it is asked for. An error names it by its index, `source[3]`."""
        engine = options.engine if isinstance(options.engine, str) else options.engine.name
        for number, document in enumerate(sources):
            pages = [page for _, page in self._read_all([document], True, options, number)]
            yield OcrResult.of(structured(pages), self._model if engine == "model" else engine)

    def pages(self, source: Documents, options: OcrOptions = _DEFAULT) -> Iterator[Page]:
        """Yield pages one by one, read as they are asked for; see `VisionAgent.ocr_pages`."""
        documents, several = _documents(source)
        return (structured([page])[0] for _, page in self._read_all(documents, several, options))

    def _read_all(
        self, documents: Sequence[Any], several: bool, options: OcrOptions, first: int = 0
    ) -> Iterator[tuple[int, Page]]:
        """Yield each page with the number of its document, in order; the first document has the number `first`."""
        reader = (
            None if options.text_layer == "only" else self._reader(options.engine, options.workers, options.recogniser)
        )

        def images() -> Iterator[tuple[int, PageImage]]:
            for number, document in enumerate(documents, first):
                for image in page_images(
                    document,
                    pages=options.pages,
                    password=options.password,
                    limits=self._limits,
                    with_layer=options.text_layer != "never" and not isinstance(reader, ModelReader),
                    name=f"source[{number}]" if several else "source",
                ):
                    if reader is None and image.scale is None and image.blocks is None:
                        raise InputError(bad_argument("text_layer", '"auto" or "never" for an image', "only"))
                    yield number, image

        cancelled = CANCELLED.get()  # here, as the threads that read pages have contexts of their own

        def work(item: tuple[int, PageImage]) -> tuple[int, Page]:
            raise_if_cancelled(cancelled)
            return item[0], read_page(item[1], reader)

        workers = options.workers
        found = map(work, images()) if workers == 1 else side_by_side(work, images(), workers)
        return _with_bar(found) if options.progress else iter(found)

    def _reader(
        self, engine: str | PageReader, workers: int, recogniser: str | Path | None = None
    ) -> "PageReader | ModelReader":
        if recogniser is not None and engine != "rapidocr":
            raise InputError(bad_argument("recogniser", 'None, unless `engine` is "rapidocr"', str(recogniser)))
        if not isinstance(engine, str):
            return engine
        if engine == "model":
            if self._ask is None:
                raise InputError(bad_argument("engine", "the name of a reader where there is no model", engine))
            return ModelReader(self._ask)
        # Pages read side by side share the processors; a page that is read alone has them all.
        threads = max(1, available_cpus() // workers)
        with self._lock:
            key = engine, threads, None if recogniser is None else str(recogniser)
            if key not in self._readers:
                made = load_reader(engine)
                self._readers[key] = made(threads) if recogniser is None else made(threads, recogniser=recogniser)
            return self._readers[key]


def read_page(image: PageImage, reader: "PageReader | ModelReader | None") -> Page:
    """Read one page. A PDF's own text is taken where it agrees with what the page shows (see `pdf_trust`).

    What its blocks are is settled over the whole document (see `structure`).

    Args:
        image: the page.
        reader: of its image; None takes the PDF's own text as it is.
    """
    if image.blocks is not None:
        return _page_of_text(image, image.blocks)
    if isinstance(reader, ModelReader):
        return reader.page(image)
    lines: Sequence[Line] | None = None
    if reader is None:
        lines = layer_lines(image.layer, image.image, image.fields)
    elif image.layer is not None:
        lines = trusted_lines(image.layer, image.image, reader, image.fields)
    source: Literal["ocr", "text layer"] = "ocr" if lines is None else "text layer"
    if lines is None and reader is not None:
        lines = reader.read(image.image)
    lines = lines or ()
    return page_of(lines, image, source)


def _page_of_text(image: PageImage, blocks: Sequence[SetBlock]) -> Page:
    """A page of a file that needed no reading."""
    width, height = image.image.size
    page = Page(
        number=image.number,
        width=width,
        height=height,
        blocks=tuple(map(_block_of, blocks)),
        source="file",
        file=image.file,
    )
    if not page.tables:
        page = with_tables(page, image.image)
    boxes = check_boxes_of(page, None)
    pairs = [pair for pair in key_values_of(page) if not any(_inside(box, pair) for box in boxes)]
    return page.model_copy(update={"key_values": (*pairs, *boxes)})


def _block_of(block: SetBlock) -> Block:
    lines = []
    for line in block.lines:
        words = tuple(Word(text=text, quad=quad_of(edges), score=1.0) for text, edges in line.words)
        lines.append(
            Line(words=words, quad=quad_of(line.edges), score=1.0, size=line.size, bold=line.bold, fixed=line.fixed)
        )
    box = Box.from_xyxy(block.edges)
    return Block(kind=block.kind, box=box, lines=tuple(lines), level=block.level, table=block.table)


def page_of(lines: Sequence[Line], image: PageImage, source: Literal["ocr", "text layer"]) -> Page:
    """Return lines in any order as a page of blocks and tables; `structured` settles what the blocks are."""
    figures = figures_of(image, lines) if source == "text layer" else []
    held = {id(line) for figure in figures for line in figure.lines}
    layout = blocks_of([line for line in lines if id(line) not in held], image.image.size)
    page = Page(
        number=image.number,
        width=image.image.width,
        height=image.image.height,
        angle=layout.angle,
        blocks=layout.blocks,
        source=source,
        scale=image.scale,
        file=image.file,
        warnings=reading_warnings(lines) if source == "ocr" else (),
    )
    page = with_tables(page, image.image, [placed(page, field) for field in image.fields])
    boxes = check_boxes_of(page, image.image, image.fields)
    found = key_values_of(page, image.fields, image.image)
    pairs = [pair for pair in found if not any(_inside(box, pair) for box in boxes)]
    page = page.model_copy(update={"key_values": (*pairs, *boxes)})
    return with_figures(page, figures)


def _inside(inner: KeyValue, outer: KeyValue) -> bool:
    """Whether a box to tick lies in what would be a value, or the value is the box's label: then it is none."""
    return holds(outer.box, inner.box) or (inner.key_box is not None and holds(inner.key_box, outer.box))


def side_by_side(work: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """Map by threads, in order and lazily: at most `workers` + 1 items are taken and not yet given back."""
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


def _documents(source: Documents) -> tuple[Sequence[Any], bool]:
    """The documents, and whether several were asked for."""
    many = documents_in(source)
    return ([source], False) if many is None else (many, True)


def _with_bar(found: Iterable[T]) -> Iterator[T]:
    from tqdm import tqdm

    yield from tqdm(found, unit=" page")
