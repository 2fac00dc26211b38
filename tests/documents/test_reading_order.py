"""Lines in any order become blocks in reading order: columns, paragraphs, titles, lists. No OCR engine."""

import numpy as np
import pytest
from written_pages import line

from vision_agent.documents.reading_order import blocks_of
from vision_agent.documents.result import Line, Word


def turned(lines: list[Line], degrees: float, center: tuple[float, float]) -> list[Line]:
    angle = np.radians(degrees)
    matrix = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])  # for row vectors, y down

    def turn(quad: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
        return tuple((float(x), float(y)) for x, y in (np.array(quad) - center) @ matrix + center)

    return [
        Line(
            words=tuple(Word(text=word.text, quad=turn(word.quad), score=word.score) for word in each.words),
            quad=turn(each.quad),
            score=each.score,
        )
        for each in lines
    ]


def two_columns(stagger: int = 6) -> list[Line]:
    lines = [line("A title over both columns", 100, 20, height=40)]
    for row in range(6):
        lines.append(line(f"left column row {row} of running text", 40, 120 + 26 * row))
        lines.append(line(f"right column row {row} of running text", 520, 120 + stagger + 26 * row))
    return lines


def order(lines: list[Line], size: tuple[int, int] = (1000, 800)) -> list[str]:
    return [each.text for block in blocks_of(lines, size).blocks for each in block.lines]


@pytest.mark.parametrize("stagger", [0, 6, 13])
def test_columns_are_read_one_after_the_other_below_their_title(stagger: int) -> None:
    texts = order(two_columns(stagger))
    assert texts[0] == "A title over both columns"
    assert texts[1:7] == [f"left column row {row} of running text" for row in range(6)]
    assert texts[7:] == [f"right column row {row} of running text" for row in range(6)]
    assert blocks_of(two_columns(), (1000, 800)).blocks[0].kind == "title"


def test_a_heading_over_one_column_does_not_join_the_other() -> None:
    lines = [line("1. Introduction", 40, 100, height=26)]
    for row in range(6):
        lines.append(line(f"left column row {row} of running text", 40, 140 + 26 * row))
        lines.append(line(f"right column row {row} of running text", 520, 103 + 26 * row))
    layout = blocks_of(lines, (1000, 800)).blocks
    assert [(block.kind, block.lines[0].text) for block in layout] == [
        ("title", "1. Introduction"),
        ("text", "left column row 0 of running text"),
        ("text", "right column row 0 of running text"),
    ]


@pytest.mark.parametrize("degrees", [3.0, -7.0, 90.0, 180.0, 272.0])
def test_a_turned_page_is_read_like_an_upright_one(degrees: float) -> None:
    layout = blocks_of(turned(two_columns(), degrees, (500, 400)), (1000, 800))
    assert [each.text for block in layout.blocks for each in block.lines] == order(two_columns())
    assert layout.angle == pytest.approx(degrees % 360, abs=0.05)


def test_rows_of_short_pieces_are_no_columns() -> None:
    lines = []
    for row, (name, amount) in enumerate([("Tea", "2.50"), ("Coffee", "3.00"), ("Cake", "4.20"), ("Total", "9.70")]):
        lines += [line(name, 40, 40 + 30 * row), line(amount, 600, 42 + 30 * row)]
    blocks = blocks_of(lines[::-1], (800, 400)).blocks
    assert "\n".join(block.text for block in blocks).splitlines() == [
        "Tea  2.50",
        "Coffee  3.00",
        "Cake  4.20",
        "Total  9.70",
    ]


def test_a_table_within_a_column_does_not_hide_the_gutter() -> None:
    left = [line(f"left column row {row} of running text", 40, 120 + 26 * row) for row in range(5)]
    for row in range(8):  # more cells than lines
        left += [line(f"a{row}", 60 + 90 * cell, 260 + 26 * row) for cell in range(4)]
    right = [line(f"right column row {row} of running text", 520, 120 + 26 * row) for row in range(13)]
    texts = order([*right, *left], (1000, 600))
    assert texts[:5] == [each.text for each in left[:5]]
    assert texts[-13:] == [each.text for each in right]


def test_two_pages_of_a_questionnaire_on_one_sheet_are_read_one_after_the_other() -> None:
    # As in a published survey (Global Study on Legal Aid): few full lines, many short choices, all on one grid.
    pages: list[list[Line]] = [[], []]
    for side, (x, names) in enumerate(
        (
            (40, ("Yes, at the national level", "Yes, at a lower level", "No")),
            (640, ("It is up to each", "Don't know", "Other")),
        )
    ):
        for question in range(4):
            top = 60 + 120 * question
            asked = f"{20 + 4 * side + question}. If your country has an institutional provider, does it"
            pages[side].append(line(asked, x, top))
            pages[side].append(line("have specialised units for representing those in need?", x, top + 20))
            pages[side] += [line(name, x + 20, top + 44 + 20 * row) for row, name in enumerate(names)]
    texts = order([each for pair in zip(*pages, strict=True) for each in pair], (1300, 600))
    assert texts == [each.text for page in pages for each in page]


def test_lists_captions_and_page_numbers_are_told_from_text() -> None:
    lines = [line(f"running text of the first paragraph {row}", 60, 200 + 25 * row) for row in range(4)]
    lines += [line(f"• item {row} of the list", 60, 400 + 25 * row) for row in range(3)]
    lines += [line("Figure 3: what is seen", 60, 600), line("Page 7", 480, 1370)]
    blocks = blocks_of(lines, (1000, 1400)).blocks
    assert [block.kind for block in blocks] == ["text", "list", "caption", "footer"]


def test_a_page_without_lines_has_no_blocks() -> None:
    assert blocks_of([], (100, 100)).blocks == ()
