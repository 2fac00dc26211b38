"""What readers' lines become: words, blocks in reading order, Markdown, hOCR, drawings. No OCR engine."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from vision_agent import InputError
from vision_agent.decoders.ocr.lookalikes import plain_characters
from vision_agent.decoders.ocr.word_spacing import Glyphs, fit, ink_columns, split
from vision_agent.documents.reading_order import blocks_of
from vision_agent.documents.result import Block, Line, OcrResult, Page, Word, box_around, quad_of
from vision_agent.evaluate.words import PlacedText, edit_distance, word_figures


def line(text: str, x: float, y: float, height: float = 20.0, width: float | None = None) -> Line:
    """A line whose characters are half as wide as high."""
    wide = 0.5 * height * len(text) if width is None else width
    step = wide / max(1, len(text))
    words, at = [], 0
    for word in text.split(" "):
        quad = quad_of((x + at * step, y, x + (at + len(word)) * step, y + height))
        words.append(Word(text=word, quad=quad, score=0.9))
        at += len(word) + 1
    return Line(words=tuple(words), quad=quad_of((x, y, x + wide, y + height)), score=0.9)


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


def test_lists_captions_and_page_numbers_are_told_from_text() -> None:
    lines = [line(f"running text of the first paragraph {row}", 60, 200 + 25 * row) for row in range(4)]
    lines += [line(f"• item {row} of the list", 60, 400 + 25 * row) for row in range(3)]
    lines += [line("Figure 3: what is seen", 60, 600), line("Page 7", 480, 1370)]
    blocks = blocks_of(lines, (1000, 1400)).blocks
    assert [block.kind for block in blocks] == ["text", "list", "caption", "footer"]


def test_a_page_without_lines_has_no_blocks() -> None:
    assert blocks_of([], (100, 100)).blocks == ()


# --- words from characters


def glyphs(text: str, gaps: list[float], space: list[float], pitch: float = 20.0) -> Glyphs:
    """Characters 12 px wide; `gaps` px of paper after each but the last; `space`: probability of a space there."""
    starts = np.zeros(len(text))
    for index, gap in enumerate(gaps):
        starts[index + 1] = starts[index] + 12 + gap
    ink = np.zeros(int(starts[-1]) + 12)
    for start in starts.astype(int):
        ink[start : start + 12] = 1.0
    return Glyphs(tuple(text), np.full(len(text), 0.9), starts, starts + 12, np.array(space), ink, 48)


def test_a_gap_that_the_recogniser_nearly_called_a_space_parts_words() -> None:
    gaps = [3.0] * 4 + [11.0] + [3.0] * 5
    likely = split(glyphs("TotalAmount"[:11], gaps, [0.001] * 4 + [0.3] + [0.001] * 5))
    assert [span.text for span in likely] == ["Total", "Amount"]
    assert (likely[0].start, likely[0].end) == (0, 72) and likely[1].start == 83
    unlikely = split(glyphs("TotalAmount"[:11], [3.0] * 10, [0.001] * 4 + [0.02] + [0.001] * 5))
    assert [span.text for span in unlikely] == ["TotalAmount"]


def test_letters_set_far_apart_are_one_word() -> None:
    spaced = split(glyphs("INVOICE", [14.0] * 6, [0.05] * 6))
    assert [span.text for span in spaced] == ["INVOICE"]


def test_the_weights_of_spacing_can_be_learned() -> None:
    generator = np.random.default_rng(0)
    rows = np.stack([np.ones(4000), generator.normal(size=4000), generator.normal(size=4000)], axis=1)
    chance = 1 / (1 + np.exp(-rows @ [-1.0, 2.0, 0.5]))
    assert fit(rows, generator.random(4000) < chance) == pytest.approx((-1.0, 2.0, 0.5), abs=0.2)


def test_ink_is_dark_on_light_and_light_on_dark() -> None:
    image = np.full((48, 40), 250, dtype=np.uint8)
    image[10:40, 12:18] = 20
    assert np.flatnonzero(ink_columns(image) > 0.5).tolist() == list(range(12, 18))
    assert np.flatnonzero(ink_columns(255 - image) > 0.5).tolist() == list(range(12, 18))


def test_wide_forms_become_plain_in_latin_lines_only() -> None:
    assert plain_characters(["N", "o", "\uff1a"]) == ("N", "o", ":")
    assert plain_characters(["\u53f7", "\uff1a"]) == ("\u53f7", "\uff1a")


# --- results


def document(*blocks: Block) -> OcrResult:
    return OcrResult.of([Page(number=1, width=400, height=300, blocks=blocks)], "test")


def block(kind: str, *lines: Line) -> Block:
    return Block(kind=kind, box=box_around([each.quad for each in lines]), lines=lines)  # type: ignore[arg-type]


def test_results_are_exact_through_json() -> None:
    result = document(block("text", line("Total 9.00", 10, 10)))
    assert OcrResult.model_validate_json(result.model_dump_json()) == result
    assert result.untrusted is True
    assert [word.text for word in result.words] == ["Total", "9.00"]
    assert result.lines[0].box.xyxy == (10, 10, 110, 30) and result.words[1].box.xyxy == (70, 10, 110, 30)


def test_markdown_keeps_structure_and_escapes_marks_in_the_text() -> None:
    result = document(
        block("title", line("Report <b>2024</b>", 10, 10, height=40)),
        block("text", line("# no heading", 10, 80), line("<script>alert(1)</script>", 10, 105)),
        block("list", line("• first", 10, 140), line("2. second", 10, 165)),
    )
    assert result.to_markdown() == (
        "## Report \\<b>2024\\</b>\n\n\\# no heading\n\\<script>alert(1)\\</script>\n\n- first\n2. second\n"
    )


def test_hocr_is_well_formed_and_has_every_word_with_its_box() -> None:
    result = document(block("text", line('a < b & "c"', 10, 10)))
    tree = ET.fromstring(result.to_hocr().split("?>\n", 1)[1].replace("<!DOCTYPE html>\n", ""))
    name = "{http://www.w3.org/1999/xhtml}span"
    words = [each for each in tree.iter(name) if each.get("class") == "ocrx_word"]
    assert [each.text for each in words] == ["a", "<", "b", "&", '"c"']
    assert words[0].get("title") == "bbox 10 10 20 30; x_wconf 90"


def test_draw_marks_words_on_the_page() -> None:
    result = document(block("text", line("Total 9.00", 100, 100)))
    page = Image.new("RGB", (400, 300), "white")
    drawn = np.asarray(result.draw(page))
    changed = np.flatnonzero((drawn != 255).any(axis=2).any(axis=0))
    assert 95 <= changed.min() <= 101 and 198 <= changed.max() <= 205
    with pytest.raises(InputError, match="400 x 300"):
        result.draw(Image.new("RGB", (40, 30)))
    with pytest.raises(InputError, match="`page` must be one of"):
        result.draw(page, page=2)
    with pytest.raises(InputError, match="not read from a file"):
        result.draw()


# --- the figures


def test_word_figures_count_words_once_and_characters_by_place() -> None:
    truth = [PlacedText("TOTAL AMOUNT", (0, 0, 100, 10)), PlacedText("9.00", (200, 0, 240, 10))]
    read = [PlacedText("9.00", (200, 0, 240, 10)), PlacedText("TotalAmount", (0, 0, 100, 10))]
    figures = word_figures([(read, truth)], ignore_case=True)
    assert (figures.recall, figures.precision, figures.words) == (1 / 3, 1 / 2, 3)
    assert figures.character_errors == 1 / 16
    assert word_figures([([], truth)]).character_errors == 1.0


def test_edit_distance() -> None:
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance("", "abc") == edit_distance("abc", "") == 3
    assert edit_distance("flaw", "lawn") == 2
