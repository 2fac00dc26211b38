"""Forms and pages that programs made: grids, several labels in a line, boxes, pale lines, right to left."""

import numpy as np
import pytest
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas
from test_pdf_layout import DEJAVU, hebrew, pdf, read

from vision_agent.documents.pdf import Layer
from vision_agent.documents.pdf_text import text_pieces
from vision_agent.documents.readability import reading_warnings
from vision_agent.documents.result import Line, OcrResult, Word, quad_of
from vision_agent.documents.sheet import Excerpt, box_of, script_sheet, sheet_of
from vision_agent.extract.schema_draft import draft_schema


def pairs(result: OcrResult) -> dict[str, str]:
    return {pair.key: pair.value for pair in result.key_values}


def test_first_letters_of_a_pdf_s_words_are_no_boxes() -> None:
    def draw(canvas: Canvas) -> None:
        canvas.setFont("Helvetica-Bold", 12)
        for row, text in enumerate(("Description Rate Qty", "Discount on Returns", "Order for Denmark", "Due in Ohio")):
            canvas.drawString(20, 500 - 24 * row, text)
        pdfmetrics.registerFont(TTFont("dejavu bold", DEJAVU.with_name("DejaVuSans-Bold.ttf")))
        canvas.setFont("dejavu bold", 11)
        for row, text in enumerate(
            ("Ridgeline Supply, LLC", "Return: folding chairs", "Qty", "Rate", "Restocking fee")
        ):
            canvas.drawString(20, 380 - 24 * row, text)

    assert [pair for pair in read(pdf(draw)).key_values if pair.checked is not None] == []


def grid(canvas: Canvas) -> None:
    cells = (
        (("Patient name", "Harold J. Whitcombe"), ("Date of birth", "02/17/1961")),
        (("Address", "41 Mill Pond Road"), ("Policy no.", "GSM-8841-72")),
    )
    canvas.grid([20, 200, 380], [400, 440, 480])
    for row, line in enumerate(cells):
        for column, (label, text) in enumerate(line):
            canvas.setFont("Helvetica", 8)
            canvas.drawString(25 + 180 * column, 468 - 40 * row, label)
            canvas.setFont("Helvetica", 11)
            canvas.drawString(25 + 180 * column, 450 - 40 * row, text)


def test_cells_of_a_grid_hold_a_label_over_a_text() -> None:
    result = read(pdf(grid))
    assert pairs(result) == {
        "Patient name": "Harold J. Whitcombe",
        "Date of birth": "02/17/1961",
        "Address": "41 Mill Pond Road",
        "Policy no.": "GSM-8841-72",
    }
    draft = draft_schema(result)["properties"]
    assert sorted(draft) == ["address", "date_of_birth", "patient_name", "policy_no"]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (
            "Blood pressure: 138/84 mmHg   Temperature: 98.6 F   Weight: 81.5 kg",
            {"Blood pressure": "138/84 mmHg", "Temperature": "98.6 F", "Weight": "81.5 kg"},
        ),
        ("Order: 77120   Date of delivery: 5 May 2025", {"Order": "77120", "Date of delivery": "5 May 2025"}),
        ("Note # C-2098 Date: 11/04/2025 Original invoice: 771", {"Date": "11/04/2025", "Original invoice": "771"}),
    ],
)
def test_several_labels_stand_in_one_line(line: str, found: dict[str, str]) -> None:
    assert pairs(read(pdf(lambda canvas: canvas.drawString(20, 500, line)))) == found


def test_labels_of_boxes_are_no_values_and_fields_of_a_form_no_table() -> None:
    def draw(canvas: Canvas) -> None:
        form = canvas.acroForm
        for row, (label, field) in enumerate((("Country", "Spain"), ("Language", "German"), ("Town", "Murcia"))):
            y = 500 - 30 * row
            canvas.drawString(20, y, label)
            form.textfield(name=f"f{row}", value=field, x=90, y=y - 4, width=80, height=16)
            canvas.drawString(190, y, f"Second {label.lower()}")
            form.textfield(name=f"s{row}", value=field[::-1].title(), x=290, y=y - 4, width=80, height=16)
        canvas.drawString(20, 400, "Membership")
        for at, kind in enumerate(("Student", "Adult", "Family")):
            form.radio(name="kind", value=kind[0], selected=kind == "Adult", x=100 + 90 * at, y=397, size=14)
            canvas.drawString(120 + 90 * at, 400, kind)

    result = read(pdf(draw))
    assert result.tables == []
    ticked = {pair.key: pair.checked for pair in result.key_values if pair.checked is not None}
    assert ticked == {"Student": False, "Adult": True, "Family": False}
    written = {pair.key: pair.value for pair in result.key_values if pair.checked is None}
    assert written["Country"] == "Spain" and written["Town"] == "Murcia"
    assert not set(written.values()) & set(ticked)
    assert {"country", "town"} <= set(draft_schema(result)["properties"])


def test_lines_of_code_are_no_pairs() -> None:
    def draw(canvas: Canvas) -> None:
        for row in range(6):
            canvas.drawString(20, 520 - 14 * row, "The following lines read what the port sends, until it is closed.")
        canvas.setFont("Courier", 9)
        for row, text in enumerate(
            ("def probe(port):", "    for line in port:", "        if line:", "            yield 1")
        ):
            canvas.drawString(20, 400 - 11 * row, text)

    assert read(pdf(draw)).key_values == []


def test_pale_lines_of_a_page_of_even_paper_make_a_table() -> None:
    def draw(canvas: Canvas) -> None:
        canvas.setStrokeColorRGB(0.93, 0.93, 0.93)
        canvas.setLineWidth(0.75)
        canvas.grid([20, 60, 130], [440, 455, 470, 485])
        for row, line in enumerate((("Light", "Meaning"), ("red", "no power"), ("amber", "no signal"))):
            for column, text in enumerate(line):
                canvas.drawString(24 + 40 * column, 474 - 15 * row, text)

    (table,) = read(pdf(draw)).tables
    assert table.grid() == [["Light", "Meaning"], ["red", "no power"], ["amber", "no signal"]]


# --- right to left


def test_boxes_lie_in_the_frame_of_their_script() -> None:
    """A page of Hebrew is read as its mirror image: words and boxes alike."""
    page = read(pdf(hebrew)).pages[0]
    sheet = script_sheet(page)
    assert sheet.to_left
    for piece in sheet.pieces:
        framed = sheet.framed(box_of([Excerpt.whole(piece)]))
        assert (framed.x0, framed.x1) == pytest.approx((piece.x0, piece.x1), abs=0.5)
    box = page.lines[0].box
    assert sheet.framed(sheet.framed(box)) == pytest.approx(box) and sheet.framed(box) != box
    assert sheet_of(page).framed(box) == box


def test_labels_of_hebrew_stand_on_the_right() -> None:
    def draw(canvas: Canvas) -> None:
        hebrew(canvas)
        for row, (label, value) in enumerate((("הלקוח", "דנה לוי"), ("תאריך", "04/11/2025"))):
            canvas.drawRightString(380, 400 - 20 * row, f"{label[::-1]}")
            canvas.drawRightString(345, 400 - 20 * row, ":")
            canvas.drawRightString(335, 400 - 20 * row, " ".join(
                word if word[0].isdigit() else word[::-1] for word in reversed(value.split(" "))
            ))  # fmt: skip

    found = pairs(read(pdf(draw)))
    assert found["הלקוח"] == "דנה לוי" and found["תאריך"] == "04/11/2025"


def test_arabic_letters_below_the_line_stay_in_their_words() -> None:
    # Tight boxes, as Chromium's PDFs have them: some letters lie below the line, and Alef has white beside it.
    standing = [  # character, left end, width, top, bottom; the baseline is at 100
        ("\u0631", 20, 9, 97, 108), ("\u0648", 32, 10, 96, 108), ("\u0646", 44, 12, 95, 107),
        ("\u0644", 57, 8, 84, 100),
        ("\u0627", 67, 4, 84, 100), (" ", 71, 0, 84, 100), ("\u0641", 80, 11, 88, 100),
        ("\u0631", 92, 9, 97, 108),
        ("\u0639", 103, 11, 94, 108),
    ]  # fmt: skip
    read_as = standing[::-1]
    count = len(read_as)
    boxes = np.array([(x, top, x + wide, bottom) for _, x, wide, top, bottom in read_as], dtype=np.float64)
    layer = Layer(
        characters="".join(each for each, *_ in read_as),
        boxes=boxes,
        angles=np.zeros(count),
        shown=np.ones(count, bool),
        colors=np.zeros((count, 3), np.uint8),
        fonts=np.zeros(count, np.int64),
        baselines=np.stack([boxes[:, 0], np.full(count, 100.0)], axis=1),
        sizes=np.full(count, 22.0),
        bold=np.zeros(count, bool),
        italic=np.zeros(count, bool),
        fixed=np.zeros(count, bool),
        covered=np.zeros(count, bool),
    )
    pixels = np.full((140, 140, 3), 255, np.uint8)
    for x0, y0, x1, y1 in boxes.astype(int).tolist():
        pixels[y0 : (y0 + y1) // 2, x0:x1] = 0
    lines = [[word.text for word in piece.line.words] for piece in text_pieces(layer, pixels)]
    assert lines == [["\u0639\u0631\u0641", "\u0627\u0644\u0646\u0648\u0631"]]


# --- scripts that the reader does not know


def line(text: str, wide: float, score: float = 0.97) -> Line:
    quad = quad_of((0, 0, wide, 20))
    return Line(words=tuple(Word(text=word, quad=quad, score=score) for word in text.split()), quad=quad, score=score)


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (("Delivery note 5521", ":", "Total 45.00 USD", "Thank you for your order"), "1 of 4 lines are hardly read"),
        (("Delivery note 5521", "Total 45.00 USD"), None),
    ],
)
def test_single_lines_that_are_hardly_read_are_told(texts: tuple[str, ...], told: str | None) -> None:
    found = reading_warnings([line(text, 220) for text in texts])
    assert [warning.split(";")[0] for warning in found] == ([] if told is None else [told])
