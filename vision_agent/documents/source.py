"""Documents of any kind, opened page by page: images, TIFFs, PDFs, files without pages; folders and lists of them.

Pages come lazily, so that a file of 500 pages takes the memory of one.
"""

import io
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias

from PIL import Image, TiffImagePlugin

from vision_agent.documents.bounded_pdf import BoundedPdf
from vision_agent.documents.file_kinds import READ, TextKind, text_kind, unread_kind
from vision_agent.documents.office_files import parts_of
from vision_agent.documents.page_choice import ChosenPages, PageChoice
from vision_agent.documents.pdf import Layer, PdfField
from vision_agent.documents.typesetting import SetBlock, typeset
from vision_agent.errors import DocumentError, ImageError, InputError, bad_argument
from vision_agent.images.limits import CheckedSource
from vision_agent.images.loading import ImageLimits, ImageSource, load_image
from vision_agent.images.regular_files import open_regular

DocumentSource: TypeAlias = ImageSource
"""What a document may come from: all that `load_image` takes; a file may also be a PDF, a TIFF of many pages, a Word
file, a web page, a mail, or plain text."""

Documents: TypeAlias = DocumentSource | Sequence[DocumentSource]
"""One document, a list of them, or the path of a folder that holds some."""

SUFFIXES = frozenset(".pdf .jpg .jpeg .png .webp .bmp .gif .tif .tiff .ppm .pgm .pbm .docx .html .htm .eml".split())
"""Files of a folder that are documents; plain text has to be named."""

_MOST_BYTES = 2 * 1024**3  # of a PDF or TIFF in a file object, which is read into memory
_MOST_TEXT = 64 * 1024**2  # bytes of a file that is read without a picture
_TIFF = re.compile(rb"II[*+]\x00|MM\x00[*+]")
_PDF_WITHIN = 1024  # bytes at the start in which readers look for a PDF's mark


@dataclass(frozen=True)
class PageImage:
    """A page to read.

    Attributes:
        image: upright RGB.
        number: from 1.
        file: the file it comes from, "" for none.
        scale: pixels a point, for a PDF.
        layer: a PDF's own text, in pixels of `image`.
        fields: of a PDF's form, in pixels of `image`.
        figures: boxes of a PDF's images, in pixels of `image`.
        count: pages of the whole document.
        blocks: of a file that needs no reading, with the places where they were set; else None.
    """

    image: Image.Image
    number: int = 1
    file: str = ""
    scale: float | None = None
    layer: Layer | None = None
    fields: tuple[PdfField, ...] = ()
    figures: tuple[tuple[float, ...], ...] = ()
    count: int = 1
    blocks: tuple[SetBlock, ...] | None = None


def documents_in(source: Any) -> list[Any] | None:
    """List the documents of a list or a folder (by name, without those of inner folders); None for one document.

    Raises:
        InputError: an empty list, or a folder without documents.
    """
    if isinstance(source, list | tuple):
        if not source:
            raise InputError(bad_argument("source", "at least one document", source))
        return list(source)
    if isinstance(source, str | os.PathLike) and not _is_address(source):
        folder = Path(source)
        if len(str(folder)) < 4096 and folder.is_dir():
            files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
            if not files:
                raise InputError(
                    bad_argument("source", f"a folder with documents ({', '.join(sorted(SUFFIXES))})", source)
                )
            return list(files)
    return None


def page_images(
    source: DocumentSource,
    *,
    pages: PageChoice = None,
    password: str | None = None,
    limits: ImageLimits | None = None,
    with_layer: bool = True,
    name: str = "source",
) -> Iterator[PageImage]:
    """Yield the pages of one document, one at a time. The file is open while the iterator lives.

    Args:
        source: see `DocumentSource`.
        pages: which, from 1.
        password: of an encrypted PDF.
        limits: what images are accepted.
        with_layer: also read a PDF's own text.
        name: what the caller calls `source`, for messages.

    Raises:
        DocumentError: a PDF or TIFF that is broken, empty or locked, or a page that it does not have.
        ImageError: an image that cannot be read.
        ArgumentTypeError: `source` is no document.
    """
    limits = limits or ImageLimits()
    chosen = ChosenPages(pages)
    file = os.fspath(source) if isinstance(source, str | os.PathLike) and not _is_address(source) else ""
    if isinstance(source, Image.Image) and getattr(source, "n_frames", 1) > 1 and source.format == "TIFF":
        yield from _frames(source, "", chosen, limits, name)
        return
    head, opened = _begin(source, file)
    if b"%PDF-" in head:
        yield from _pdf_pages(opened, str(file), chosen, password, limits, with_layer, name)
    elif _TIFF.match(head):
        with _tiff(opened, name) as image:
            yield from _frames(image, str(file), chosen, limits, name)
    elif kind := text_kind(head, opened if isinstance(opened, bytes) else None, str(file)):
        yield from _text_pages(_whole(opened, name), kind, str(file), chosen, limits, name)
    else:
        chosen.of(1, name)
        yield PageImage(_image(opened, str(file), head, limits, name), file=str(file))


def page_image(file: str, number: int, size: tuple[int, int], *, password: str | None = None) -> Image.Image:
    """Load one page of a file again, at the (width, height) it was read at. Raises as `page_images`."""
    for page in page_images(file, pages=number, password=password, with_layer=False, name="file"):
        return page.image if page.image.size == size else page.image.resize(size)
    raise DocumentError(bad_argument("page", "a page of the document", number))


def _image(source: Any, file: str, head: bytes, limits: ImageLimits, name: str) -> Image.Image:
    try:
        return load_image(source, limits=limits, name=name)
    except ImageError as error:
        kind = "empty" if _is_empty(source, file) else unread_kind(head, file if head else "")
        if kind is None:
            raise
        given = repr(file) if file else f"{type(source).__name__} of such a file" if head else "0 bytes"
        message = f"`{name}` must be {READ}, but got {given}, which is {kind}"
        raise DocumentError(message) from error


def _is_empty(source: Any, file: str) -> bool:
    """Whether there is a file, or are bytes, without anything in them."""
    return os.path.isfile(file) and not os.path.getsize(file) if file else isinstance(source, bytes) and not source


def _is_address(source: Any) -> bool:
    return isinstance(source, str) and re.match(r"data:|[a-z][a-z0-9+.-]*://", source, re.IGNORECASE) is not None


def _begin(source: Any, file: Any) -> tuple[bytes, Any]:
    """The first bytes of a file, and what to open it by: a file object can be read only once."""
    if file:
        try:
            with open_regular(file) as opened:
                return opened.read(_PDF_WITHIN), source
        except (OSError, ValueError):
            return b"", source  # `load_image` has the words for what is wrong with a path
    if isinstance(source, bytes | bytearray | memoryview):
        data = bytes(memoryview(source).cast("B"))
        return data[:_PDF_WITHIN], data
    read = getattr(source, "read", None)
    if callable(read) and not isinstance(source, Image.Image):
        data = read(_MOST_BYTES + 1)
        if not isinstance(data, bytes | bytearray | memoryview):
            raise ImageError(bad_argument("source", "a file object opened in binary mode", source))
        if len(data) > _MOST_BYTES:
            raise DocumentError(
                bad_argument("source", f"a file of at most {_MOST_BYTES} bytes", f"a {type(source).__name__}")
            )
        return bytes(data[:_PDF_WITHIN]), bytes(data)
    return b"", source


def _pdf_pages(
    source: Any, file: str, chosen: ChosenPages, password: str | None, limits: ImageLimits, with_layer: bool, name: str
) -> Iterator[PageImage]:
    with BoundedPdf(source, password=password, limits=limits, name=name) as pdf:
        for number in chosen.of(len(pdf), name):
            page = pdf.page(number, with_layer=with_layer)
            yield PageImage(page.image, number, file, page.scale, page.layer, page.fields, page.figures, len(pdf))


def _whole(source: Any, name: str) -> bytes:
    """All bytes of a file that is read without a picture."""
    if isinstance(source, bytes):
        return source
    with open_regular(source) as opened:
        data = bytes(opened.read(_MOST_TEXT + 1))
    if len(data) > _MOST_TEXT:
        raise DocumentError(bad_argument(name, f"a file of at most {_MOST_TEXT} bytes", source))
    return data


def _text_pages(
    data: bytes, kind: TextKind, file: str, chosen: ChosenPages, limits: ImageLimits, name: str
) -> Iterator[PageImage]:
    pages = typeset(parts_of(data, kind, name))
    checked = CheckedSource(name, f"{kind} that is set on pages", limits)
    for number in chosen.of(len(pages), name):
        page = pages[number - 1]
        checked.check_size(page.width, page.height)
        yield PageImage(page.image(), number, file, count=len(pages), blocks=tuple(page.blocks))


@contextmanager
def _tiff(source: Any, name: str) -> Iterator[Image.Image]:
    stream: IO[bytes]
    if isinstance(source, bytes | bytearray | memoryview):
        stream = io.BytesIO(source)
    else:
        stream = open_regular(source)
    with stream:
        try:
            opened = TiffImagePlugin.TiffImageFile(stream)
        except Exception as error:  # the plug-in lets nearly everything through when it reads a broken file
            raise DocumentError(f"`{name}` must be a complete TIFF, but got one that is broken ({error})") from error
        with opened as image:
            yield image


def _frames(image: Image.Image, file: str, chosen: ChosenPages, limits: ImageLimits, name: str) -> Iterator[PageImage]:
    try:
        count = int(getattr(image, "n_frames", 1))
    except Exception as error:  # as above: the chain of pages is read here
        raise DocumentError(f"`{name}` must be a complete TIFF, but got one that is broken ({error})") from error
    for number in chosen.of(count, name):
        try:
            image.seek(number - 1)
        except Exception as error:
            raise DocumentError(
                f"`{name}` must be a complete TIFF, but its page {number} is broken ({error})"
            ) from error
        # `load_image` checks the size before it decodes, and applies the page's orientation.
        yield PageImage(load_image(image, limits=limits, name=f"{name}, page {number}"), number, file, count=count)
