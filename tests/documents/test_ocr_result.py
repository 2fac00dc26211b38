"""What was read from a document: JSON, Markdown, hOCR and drawings of it."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image
from written_pages import line

from vision_agent import InputError
from vision_agent.documents.result import Block, Line, OcrResult, Page, box_around


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
