"""Documents for LangChain: a loader for files and folders, and a parser for blobs. Extra `langchain`, and `ocr`.

Each page, or each block of a page, becomes a LangChain `Document` with its position in the metadata. No language model
is loaded, unless an agent is given. What is read is data of whoever wrote the page: the metadata says `untrusted`.
"""

import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from vision_agent.batch.files import find_files
from vision_agent.documents.markdown import block_markdown
from vision_agent.documents.options import OcrOptions, OcrSettings
from vision_agent.documents.page_choice import PageChoice
from vision_agent.documents.reader import DocumentReader
from vision_agent.documents.result import Block, Line, Page
from vision_agent.errors import ArgumentTypeError, InputError, MissingExtraError, bad_argument

try:
    from langchain_core.document_loaders import BaseBlobParser, BaseLoader
    from langchain_core.documents import Document
    from langchain_core.documents.base import Blob
except ImportError as error:
    raise MissingExtraError(
        'these loaders need langchain-core: pip install "internvl-vision-agent[langchain]"'
    ) from error

if TYPE_CHECKING:
    from vision_agent.agent import VisionAgent

By = Literal["page", "block"]


class VisionBlobParser(BaseBlobParser):
    """Reads blobs: images, TIFFs of many pages, PDFs. It composes with any of LangChain's blob loaders.

    Metadata of a document, besides the blob's own: `source`; `page`, from 1; `width` and `height` of the page, pixels;
    `kind` ("page", or the block's); `box` of a block; `boxes`, a list of each line's `text` and `box`; `untrusted`,
    always True. Boxes are [x0, y0, x1, y1] in pixels of the page as given.

    Args:
        by: "page" makes one document a page, as Markdown; "block" one a title, paragraph or table.
        agent: reads with its settings; None for a reader without a language model.
        pages: which pages, from 1; None for all.
        password: of encrypted PDFs.
        boxes: put `box` and `boxes` in the metadata; False for stores that take plain values only.

    Raises:
        InputError: another `by`.
    """

    def __init__(
        self,
        *,
        by: By = "page",
        agent: "VisionAgent | None" = None,
        pages: PageChoice = None,
        password: str | None = None,
        boxes: bool = True,
    ) -> None:
        if by not in get_args(By):
            raise InputError(bad_argument("by", '"page" or "block"', by))
        self._by = by
        self._agent = agent
        self._reader = DocumentReader()
        self._settings: OcrSettings = {"pages": pages, "password": password}
        self._boxes = boxes

    def lazy_parse(self, blob: Blob) -> Iterator[Document]:
        """Yield the documents of a blob, read page by page as they are asked for. Raises as `VisionAgent.ocr`."""
        source: Any = Path(blob.path) if blob.data is None and blob.path is not None else blob.as_bytes()
        settings = self._settings
        if self._agent is None:
            pages = self._reader.pages(source, OcrOptions(**settings))
        else:
            pages = self._agent.ocr_pages(source, **settings)
        for page in pages:
            common = {**blob.metadata, "source": blob.source, "page": page.number}
            for text, own in self._parts(page):
                metadata = common | {"width": page.width, "height": page.height} | own | {"untrusted": True}
                yield Document(page_content=text, metadata=metadata)

    def _parts(self, page: Page) -> Iterator[tuple[str, dict[str, Any]]]:
        """The text of each document of a page, with metadata of its own."""
        if self._by == "page":
            yield page.to_markdown(), {"kind": "page"} | self._places(page.lines)
            return
        for block in page.blocks:
            kind = "text" if block.kind == "figure" else block.kind  # a document of its own holds what is written in it
            if text := block_markdown(kind, block.text_lines, block.table, block.level):
                yield text, {"kind": block.kind} | self._places(block.lines, block)

    def _places(self, lines: Sequence[Line], block: Block | None = None) -> dict[str, Any]:
        if not self._boxes:
            return {}
        places: dict[str, Any] = {} if block is None else {"box": list(block.box.xyxy)}
        return places | {"boxes": [{"text": line.text, "box": list(line.box.xyxy)} for line in lines]}


class VisionLoader(BaseLoader):
    """Loads documents of files and folders, which are walked in the order of their paths.

    Example:
        >>> for document in VisionLoader("scans", by="block").lazy_load():
        ...     document.page_content, document.metadata["page"], document.metadata["box"]

    Args:
        paths: a file or folder, or a list of them.
        parser: reads the files; None for a `VisionBlobParser` of the settings below.
        on_error: "raise", or "warn" and go on with the next file.
        settings: of the parser: `by`, `agent`, `pages`, `password`, `boxes`.

    Raises:
        InputError: nothing at a path, no documents in the folders, or what the parser refuses.
    """

    def __init__(
        self,
        paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        parser: BaseBlobParser | None = None,
        on_error: Literal["raise", "warn"] = "raise",
        **settings: Any,
    ) -> None:
        if on_error not in ("raise", "warn"):
            raise InputError(bad_argument("on_error", '"raise" or "warn"', on_error))
        if parser is not None and settings:
            raise ArgumentTypeError(bad_argument("parser", f"left out beside {', '.join(settings)}", parser))
        self._files = find_files([paths] if isinstance(paths, str | os.PathLike) else paths)
        self._parser = VisionBlobParser(**settings) if parser is None else parser
        self._on_error = on_error

    def lazy_load(self) -> Iterator[Document]:
        """Yield the documents, file by file, read as they are asked for."""
        for file in self._files:
            try:
                yield from self._parser.lazy_parse(Blob.from_path(file))
            except InputError as error:
                if self._on_error == "raise":
                    raise
                warnings.warn(f"{file} is skipped: {error}", RuntimeWarning, stacklevel=2)
