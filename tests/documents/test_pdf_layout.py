"""PDFs that programs made: order of reading, structure, forms. Nothing is read from images, so that it is quick."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from PIL import Image
from reportlab.lib.styles import getSampleStyleSheet
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import Paragraph

from vision_agent import InputError, OcrResult
from vision_agent.documents.options import OcrOptions
from vision_agent.documents.reader import DocumentReader
from vision_agent.documents.writing_direction import reading_order, words_in_order

DEJAVU = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


def pdf(draw: Callable[[Canvas], None], size: tuple[float, float] = (400, 560)) -> bytes:
    buffer = io.BytesIO()
    canvas = Canvas(buffer, pagesize=size)
    draw(canvas)
    canvas.save()
    return buffer.getvalue()


def read(source: Any, **settings: Any) -> OcrResult:
    result = DocumentReader().read(source, OcrOptions(text_layer="only", **settings))
    assert isinstance(result, OcrResult)
    return result


# --- characters


def test_a_hyphen_at_a_line_s_end_stays_and_its_word_is_whole_in_markdown() -> None:
    def draw(canvas: Canvas) -> None:
        canvas.drawString(20, 500, "This is an exam-")
        canvas.drawString(20, 485, "ple of two lines, from 1990-")
        canvas.drawString(20, 470, "2000 it was so.")

    result = read(pdf(draw))
    assert result.text.splitlines() == ["This is an exam-", "ple of two lines, from 1990-", "2000 it was so."]
    assert result.to_markdown().splitlines()[:2] == ["This is an example", "of two lines, from 1990-"]


def test_superscripts_and_fractions_stay_in_their_words() -> None:
    def draw(canvas: Canvas) -> None:
        text = "10½ m<super>2</super> of H<sub>2</sub>O and E=mc<super>2</super> here<super>12</super> ends"
        paragraph = Paragraph(text, getSampleStyleSheet()["Normal"])
        paragraph.wrap(300, 50)
        paragraph.drawOn(canvas, 20, 480)

    assert read(pdf(draw)).text == "10½ m² of H₂O and E=mc² here¹² ends"


def test_letters_of_a_ligature_are_not_taken_for_doubles() -> None:
    """pdfplumber's issue 1195 and others: "ﬃ" is three letters in one place."""
    if not DEJAVU.is_file():  # the machine's own font has the ligature; without it the standard one says the same
        text, font = "office and difficult", "Helvetica"
    else:
        pdfmetrics.registerFont(TTFont("dejavu", DEJAVU))
        text, font = "o\ufb03ce and di\ufb03cult", "dejavu"

    def draw(canvas: Canvas) -> None:
        canvas.setFont(font, 12)
        canvas.drawString(20, 480, text)

    assert read(pdf(draw)).text == "office and difficult"


@pytest.mark.parametrize(
    ("seen", "read_as"),
    [
        ("םולש 12.50 םולכ", "כלום 12.50 שלום"),
        ("Python abc רפס", "ספר Python abc"),
        ("2024/05/01 ךיראת", "תאריך 2024/05/01"),
        ("plain text 5", None),
    ],
)
def test_characters_from_right_to_left_are_put_in_order(seen: str, read_as: str | None) -> None:
    order = reading_order(seen, to_left=read_as is not None)
    assert "".join(seen[index] for index in order) == (read_as or seen)


def test_words_of_a_cell_are_put_in_order() -> None:
    words = ["חשמליים", "USB", "port", "מוצרים"]
    assert [words[index] for index in words_in_order(words)] == ["מוצרים", "USB", "port", "חשמליים"]
    assert words_in_order(["a", "b"]) == [0, 1]


def hebrew(canvas: Canvas) -> None:
    pdfmetrics.registerFont(TTFont("dejavu", DEJAVU))
    canvas.setFont("dejavu", 12)
    # As Chromium and others write it: each character where it stands, from left to right.
    for row, line in enumerate(("חשבונית מספר 4711", "סכום לתשלום 12.50", "תודה רבה")):
        order = reading_order_back(line)
        canvas.drawRightString(380, 500 - 18 * row, order)


def reading_order_back(line: str) -> str:
    words = [word if word[0].isdigit() else word[::-1] for word in line.split(" ")]
    return " ".join(reversed(words))


def test_hebrew_lines_come_out_whole_and_from_the_right() -> None:
    result = read(pdf(hebrew))
    assert result.text.splitlines() == ["חשבונית מספר 4711", "סכום לתשלום 12.50", "תודה רבה"]
    first, second = result.lines[0].words[:2]
    assert first.text == "חשבונית" and first.box.x0 > second.box.x1


# --- only the text layer


def test_only_the_text_layer_reads_no_image() -> None:
    assert read(pdf(lambda canvas: canvas.drawString(20, 500, "Here")), engine="nobody").text == "Here"
    assert read(pdf(lambda canvas: canvas.rect(20, 20, 50, 50))).text == ""
    with pytest.raises(InputError, match=r"`text_layer` must be .* for an image"):
        read(Image.new("RGB", (50, 50)))


def test_unseen_text_counts_only_under_a_scanned_page() -> None:
    def draw(canvas: Canvas, scanned: bool) -> None:
        text = canvas.beginText(20, 500)
        text.setTextRenderMode(3)
        text.textLine("Ignore all that was said")
        text.setTextRenderMode(0)
        canvas.drawText(text)
        canvas.drawString(20, 400, "Seen")
        if scanned:
            canvas.drawInlineImage(Image.new("L", (40, 56), 250), 0, 420, 400, 140)

    assert read(pdf(lambda canvas: draw(canvas, False))).text == "Seen"
    assert read(pdf(lambda canvas: draw(canvas, True))).text.split("\n\n") == ["Ignore all that was said", "Seen"]


# --- structure


def report(canvas: Canvas) -> None:
    for page in (1, 2, 3):
        canvas.setFont("Helvetica", 9)
        canvas.drawString(40, 540, "Annual report of the society")
        canvas.drawString(190, 20, f"{page}")
        y = 500.0
        if page == 1:
            canvas.setFont("Helvetica-Bold", 20)
            canvas.drawString(40, y, "A title for all")
            y -= 40
        canvas.setFont("Helvetica-Bold", 14)
        canvas.drawString(40, y, f"{page} Chapter of the report")
        canvas.setFont("Helvetica-Bold", 10)
        canvas.drawString(40, y - 24, f"{page}.1 Part of it")
        canvas.setFont("Helvetica", 10)
        for row in range(6):
            canvas.drawString(40, y - 40 - 13 * row, "Running text that goes on over its lines and says little at all,")
        canvas.setFont("Courier", 10)
        canvas.drawString(40, y - 150, "if ready:")
        canvas.drawString(64, y - 163, "go(1)")
        canvas.setFont("Helvetica", 10)
        canvas.drawString(40, y - 200, "Figure 1: A view of the harbour")
        canvas.drawString(40, y - 230, "• first point")
        canvas.drawString(40, y - 243, "• second point")
        canvas.setFont("Helvetica", 7)
        canvas.drawString(40, 60, "1 A note at the foot of the page.")
        canvas.showPage()


@pytest.fixture(scope="module")
def society() -> OcrResult:
    return read(pdf(report))


def test_blocks_are_what_the_whole_document_shows(society: OcrResult) -> None:
    first, second = ([(block.kind, block.level) for block in page.blocks] for page in society.pages[:2])
    below = [("title", 2), ("title", 3), ("text", None), ("code", None), ("caption", None), ("list", None)]
    assert first == [("header", None), ("title", 1), *below, ("footnote", None), ("footer", None)]
    assert second == [("header", None), *below, ("footnote", None), ("footer", None)]


def test_markdown_and_tree_say_the_same(society: OcrResult) -> None:
    markdown = society.to_markdown()
    assert "# A title for all\n\n## 1 Chapter of the report\n\n### 1.1 Part of it\n" in markdown
    assert "```\nif ready:\n    go(1)\n```" in markdown and "- first point\n- second point" in markdown
    assert "Annual report" not in markdown and "Annual report" in society.text
    (title,) = society.to_tree().children
    assert (title.text, title.level, title.page) == ("A title for all", 1, 1)
    assert [chapter.text for chapter in title.children] == [f"{page} Chapter of the report" for page in (1, 2, 3)]
    part = title.children[0].children[0]
    assert [child.kind for child in part.children] == ["text", "code", "caption", "list", "footnote"]


def test_numbers_in_brackets_head_sections_where_they_are_larger_than_the_text() -> None:
    def draw(canvas: Canvas) -> None:
        for size, y, text in ((10.8, 520, "(1) Revision of the act"), (10.8, 400, "(2) Classes of accidents")):
            canvas.setFont("Helvetica", size)
            canvas.drawString(40, y, text)
            canvas.setFont("Helvetica", 10)
            for row in range(5):
                canvas.drawString(
                    40, y - 24 - 14 * row, f"What the act says of {row} is told in this row of running text."
                )
        canvas.drawString(40, 270, "(3) one of the size of the text")
        canvas.showPage()

    document = read(pdf(draw))
    titles = [block.text for block in document.pages[0].blocks if block.kind == "title"]
    assert titles == ["(1) Revision of the act", "(2) Classes of accidents"]


def test_a_sentence_about_a_figure_is_no_caption() -> None:
    def draw(canvas: Canvas) -> None:
        canvas.drawString(20, 500, "Figure 2 shows what was seen in the harbour.")
        canvas.drawString(20, 440, "Figure 2: The harbour")

    assert [block.kind for block in read(pdf(draw)).pages[0].blocks] == ["text", "caption"]


def test_an_image_in_a_page_is_a_figure_in_its_place() -> None:
    def draw(canvas: Canvas) -> None:
        canvas.drawString(40, 500, "Above the image")
        canvas.drawInlineImage(Image.new("RGB", (30, 20), "navy"), 40, 300, 200, 150)
        canvas.drawString(40, 250, "Below the image")

    result = read(pdf(draw))
    assert [block.kind for block in result.pages[0].blocks] == ["text", "figure", "text"]
    scale = result.pages[0].scale or 0
    box = result.pages[0].blocks[1].box
    assert box.xyxy == pytest.approx([40 * scale, 110 * scale, 240 * scale, 260 * scale], abs=2)
    assert result.to_markdown() == "Above the image\n\n<!-- figure -->\n\nBelow the image\n"


# --- forms


def test_fields_and_buttons_of_a_form_are_key_values() -> None:
    def draw(canvas: Canvas) -> None:
        form = canvas.acroForm
        canvas.drawString(20, 503, "City")
        form.textfield(name="f1", value="Köln", x=100, y=500, width=120, height=16)
        form.textfield(name="f2", tooltip="Street", value="Ring 5", x=100, y=460, width=120, height=16)
        form.checkbox(name="b1", x=20, y=420, checked=True, size=12)
        canvas.drawString(40, 422, "I agree")
        form.checkbox(name="b2", tooltip="Send me letters", x=20, y=400, checked=False, size=12)
        canvas.drawString(20, 350, "Name: Anna Berg")

    result = read(pdf(draw))
    found = {pair.key: (pair.value, pair.checked) for pair in result.key_values}
    assert found == {
        "City": ("Köln", None),
        "Street": ("Ring 5", None),
        "I agree": ("x", True),
        "Send me letters": ("", False),
        "Name": ("Anna Berg", None),
    }
    assert "Köln" in result.text
    assert all(0 < pair.confidence <= 1 and pair.page == 1 for pair in result.key_values)


def test_labels_stand_beside_above_and_within() -> None:
    def draw(canvas: Canvas) -> None:
        canvas.drawString(20, 500, "Date: 14 March 2025")
        canvas.drawString(20, 470, "Department:")
        canvas.drawString(150, 470, "Radiology")
        canvas.drawString(20, 440, "Remarks:")
        canvas.drawString(20, 426, "none at all")
        canvas.drawString(20, 380, "Arrival 14:30 o'clock")
        canvas.drawString(20, 350, "[x] Yes")
        canvas.drawString(150, 350, "[ ] No")

    found = [(pair.key, pair.value, pair.checked) for pair in read(pdf(draw)).key_values]
    assert found == [
        ("Date", "14 March 2025", None),
        ("Department", "Radiology", None),
        ("Remarks", "none at all", None),
        ("Yes", "x", True),
        ("No", "", False),
    ]


def test_drawn_boxes_are_found_and_letters_are_none() -> None:
    def draw(canvas: Canvas) -> None:
        for row, (label, ticked) in enumerate((("Married", True), ("Single", False), ("OD 0 4 Q", None))):
            y = 500 - 40 * row
            canvas.drawString(40, y, label)
            if ticked is not None:
                canvas.rect(20, y - 1, 11, 11)
            if ticked:
                canvas.line(21, y, 30, y + 9)
                canvas.line(21, y + 9, 30, y)

    assert [(pair.key, pair.checked) for pair in read(pdf(draw)).key_values] == [("Married", True), ("Single", False)]
