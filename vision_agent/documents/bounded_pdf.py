"""PDFs within bounds of time, memory and pixels: drawn in processes that are killed when they take too long."""

import io
import os
import pickle
from dataclasses import dataclass
from typing import Any, Self

from PIL import Image

from vision_agent.documents.pdf import DrawnPage, Layer, PdfField
from vision_agent.documents.pdf_bounds import MAX_PIXELS
from vision_agent.documents.pdf_process import POOL, Renderer, RendererGoneError
from vision_agent.errors import DocumentError, PasswordError, require_package
from vision_agent.images.limits import ImageLimits

# A page may take `limits.page_timeout`, and as much again for so many bytes of its file, up to so many times: what is
# long to draw is long to describe. A whole file may take the last times that, and more for each so many bytes.
_BYTES_A_PAGE, _MOST_TIMES, _BYTES_A_FILE = 400_000, 10.0, 40_000

_MEMORY = 1 << 29  # bytes that PDFium may take, and more for each pixel that an image may have
_BYTES_A_PIXEL = 12
_NO_MEMORY = "needs more memory than it may take"


@dataclass(frozen=True)
class PdfPage:
    """A page as an image, with its own text if it has any, the fields of its form, and boxes (m, 4) of its images."""

    image: Image.Image
    scale: float
    layer: Layer | None
    fields: tuple[PdfField, ...] = ()
    figures: tuple[tuple[float, ...], ...] = ()


class BoundedPdf:
    """An open PDF. Use it as a context manager, in one thread at a time.

    Args:
        source: a path or the file's bytes.
        password: of an encrypted one.
        limits: what its pages and images may measure, and how long they may take.
        name: what the caller calls it, for messages.

    Raises:
        DocumentError: broken, empty or no PDF, one with a mask that is too large, or one that takes too long to open.
        PasswordError: encrypted, and the password is missing or wrong.
        MissingExtraError: pypdfium2 is not installed.
    """

    def __init__(
        self,
        source: "str | os.PathLike[str] | bytes | bytearray | memoryview",
        *,
        password: str | None = None,
        limits: ImageLimits | None = None,
        name: str = "source",
    ) -> None:
        require_package("pypdfium2", 'PDFs need pypdfium2: pip install "internvl-vision-agent[ocr]"')
        self._name = name
        limits = limits or ImageLimits()
        path, self._data = None, b""
        if isinstance(source, bytes | bytearray | memoryview):
            self._data = bytes(source)
        else:
            path = os.path.realpath(os.fsdecode(source))
        sizes = {field: getattr(limits, field) for field in ("max_pixels", "max_side", "min_side", "max_aspect")}
        self._opening: dict[str, Any] = {
            "kind": "open",
            "path": path,
            "password": password,
            "limits": sizes,
            "name": name,
            "memory": _MEMORY + _BYTES_A_PIXEL * max(limits.max_pixels, MAX_PIXELS),
        }
        size = len(self._data) if path is None else os.stat(path).st_size
        self._timeout = limits.page_timeout * min(_MOST_TIMES, 1 + size / _BYTES_A_PAGE)
        self._whole = self._left = limits.page_timeout * (_MOST_TIMES + size / _BYTES_A_FILE)
        self._pages = 0
        self._ask({"kind": "open"}, "opening it")

    def __len__(self) -> int:
        return self._pages

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if POOL.has(self):
            try:
                self._ask({"kind": "close"}, "closing it")
            except DocumentError:
                return  # its process is gone, and it with it

    def page(self, number: int, *, with_layer: bool = True) -> PdfPage:
        """Draw page `number`, from 1, and read its own text if `with_layer`.

        Raises:
            DocumentError: a page that is broken, takes too long or too much memory, or that `limits` do not allow.
        """
        page = self._ask({"kind": "page", "number": number, "layer": with_layer}, f"drawing page {number}")
        assert page is not None
        return page

    def _ask(self, request: dict[str, Any], doing: str) -> PdfPage | None:
        """The page that was asked for; None for other requests. A process that has not opened the file does so."""
        for last in (False, True):
            try:
                with POOL.lent(self) as renderer:
                    if renderer.document is not self and request["kind"] != "close":
                        renderer.document = None
                        self._pages = self._answer(renderer, self._opening, self._data, doing)[0]["pages"]
                        renderer.document = self
                    if request["kind"] == "page":
                        return _page(renderer, self._answer(renderer, request, b"", doing)[1])
                    if request["kind"] == "close":
                        self._answer(renderer, request, b"", doing)
                        renderer.document = None
                    return None
            except RendererGoneError as gone:
                if gone.timed_out or gone.code or last:  # else it ended for want of work, at this very moment
                    why = f"{_NO_MEMORY}, or breaks PDFium (exit code {gone.code})"
                    why = self._too_long(min(self._timeout, self._left)) if gone.timed_out else why
                    raise DocumentError(self._reason(doing, why)) from gone
        raise AssertionError("the second time is the last")

    def _answer(
        self, renderer: Renderer, request: dict[str, Any], data: bytes, doing: str
    ) -> tuple[dict[str, Any], bytes]:
        if self._left <= 0:
            raise DocumentError(self._reason(doing, f"with what was drawn before {self._too_long(self._whole)}"))
        answer, content = renderer.call(request, data, min(self._timeout, self._left))
        self._left -= answer["seconds"]
        kind, why = answer.get("error"), answer.get("why")
        if kind == PasswordError.__name__:
            raise PasswordError(why)
        if kind == DocumentError.__name__:
            raise DocumentError(why)
        if kind == MemoryError.__name__:
            raise DocumentError(f"`{self._name}` must be a PDF that can be drawn, but it {_NO_MEMORY}")
        if kind is not None:
            raise DocumentError(f"`{self._name}` must be a complete PDF, but got one that is broken ({kind}: {why})")
        return answer, content

    def _reason(self, doing: str, why: str) -> str:
        return f"`{self._name}` must be a PDF that can be drawn, but {doing} {why}"

    def _too_long(self, seconds: float) -> str:
        return f"takes longer than {seconds:.2g} seconds (by `limits.page_timeout` and the size of the file)"


def _page(renderer: Renderer, content: bytes) -> PdfPage:
    told: DrawnPage = _Values(io.BytesIO(content)).load()
    with renderer.pixels(told.width * told.height * 3, content) as pixels:
        image = Image.frombuffer("RGB", (told.width, told.height), pixels, "raw", "RGB", 0, 1)
    return PdfPage(image, told.scale, told.layer, told.fields, told.figures)


class _Values(pickle.Unpickler):
    """Reads pages: arrays and our own values, and nothing else that a process with a hostile file might send."""

    _ALLOWED = frozenset(
        {
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("numpy._core.numeric", "_frombuffer"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy.core.numeric", "_frombuffer"),  # numpy 1
            ("numpy.core.multiarray", "_reconstruct"),
            *((each.__module__, each.__qualname__) for each in (DrawnPage, Layer, PdfField)),
        }
    )

    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) not in self._ALLOWED:
            raise DocumentError(f"a page of a PDF must come as values, but {module}.{name} is among them")
        return super().find_class(module, name)
