"""PDFs and other files of many pages: opened lazily, bounded, and trusted only as far as the page shows."""

import io
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pypdfium2
import pytest
from PIL import Image
from reportlab.lib.pdfencrypt import StandardEncryption
from reportlab.pdfgen.canvas import Canvas

from vision_agent import DocumentError, ImageLimits, InputError, PasswordError
from vision_agent.documents.options import OcrOptions
from vision_agent.documents.pdf_bounds import MAX_PIXELS
from vision_agent.documents.reader import DocumentReader, side_by_side
from vision_agent.documents.result import Line
from vision_agent.documents.source import page_images


class Blind:
    """A reader that sees nothing; it counts pages."""

    name = "blind"

    def __init__(self) -> None:
        self.pages = 0

    def read(self, image: Image.Image) -> list[Line]:
        self.pages += 1
        return []

    def find(self, image: Image.Image) -> npt.NDArray[np.float64]:
        return np.zeros((0, 4, 2))

    def recognise(self, image: Image.Image, quads: npt.NDArray[np.float64]) -> list[Line | None]:
        return [None] * len(quads)


def pdf(draw: Callable[[Canvas], None], size: tuple[float, float] = (300, 200), **settings: Any) -> bytes:
    buffer = io.BytesIO()
    canvas = Canvas(buffer, pagesize=size, **settings)
    draw(canvas)
    canvas.save()
    return buffer.getvalue()


def text_pages(count: int) -> Callable[[Canvas], None]:
    def draw(canvas: Canvas) -> None:
        for number in range(1, count + 1):
            canvas.drawString(40, 100, f"Page number {number}")
            canvas.showPage()

    return draw


@pytest.fixture
def document_reader() -> DocumentReader:
    return DocumentReader()


def numbers(document_reader: DocumentReader, source: Any, **settings: Any) -> list[int]:
    return [
        page.number
        for page in document_reader.pages(source, OcrOptions(engine=Blind(), text_layer="never", **settings))
    ]


# --- where documents come from


def test_a_pdf_comes_as_path_bytes_or_file_object(document_reader: DocumentReader, tmp_path: Path) -> None:
    data = pdf(text_pages(2))
    (tmp_path / "two.pdf").write_bytes(data)
    for source in (tmp_path / "two.pdf", str(tmp_path / "two.pdf"), data, io.BytesIO(data), memoryview(data)):
        assert numbers(document_reader, source) == [1, 2]
    result = document_reader.read(tmp_path / "two.pdf", OcrOptions(engine=Blind(), text_layer="never"))
    assert not isinstance(result, list)
    assert result.file == str(tmp_path / "two.pdf") and (result.pages[0].width, result.pages[0].height) == (713, 476)
    assert result.pages[0].scale == pytest.approx(2000 / 842)
    assert result.draw(page=2, level="lines").size == (713, 476)


@pytest.mark.parametrize(
    ("pages", "expected"),
    [(None, [1, 2, 3, 4]), (3, [3]), ([4, 1], [4, 1]), ("1-2,4", [1, 2, 4]), ("3-", [3, 4]), (range(2, 4), [2, 3])],
)
def test_page_ranges(document_reader: DocumentReader, pages: Any, expected: list[int]) -> None:
    assert numbers(document_reader, pdf(text_pages(4)), pages=pages) == expected


@pytest.mark.parametrize("pages", [0, "5", "2-9", "x", "3-2", [], [1, 9], True, 1.5])
def test_page_ranges_that_make_no_sense(document_reader: DocumentReader, pages: Any) -> None:
    with pytest.raises((InputError, TypeError), match="`pages` must be"):
        numbers(document_reader, pdf(text_pages(4)), pages=pages)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # of the broken one
def test_a_tiff_has_its_pages(document_reader: DocumentReader, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (60 + 10 * index, 40), "white") for index in range(3)]
    frames[0].save(tmp_path / "three.tiff", save_all=True, append_images=frames[1:])
    for source in (
        tmp_path / "three.tiff",
        (tmp_path / "three.tiff").read_bytes(),
        Image.open(tmp_path / "three.tiff"),
    ):
        found = list(document_reader.pages(source, OcrOptions(engine=Blind())))
        assert [(page.number, page.width) for page in found] == [(1, 60), (2, 70), (3, 80)]
    assert numbers(document_reader, tmp_path / "three.tiff", pages="2-") == [2, 3]
    broken = (tmp_path / "three.tiff").read_bytes()[:9000]
    with pytest.raises(InputError, match="TIFF"):
        numbers(document_reader, broken)


def test_lists_and_folders_give_a_result_each(document_reader: DocumentReader, tmp_path: Path) -> None:
    (tmp_path / "b.pdf").write_bytes(pdf(text_pages(2)))
    Image.new("RGB", (50, 40), "white").save(tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("not a document")
    results = document_reader.read(str(tmp_path), OcrOptions(engine=Blind()))
    assert isinstance(results, list)
    assert [(Path(each.file).name, len(each.pages)) for each in results] == [("a.png", 1), ("b.pdf", 2)]
    listed = document_reader.read([tmp_path / "b.pdf", Image.new("RGB", (50, 40))], OcrOptions(engine=Blind(), pages=1))
    assert isinstance(listed, list) and [each.pages[0].width for each in listed] == [713, 50]
    with pytest.raises(InputError, match="at least one document"):
        document_reader.read([])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="a folder with documents"):
        document_reader.read(tmp_path / "empty")
    with pytest.raises(DocumentError, match=r"source\[1\]"):
        document_reader.read([Image.new("RGB", (50, 40)), b"%PDF-1.7 nothing"], OcrOptions(engine=Blind()))


# --- what is wrong with a PDF


def test_encrypted_pdfs_want_their_password(document_reader: DocumentReader) -> None:
    data = pdf(text_pages(1), encrypt=StandardEncryption("secret", strength=128))
    with pytest.raises(PasswordError, match="give its `password`"):
        numbers(document_reader, data)
    with pytest.raises(PasswordError, match="is not its password"):
        numbers(document_reader, data, password="wrong")
    assert numbers(document_reader, data, password="secret") == [1]


def test_broken_pdfs_are_named_or_repaired(document_reader: DocumentReader) -> None:
    data = pdf(text_pages(3))
    moved = data.replace(b"startxref", b"startxref\n99999999 %")
    assert numbers(document_reader, moved) == [1, 2, 3]  # PDFium rebuilds the table of objects
    for broken in (b"%PDF-1.7\n%%EOF", data[:120], b"%PDF-1.4\n" + bytes(range(256)) * 8):
        with pytest.raises(DocumentError, match="`source` must be a"):
            numbers(document_reader, broken)


def test_a_pdf_without_pages_is_an_error(document_reader: DocumentReader) -> None:
    buffer = io.BytesIO()
    document = pypdfium2.PdfDocument.new()
    document.save(buffer)
    document.close()
    with pytest.raises(DocumentError, match=r"one that has none|one that is broken"):
        numbers(document_reader, buffer.getvalue())


def huge_image(side: int) -> bytes:
    """A PDF of one page with a black-and-white image of side x side pixels, some kilobytes when packed."""
    packer = zlib.compressobj(9)
    row = bytes(side // 8)
    packed = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]/Contents 4 0 R/Resources<</XObject<</I 5 0 R>>>>>>",
        b"<</Length 23>>stream\n200 0 0 200 0 0 cm /I Do\nendstream",
        b"<</Type/XObject/Subtype/Image/Width %d/Height %d/ColorSpace/DeviceGray/BitsPerComponent 1"
        b"/Filter/FlateDecode/Length %d>>stream\n" % (side, side, len(packed)) + packed + b"\nendstream",
    ]
    body = b"%PDF-1.7\n" + b"".join(
        b"%d 0 obj" % number + each + b"\nendobj\n" for number, each in enumerate(objects, 1)
    )
    return body + b"trailer<</Root 1 0 R/Size 6>>\nstartxref\n0\n%%EOF"


def test_a_page_with_a_huge_image_is_refused_before_it_is_decoded(document_reader: DocumentReader) -> None:
    assert numbers(document_reader, huge_image(800)) == [1]
    before = psutil.Process().memory_info().rss
    with pytest.raises(DocumentError, match="one is 40000 x 40000"):
        numbers(document_reader, huge_image(40000))
    assert psutil.Process().memory_info().rss - before < 100 * 2**20


def test_large_pages_get_a_bounded_image() -> None:
    (page,) = page_images(pdf(lambda canvas: canvas.drawString(40, 100, "A0"), size=(2384, 3370)))
    width, height = page.image.size
    assert 0.98 * MAX_PIXELS < width * height <= 1.001 * MAX_PIXELS
    assert page.scale == pytest.approx(width / 2384, rel=1e-3)


def test_limits_hold_for_images(document_reader: DocumentReader) -> None:
    strict = DocumentReader(ImageLimits(max_pixels=1000))
    with pytest.raises(InputError, match="at most 1000 pixels"):
        strict.read(Image.new("RGB", (100, 100)), OcrOptions(engine=Blind()))


def test_settings_that_make_no_sense(document_reader: DocumentReader) -> None:
    image = Image.new("RGB", (50, 50))
    for settings, message in (
        ({"workers": 0}, "`workers` must be"),
        ({"text_layer": "always"}, "`text_layer` must be"),
        ({"engine": "model"}, "`engine` must be"),
        ({"engine": "nobody"}, "no reader 'nobody'"),
        ({"password": 5}, "`password` must be"),
    ):
        with pytest.raises(Exception, match=message):
            document_reader.read(image, OcrOptions(**settings))  # type: ignore[arg-type]


# --- lazily


def test_pages_are_read_as_they_are_asked_for(document_reader: DocumentReader) -> None:
    reader = Blind()
    pages = document_reader.pages(pdf(text_pages(50)), OcrOptions(engine=reader, text_layer="never"))
    next(pages), next(pages)
    assert reader.pages == 2


def test_memory_stays_flat_over_300_pages(document_reader: DocumentReader) -> None:
    process, sizes = psutil.Process(), []
    source = pdf(text_pages(300), size=(200, 120))
    for page in document_reader.pages(source, OcrOptions(engine=Blind())):
        if page.number in (60, 300):
            sizes.append(process.memory_info().rss)
    assert sizes[1] - sizes[0] < 24 * 2**20


def test_side_by_side_keeps_order_and_holds_few_items() -> None:
    taken: list[int] = []

    def items() -> Any:
        for number in range(20):
            taken.append(number)
            yield number

    def work(number: int) -> int:
        time.sleep(0.002 * (3 - number % 3))
        return number

    done = side_by_side(work, items(), 3)
    assert next(done) == 0 and len(taken) <= 5
    assert list(done) == list(range(1, 20))


def test_an_error_in_a_page_comes_out() -> None:
    def work(number: int) -> int:
        raise DocumentError("page 1 is broken")

    with pytest.raises(DocumentError, match="page 1"):
        list(side_by_side(work, iter([1, 2]), 2))
