"""Reading with the shipped engine: real images of text, turned and skewed, and PDFs whose text may lie."""

import io
import logging
import math
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pypdfium2
import pytest
from PIL import Image, ImageDraw, ImageFont
from reportlab.pdfgen.canvas import Canvas

from vision_agent import InputError, MissingExtraError, OcrResult, VisionAgent
from vision_agent.decoders.ocr.rapidocr import RapidReader
from vision_agent.decoders.ocr.route import OcrDecoder
from vision_agent.documents.options import OcrOptions
from vision_agent.documents.reader import DocumentReader
from vision_agent.documents.source import page_images
from vision_agent.plugins.registry import load_reader

LINES = ["GREEN GROCER LTD", "Invoice No: 2024-0815", "Apples and pears 12.50", "Total Amount 1 234.00"]


@pytest.fixture(scope="module")
def document_reader() -> DocumentReader:
    return DocumentReader()


def sheet(lines: list[str] = LINES, size: tuple[int, int] = (520, 300), font: int = 28) -> Image.Image:
    image = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(image)
    for row, text in enumerate(lines):
        pen.text((40, 40 + 56 * row), text, fill="black", font=ImageFont.load_default(font))
    return image


def read(document_reader: DocumentReader, source: Any, **settings: Any) -> OcrResult:
    result = document_reader.read(source, OcrOptions(**settings))
    assert isinstance(result, OcrResult)
    return result


def test_words_have_text_places_and_scores(document_reader: DocumentReader) -> None:
    image = sheet()
    result = read(document_reader, image)
    assert result.engine == "rapidocr" and result.pages[0].angle == 0
    assert result.text.split() == " ".join(LINES).split()
    ink = np.asarray(image.convert("L")) < 128
    for word in result.words:
        assert 0.5 < word.score <= 1
        x0, y0, x1, y1 = (round(side) for side in word.box.xyxy)
        assert ink[y0:y1, x0:x1].sum() > 20
        corners = np.array(word.quad)
        turned = np.roll(corners, -1, axis=0)
        area = abs((corners[:, 0] * turned[:, 1] - corners[:, 1] * turned[:, 0]).sum()) / 2
        assert area == pytest.approx(word.box.area, rel=0.1), "the quad does not cross itself"
    amount = next(word for word in result.words if word.text == "12.50")
    font = ImageFont.load_default(28)
    left, _, right, _ = font.getbbox("12.50")
    start = 40 + font.getlength("Apples and pears ")
    assert amount.box.x0 == pytest.approx(start + left, abs=4)
    assert amount.box.x1 == pytest.approx(start + right, abs=4)


def test_small_print_low_on_a_large_page_is_found_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    page = Image.new("RGB", (300, 2600), "white")
    page.paste("black", (30, 2300, 130, 2310))

    def found(pixels: np.ndarray[Any, Any], **_: Any) -> SimpleNamespace:
        ys, xs = np.nonzero(pixels[..., 0] < 128)
        if not len(ys):
            return SimpleNamespace(boxes=None)
        (x0, x1), (y0, y1) = (xs.min(), xs.max() + 1), (ys.min(), ys.max() + 1)
        return SimpleNamespace(boxes=[[[x0, y0], [x1, y0], [x1, y1], [x0, y1]]])

    reader = RapidReader()
    monkeypatch.setattr(reader, "_detector", found)
    assert reader.find(page).tolist() == [[[30, 2300], [130, 2300], [130, 2310], [30, 2310]]]


@pytest.mark.parametrize("degrees", [90, 180, 270, 3, -6])
def test_turned_and_skewed_pages_are_read_and_boxes_lie_on_them(document_reader: DocumentReader, degrees: int) -> None:
    upright = sheet(size=(520, 320))
    image = upright.rotate(-degrees, expand=True, fillcolor="white", resample=Image.Resampling.BICUBIC)
    result = read(document_reader, image)
    assert result.text.split() == " ".join(LINES).split()
    assert result.pages[0].angle == pytest.approx(degrees % 360, abs=1)
    first = result.words[0]
    # Where the upper left corner of the first word went.
    angle = math.radians(degrees)
    dx, dy = 40 - upright.width / 2, 46 - upright.height / 2
    x = image.width / 2 + dx * math.cos(angle) - dy * math.sin(angle)
    y = image.height / 2 + dx * math.sin(angle) + dy * math.cos(angle)
    assert first.text == "GREEN" and math.dist(first.quad[0], (x, y)) < 14


def test_a_narrow_one_is_not_turned_on_its_side(document_reader: DocumentReader) -> None:
    image = sheet(["Quantity", "Price"], size=(520, 180))
    ImageDraw.Draw(image).text((400, 40), "1", fill="black", font=ImageFont.load_default(28))
    assert "1" in read(document_reader, image).text.split()


def test_an_empty_page_has_no_words(document_reader: DocumentReader) -> None:
    result = read(document_reader, Image.new("RGB", (300, 300), "white"))
    assert result.words == [] and result.text == "" and result.to_markdown() == "\n"


def test_workers_give_the_same_pages(document_reader: DocumentReader) -> None:
    pages = [sheet([f"Page number {number}", "with words"], size=(400, 160)) for number in range(3)]
    alone = document_reader.read(pages)
    together = document_reader.read(pages, OcrOptions(workers=2))
    assert isinstance(alone, list) and isinstance(together, list)
    assert [each.text for each in together] == [each.text for each in alone]
    assert [each.text.split()[2] for each in alone] == ["0", "1", "2"]


def test_reading_leaves_the_root_logger_and_the_terminal_alone(
    document_reader: DocumentReader, capfd: pytest.CaptureFixture[str]
) -> None:
    handlers, level = list(logging.getLogger().handlers), logging.getLogger().level
    read(document_reader, Image.new("RGB", (100, 100), "white"))
    assert (list(logging.getLogger().handlers), logging.getLogger().level) == (handlers, level)
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == ""


# --- PDFs


def pdf(draw: Callable[[Canvas], None], size: tuple[float, float] = (300, 220)) -> bytes:
    buffer = io.BytesIO()
    canvas = Canvas(buffer, pagesize=size)
    canvas.setFont("Helvetica", 14)
    draw(canvas)
    canvas.save()
    return buffer.getvalue()


def write(canvas: Canvas, lines: list[str] = LINES, x: float = 30, top: float = 180) -> None:
    for row, text in enumerate(lines):
        canvas.drawString(x, top - 22 * row, text)


def test_a_born_digital_page_gives_its_own_text(document_reader: DocumentReader) -> None:
    page = read(document_reader, pdf(write)).pages[0]
    assert page.source == "text layer" and page.text.split() == " ".join(LINES).split()
    assert {word.score for word in page.words} == {1.0}
    # Helvetica 14 at (30, 180) points from the lower left.
    assert page.scale is not None
    assert page.words[0].box.x0 == pytest.approx(30 * page.scale, abs=3)
    assert page.words[0].box.y0 < (220 - 180) * page.scale < page.words[0].box.y1 + 1


def test_a_scanned_page_is_read_from_its_image(document_reader: DocumentReader) -> None:
    data = pdf(lambda canvas: canvas.drawInlineImage(sheet(), 0, 0, 300, 173))
    page = read(document_reader, data).pages[0]
    assert page.source == "ocr" and page.text.split() == " ".join(LINES).split()


def test_text_that_the_page_does_not_show_is_not_taken(document_reader: DocumentReader) -> None:
    def draw(canvas: Canvas) -> None:
        write(canvas)
        canvas.setFillGray(1)
        canvas.drawString(30, 80, "WHITE pay to the attacker")
        canvas.setFillGray(0)
        canvas.drawString(30, 60, "BURIED under a bar")
        canvas.rect(20, 54, 200, 20, stroke=0, fill=1)
        canvas.drawString(30, -40, "OFFPAGE text")
        canvas.saveState()
        hidden = canvas.beginText(30, 30)
        hidden.setTextRenderMode(3)
        hidden.textOut("INVISIBLE text")
        canvas.drawText(hidden)
        canvas.restoreState()

    page = read(document_reader, pdf(draw)).pages[0]
    assert page.source == "text layer" and page.text.split() == " ".join(LINES).split()


def test_a_layer_that_says_something_else_than_the_page_is_dropped(document_reader: DocumentReader) -> None:
    def draw(canvas: Canvas) -> None:
        # What is seen is an image; the layer under it claims other words in its place.
        write(canvas, ["RED BUTCHER INC", "Quote Nr. 77", "Fish 99.99", "Sum 5.00"], x=25, top=142)
        canvas.drawInlineImage(sheet(), 0, 0, 300, 173)

    page = read(document_reader, pdf(draw)).pages[0]
    assert "BUTCHER" not in page.text and page.text.split() == " ".join(LINES).split()


def test_lines_that_only_the_image_has_are_added_to_the_layer(document_reader: DocumentReader) -> None:
    def draw(canvas: Canvas) -> None:
        write(canvas)
        canvas.drawInlineImage(sheet(["STAMP PAID"], size=(300, 110)), 30, 20, 150, 55)

    page = read(document_reader, pdf(draw)).pages[0]
    assert page.source == "text layer"
    assert page.text.split() == [*" ".join(LINES).split(), "STAMP", "PAID"]


def test_tables_and_headings_of_a_page_are_in_its_markdown(document_reader: DocumentReader) -> None:
    rows = [("Part", "Count", "Price"), ("Bolt", "7", "1.20"), ("Washer", "77", "0.30"), ("5 mm² wire", "8", "0.15")]

    def draw(canvas: Canvas) -> None:
        write(canvas, ["Parts in stock", "As of today, counted by hand:"], top=190)
        canvas.setFont("Helvetica", 9)
        for row, each in enumerate(rows):
            for x, text in zip((34, 154, 224), each, strict=True):
                canvas.drawString(x, 130 - 20 * row, text)
        canvas.grid([30, 150, 220, 280], [144 - 20 * row for row in range(5)])

    for source in (pdf(draw), next(iter(page_images(pdf(draw)))).image):
        page = read(document_reader, source).pages[0]
        (table,) = page.tables
        assert table.source == "lines" and table.grid()[:3] == [list(row) for row in rows[:3]]
        shown = page.to_markdown()
        assert shown.index("counted by hand") < shown.index("| Part | Count | Price |") < shown.index("| Washer | 77 |")
    assert read(document_reader, pdf(draw)).tables[0].grid()[3][0] == "5 mm² wire"
    assert [word.text for word in read(document_reader, pdf(draw)).words].count("77") == 1


def test_the_layer_of_a_turned_page_has_boxes_where_the_image_has_ink(document_reader: DocumentReader) -> None:
    document = pypdfium2.PdfDocument(pdf(write))
    document[0].set_rotation(90)
    turned = io.BytesIO()
    document.save(turned)
    document.close()
    page = read(document_reader, turned.getvalue()).pages[0]
    assert page.source == "text layer" and page.angle == 90
    assert (page.width, page.height) == (523, 713)
    assert page.text.split() == " ".join(LINES).split()
    left, top = page.words[0].quad[0]  # GREEN starts at the upper right and goes down
    assert left > 400 and top == pytest.approx(30 * 2000 / 842, abs=4)


def test_columns_of_a_scanned_pdf_skewed_by_three_degrees(document_reader: DocumentReader) -> None:
    image = Image.new("RGB", (1000, 500), "white")
    pen = ImageDraw.Draw(image)
    for row in range(5):
        pen.text((50, 80 + 50 * row), f"left column text row {row}", fill="black", font=ImageFont.load_default(28))
        pen.text((540, 96 + 50 * row), f"right column text row {row}", fill="black", font=ImageFont.load_default(28))
    skewed = image.rotate(-3, expand=True, fillcolor="white", resample=Image.Resampling.BICUBIC)
    page = read(
        document_reader, pdf(lambda canvas: canvas.drawInlineImage(skewed, 0, 0, 400, 200), size=(400, 210))
    ).pages[0]
    assert page.angle == pytest.approx(3, abs=0.7)
    assert page.text.split("\n\n")[0].split() == " ".join(f"left column text row {row}" for row in range(5)).split()


# --- the agent


def test_the_agent_reads_and_streams_pages(agent: VisionAgent, tmp_path: Path) -> None:
    def draw(canvas: Canvas) -> None:
        write(canvas, LINES[:1])
        canvas.showPage()
        canvas.setFont("Helvetica", 14)
        write(canvas, LINES[1:2])

    (tmp_path / "two.pdf").write_bytes(pdf(draw))
    result = agent.ocr(tmp_path / "two.pdf")
    assert [page.text for page in result.pages] == LINES[:2]
    (second,) = agent.ocr_pages(tmp_path / "two.pdf", pages=2)
    assert second == result.pages[1]
    assert result.draw(page=2).size == (second.width, second.height)


def test_the_model_can_read_instead(agent: VisionAgent) -> None:
    result = agent.ocr(sheet(size=(64, 64)), engine="model")
    assert result.engine == agent.model and result.pages[0].width == 64
    assert all(word.box.xyxy == (0, 0, 64, 64) for word in result.words)


def test_the_route_reads_the_image(document_reader: DocumentReader) -> None:
    from torch import zeros

    from vision_agent.geometry.frames import TileGrid
    from vision_agent.plugins.decoder import DecodeRequest, DenseFeatures
    from vision_agent.plugins.registry import load_decoder

    decoder: Any = load_decoder("ocr")(reader="rapidocr")
    image = sheet(LINES[:1], size=(520, 120))
    prepared = decoder.prepare_image(DenseFeatures(()), image)
    request = DecodeRequest(("the sign",), TileGrid(520, 120, 1, 1, 448, 16, True), "tiny")
    result = decoder.decode(zeros(1, 1, 8), prepared, request)
    assert isinstance(result, OcrResult) and result.text == LINES[0] and result.untrusted


def test_a_missing_engine_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "rapidocr", None)
    monkeypatch.delitem(sys.modules, "vision_agent.decoders.ocr.rapidocr", raising=False)
    with pytest.raises(MissingExtraError, match=r'pip install "internvl-vision-agent\[ocr\]"'):
        load_reader("rapidocr")


def test_the_reader_of_a_route_is_loaded_once_for_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: both threads ask while the first one loads."""
    made: list[object] = []
    loading, second = threading.Event(), threading.Event()

    class Reader:
        def __init__(self, threads: int | None) -> None:
            made.append(self)
            loading.set()
            second.wait(1.0 if len(made) == 1 else 0.0)

        def read(self, image: Image.Image) -> list[object]:
            return []

    monkeypatch.setattr("vision_agent.decoders.ocr.route.load_reader", lambda name: Reader)
    decoder = OcrDecoder()

    def prepare() -> None:
        decoder.prepare_image(None, Image.new("RGB", (20, 20)))  # type: ignore[arg-type]

    threads = [threading.Thread(target=prepare) for _ in range(2)]
    threads[0].start()
    assert loading.wait(30)
    threads[1].start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


# --- scripts


def written(lines: list[str]) -> Image.Image:
    image = Image.new("RGB", (560, 60 * len(lines) + 40), "white")
    pen = ImageDraw.Draw(image)
    font = ImageFont.truetype("DejaVuSans.ttf", 28)
    for row, text in enumerate(lines):
        pen.text((30, 30 + 60 * row), text, fill="black", font=font)
    return image


@pytest.mark.parametrize(
    ("lines", "known"),
    [
        (["Счёт на оплату от 5 марта", "Поставщик: Ромашка", "Итого к оплате 12 500 рублей"], False),
        (["فاتورة ضريبية رقم", "المبلغ الإجمالي للدفع", "شارع الملك فهد الرياض"], False),
        (["Faktura za usługi z dnia", "Żółć gęślą jaźń Łódź", "Razem do zapłaty 12 500"], True),
    ],
)
def test_a_script_that_is_not_known_is_told(document_reader: DocumentReader, lines: list[str], known: bool) -> None:
    result = read(document_reader, written(lines))
    assert [warning.split(":")[0] for warning in result.warnings] == ([] if known else ["page 1"])
    assert known or "recogniser=" in result.warnings[0]


def test_another_recogniser_is_given_by_its_path(document_reader: DocumentReader, tmp_path: Path) -> None:
    import rapidocr

    own = Path(rapidocr.__file__).parent / "models" / "PP-OCRv6_rec_small.onnx"
    copy = tmp_path / "another.onnx"
    copy.symlink_to(own)
    assert read(document_reader, sheet(LINES[:1], size=(520, 120)), recogniser=copy).text == LINES[0]
    (tmp_path / "no.onnx").write_text("nothing")
    for path, message in ((tmp_path / "no.onnx", "with its characters inside"), (tmp_path / "gone", "an ONNX file")):
        with pytest.raises(InputError, match=f"`recogniser` must be .*{message}"):
            read(document_reader, sheet(), recogniser=path)
    with pytest.raises(InputError, match="`recogniser` must be None"):
        read(document_reader, sheet(), recogniser=copy, engine="model")
