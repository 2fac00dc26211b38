"""Tables: their forms, and finding them by lines and by gaps, also on turned pages."""

import math
from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageFont
from pydantic import ValidationError

from vision_agent.documents import Cell, Page, Table
from vision_agent.documents.result import Block, Line, Word, box_around
from vision_agent.documents.table_detection import find_tables, with_tables
from vision_agent.evaluate.adjacency import documents
from vision_agent.results.box import Box

BOX = Box(x0=0, y0=0, x1=10, y1=10)
SIZE = (700, 500)


def table(*cells: Cell, rows: int = 2, columns: int = 2, header_rows: int = 1) -> Table:
    return Table(rows=rows, columns=columns, cells=cells, header_rows=header_rows, box=BOX)


SPANNED = table(
    Cell(row=0, column=0, text="Item"),
    Cell(row=0, column=1, column_span=2, text="Price"),
    Cell(row=1, column=0, row_span=2, text="a | b"),
    Cell(row=1, column=1, text="1"),
    Cell(row=1, column=2, text="<2>\nmore"),
    Cell(row=2, column=1, text="3"),
    rows=3,
    columns=3,
)


def test_markdown_keeps_places_and_escapes() -> None:
    assert SPANNED.to_markdown().splitlines() == [
        "| Item | Price |  |",
        "| --- | --- | --- |",
        "| a \\| b | 1 | <2><br>more |",
        "|  | 3 |  |",
    ]


def test_html_has_spans_and_is_escaped() -> None:
    html = SPANNED.to_html()
    assert '<th colspan="2">Price</th>' in html and '<td rowspan="2">a | b</td>' in html
    assert "&lt;2&gt;<br>more" in html
    assert html.count("<tr>") == 3 and html.splitlines()[3] == "<tr><td>3</td><td></td></tr>"


def test_dataframe_repeats_spans() -> None:
    frame = SPANNED.to_dataframe()
    assert list(frame.columns) == ["Item", "Price", "Price"]
    assert frame.values.tolist() == [["a | b", "1", "<2>\nmore"], ["a | b", "3", ""]]


def test_two_header_rows_are_joined() -> None:
    double = table(
        Cell(row=0, column=0, column_span=2, text="Total"),
        Cell(row=1, column=0, text="net"),
        Cell(row=1, column=1, text="gross"),
        Cell(row=2, column=0, text="1"),
        Cell(row=2, column=1, text="2"),
        rows=3,
        header_rows=2,
    )
    assert list(double.to_dataframe().columns) == ["Total net", "Total gross"]
    assert double.to_markdown().splitlines()[0] == "| Total net | Total gross |"


@pytest.mark.parametrize(
    "cells",
    [
        (Cell(row=0, column=1, column_span=2),),
        (Cell(row=0, column=0, row_span=2), Cell(row=1, column=0)),
    ],
)
def test_cells_must_fit(cells: tuple[Cell, ...]) -> None:
    with pytest.raises(ValidationError):
        table(*cells)


def drawn(words: list[tuple[float, float, str]], lines: list[tuple[float, float, float, float]], angle: float = 0):
    """An image with texts and ruling lines, and its words, turned clockwise by an angle in degrees."""
    image = Image.new("RGB", SIZE, "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size=18)
    quads = []
    for x, y, text in words:
        pen.text((x, y), text, fill="black", font=font)
        quads.append(((x, y), (x + 9.5 * len(text), y), (x + 9.5 * len(text), y + 20), (x, y + 20)))
    for line in lines:
        pen.line(line, fill="black", width=2)
    if angle:
        size, image = (
            image.size,
            image.rotate(-angle, expand=True, fillcolor="white", resample=Image.Resampling.BICUBIC),
        )
        sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
        (cx, cy), (nx, ny) = (size[0] / 2, size[1] / 2), (image.width / 2, image.height / 2)
        quads = [
            tuple((nx + (x - cx) * cosine - (y - cy) * sine, ny + (x - cx) * sine + (y - cy) * cosine) for x, y in quad)
            for quad in quads
        ]
    found = tuple(
        Line(words=tuple(Word(text=part, quad=quad, score=1) for part in [text]), quad=quad, score=1)
        for quad, (_, _, text) in zip(quads, words, strict=True)
    )
    block = Block(kind="text", box=box_around([line.quad for line in found]), lines=found)
    return Page(number=1, width=image.width, height=image.height, angle=angle % 360, blocks=(block,)), image


RULED_WORDS = [
    (60, 60, "Name"),
    (260, 60, "Size"),
    (60, 110, "Oak"),
    (260, 110, "12"),
    (460, 110, "40"),
    (60, 160, "Elm"),
    (260, 160, "7"),
    (460, 160, "55"),
]
RULED_LINES = [
    *((50, y, 650, y) for y in (50, 100, 150, 200)),
    *((x, 50, x, 200) for x in (50, 250, 650)),
    (450, 100, 450, 200),
]  # fmt: skip


@pytest.mark.parametrize("angle", [0, 90, 180, 2, -1.5])
def test_ruling_lines_show_cells_and_spans(angle: float) -> None:
    page, image = drawn(RULED_WORDS, RULED_LINES, angle)
    (found,) = find_tables(page, image)
    assert (found.rows, found.columns, found.source) == (3, 3, "lines")
    assert found.grid() == [["Name", "Size", ""], ["Oak", "12", "40"], ["Elm", "7", "55"]]
    (size,) = [cell for cell in found.cells if cell.text == "Size"]
    assert size.column_span == 2
    for cell in found.cells:  # reported in the page as given: each cell is around its own word
        (word,) = [word for word in page.words if word.text == cell.text]
        assert cell.box is not None
        x, y = (word.box.x0 + word.box.x1) / 2, (word.box.y0 + word.box.y1) / 2
        assert cell.box.x0 < x < cell.box.x1 and cell.box.y0 < y < cell.box.y1


def test_gaps_show_columns() -> None:
    rows = [("Part", "Count", "Price"), ("Bolt", "10", "1.20"), ("Large washer", "4", "0.30"), ("Nut", "8", "0.15")]
    words = [(x, 60 + 30 * i, text) for i, row in enumerate(rows) for x, text in zip((40, 300, 500), row, strict=True)]
    page, image = drawn([(40, 10, "An order of parts"), *words, (40, 300, "Thank you")], [])
    (found,) = find_tables(page, image)
    assert found.source == "gaps" and found.grid() == [list(row) for row in rows]
    assert found.header_rows == 1


def test_a_row_goes_on_below_and_a_header_is_cut_at_its_columns() -> None:
    rows = [
        ("", "Pos. Item", "Count", "Price"),
        ("1", "Bolt", "10", "1.20"),
        ("", "with a washer", "", ""),
        ("2", "Nut, large and long", "4", "0.30"),
        ("3", "Screw", "8", "0.15"),
    ]
    words = [
        (x, 60 + 40 * i, text)
        for i, row in enumerate(rows)
        for x, text in zip((40, 88 if "Pos" not in row[1] else 40, 400, 560), row, strict=True)
        if text
    ]
    page, image = drawn(words, [])
    lines = [line.model_copy(update={"words": split(line)}) for line in page.lines]
    (found,) = find_tables(
        page.model_copy(update={"blocks": (page.blocks[0].model_copy(update={"lines": lines}),)}), image
    )
    assert found.grid()[:3] == [
        ["Pos.", "Item", "Count", "Price"],
        ["1", "Bolt\nwith a washer", "10", "1.20"],
        ["2", "Nut, large and long", "4", "0.30"],
    ]


def split(line: Line) -> tuple[Word, ...]:
    """The words of a line of one word that has spaces."""
    (x0, y0), (_, y1), words = line.quad[0], line.quad[2], []
    for part in line.text.split():
        left = x0 + 9.5 * line.text.index(part)
        right = left + 9.5 * len(part)
        words.append(Word(text=part, quad=((left, y0), (right, y0), (right, y1), (left, y1)), score=1))
    return tuple(words)


def test_addresses_and_labels_side_by_side_are_no_table() -> None:
    rows = [
        ("Oak & Daughters", "Invoice no:", "HT-2031"),
        ("7 Mill Lane", "Date:", "14.03.2025"),
        ("Bath BA1 1UA", "Customer:", "K-4711"),
    ]
    words = [(x, 60 + 30 * i, text) for i, row in enumerate(rows) for x, text in zip((40, 300, 500), row, strict=True)]
    assert find_tables(*drawn(words, [])) == []


def test_no_table_in_running_text_and_forms() -> None:
    text = [(40, 40 + 30 * i, "words of a letter that runs over its lines") for i in range(8)]
    page, image = drawn(text, [])
    assert find_tables(page, image) == []
    form = [(x, 40 + 30 * i, t) for i in range(5) for x, t in ((40, "Label:"), (300, "value"))]
    assert find_tables(*drawn(form, [])) == []
    framed = drawn(
        [(60, 60, "A title")], [(50, 50, 650, 50), (50, 50, 50, 150), (650, 50, 650, 150), (50, 150, 650, 150)]
    )
    assert find_tables(*framed) == []


def test_tables_become_blocks_in_place() -> None:
    page, image = drawn([(60, 10, "Before"), *RULED_WORDS, (60, 300, "After")], RULED_LINES)
    put = with_tables(page, image)
    assert sorted(word.text for word in put.words) == sorted(word.text for word in page.words)
    (block,) = [block for block in put.blocks if block.table is not None]
    assert block.kind == "table" and len(block.lines) == len(RULED_WORDS)
    assert "| Oak | 12 | 40 |" in put.to_markdown()


def test_lines_between_columns_alone_leave_rows_to_their_numbers() -> None:
    words = [(220, 60, "2019"), (360, 60, "2020"), (500, 60, "2021")]
    for row, label in enumerate(["Trees", "of these", "Shrubs", "Total"]):
        words += [(60, 112 + 26 * row, label)]
        words += [(230 + 140 * at, 112 + 26 * row, str(41 + 3 * row + at)) for at in range(3)]
    lines = [(40, 50, 640, 50), (40, 100, 640, 100), (40, 230, 640, 230)]
    lines += [(x, 50, x, 230) for x in (200, 340, 480, 640)]  # no line on the left of the labels
    (found,) = find_tables(*drawn(words, lines))
    assert (found.rows, found.columns, found.source) == (5, 4, "lines")
    assert found.grid()[0] == ["", "2019", "2020", "2021"]
    assert found.grid()[2] == ["of these", "44", "45", "46"]


def test_one_column_of_shaded_rows_leaves_columns_to_the_white_between_words() -> None:
    rows = [("Austria", "92.9", "7.1", "5,821"), ("Belgium", "0", "100.0", "5,906"), ("Cyprus", "84.0", "0", "17")]
    words = [(60, 60, "Country"), (280, 60, "Domestic"), (420, 60, "Other"), (560, 60, "Total")]
    words += [
        (x, 110 + 50 * at, text)
        for at, row in enumerate(rows)
        for x, text in zip((60, 300, 430, 560), row, strict=True)
    ]
    lines = [*((40, y, 660, y) for y in (50, 96, 100, 150, 200, 250)), *((x, 50, x, 250) for x in (40, 660))]
    (found,) = find_tables(*drawn(words, lines))
    assert found.grid() == [
        ["Country", "Domestic", "Other", "Total"],
        *map(list, rows),
    ]  # and no row in the double line


def test_names_over_names_and_headings_of_rows() -> None:
    words = [(330, 20, "2019"), (570, 20, "2020"), (40, 60, "Kind")]
    words += [(x, 60, text) for x, text in zip((290, 400, 530, 640), ["Count", "Rate", "Count", "Rate"], strict=True)]
    at = 90
    for heading, names in (("Men", ["under 45", "over 45"]), ("Women", ["under 45", "over 45"])):
        words.append((40, at, heading))
        for name in names:
            at += 30
            words.append((60, at, name))
            words += [(x, at, f"{at + x}") for x in (300, 410, 540, 650)]
        at += 30
    (found,) = find_tables(*drawn(words, []))
    assert found.header_rows == 2
    assert [(cell.text, cell.column, cell.column_span) for cell in found.cells if cell.row == 0] == [
        ("2019", 1, 2),
        ("2020", 3, 2),
    ]
    assert [row[0] for row in found.grid()][2:] == ["Men", "under 45", "over 45", "Women", "under 45", "over 45"]


def test_a_label_of_two_lines_stands_around_its_numbers() -> None:
    words = [(40, 40, "Measure"), (300, 40, "2019"), (420, 40, "2020"), (540, 40, "2021")]
    for row in range(3):
        top = 90 + 60 * row
        words += [(40, top, f"Years of life {row}"), (40, top + 24, "lost early")]
        words += [(300 + 120 * at, top + 12, f"{row}.{at}41") for at in range(3)]
    (found,) = find_tables(*drawn(words, []))
    assert found.grid()[1:] == [
        [f"Years of life {row}\nlost early", f"{row}.041", f"{row}.141", f"{row}.241"] for row in range(3)
    ]


def test_documents_without_their_pdf_are_left_out_of_the_figure(tmp_path: Path) -> None:
    for name in ("a-str.xml", "a.pdf", "b-str.xml"):
        (tmp_path / name).touch()
    assert [file.name for file in documents(tmp_path)] == ["a-str.xml"]
