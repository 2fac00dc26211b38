"""Files without pages: Word files, web pages, mails and plain text are read like pages."""

import io
import sys
import zipfile
from pathlib import Path

import docx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision_agent import DocumentError, InputError, MissingExtraError
from vision_agent.documents.options import OcrOptions
from vision_agent.documents.reader import DocumentReader
from vision_agent.documents.result import OcrResult
from vision_agent.extract.extractor import Extractor

ALONE = OcrOptions(text_layer="only")

# RFC 5322, appendix A.1.1
RFC_MAIL = b"""From: John Doe <jdoe@machine.example>
To: Mary Smith <mary@example.net>
Subject: Saying Hello
Date: Fri, 21 Nov 1997 09:55:06 -0600
Message-ID: <1234@local.machine.example>

This is a message just to say hello.
So, "Hello".
"""

# HTML 4.01, section 11.2.1, as it is printed there
W3C_TABLE = b"""<TABLE border="1"
          summary="This table gives some statistics about fruit
                   flies: average height and weight, and percentage
                   with red eyes (for both males and females).">
<CAPTION><EM>A test table with merged cells</EM></CAPTION>
<TR><TH rowspan="2"><TH colspan="2">Average
    <TH rowspan="2">Red<BR>eyes
<TR><TH>height<TH>weight
<TR><TH>Males<TD>1.9<TD>0.003<TD>40%
<TR><TH>Females<TD>1.7<TD>0.002<TD>43%
</TABLE>"""


def read(source: object, options: OcrOptions = ALONE) -> OcrResult:
    found = DocumentReader().read(source, options)  # type: ignore[arg-type]
    assert isinstance(found, OcrResult)
    return found


@pytest.fixture(scope="module")
def letter() -> bytes:
    """A Word file with a letterhead, headings, a list, a table with a merged cell, and a deleted word."""
    document = docx.Document()
    document.sections[0].header.paragraphs[0].text = "Birch & Sons GmbH, Hafenstr. 3, 20457 Hamburg"
    document.add_heading("Invoice", 0)
    document.add_heading("What was delivered", 1)
    document.add_paragraph("Invoice number: RE-2024-017\nInvoice date: 12 March 2024")
    document.add_paragraph("paid by transfer", style="List Bullet")
    table = document.add_table(4, 3)
    rows = [
        ("Item", "Qty", "Amount"),
        ("Birch plywood", "4", "154.00"),
        ("Screws", "2", "23.80"),
        ("Sum", "", "177.80"),
    ]
    for number, texts in enumerate(rows):
        for column, text in enumerate(texts):
            table.cell(number, column).text = text
    merged = table.cell(3, 0).merge(table.cell(3, 1))
    merged.text = "Sum"
    document.add_paragraph("Total amount: 177.80 EUR")
    gone = document.add_paragraph("kept")._p
    gone.append(docx.oxml.parse_xml(f"<w:del {docx.oxml.ns.nsdecls('w')}><w:r><w:t>deleted</w:t></w:r></w:del>"))
    stream = io.BytesIO()
    document.save(stream)
    return stream.getvalue()


def test_a_word_file_has_headings_lists_tables_and_its_letterhead(letter: bytes, tmp_path: Path) -> None:
    (tmp_path / "letter.docx").write_bytes(letter)
    found = read(tmp_path / "letter.docx")
    markdown = found.to_markdown()
    assert markdown.startswith("# Invoice\n") and "\n# What was delivered\n" in markdown
    assert "- paid by transfer" in markdown and "| Birch plywood | 4 | 154.00 |" in markdown
    assert "Hafenstr. 3" in found.text and "deleted" not in found.text and "kept" in found.text
    (table,) = found.tables
    assert [cell.column_span for cell in table.cells if cell.text == "Sum"] == [2]
    assert found.pages[0].source == "file" and found.file.endswith("letter.docx")
    pairs = {pair.key: pair.value for pair in found.key_values}
    assert pairs["Invoice number"] == "RE-2024-017" and pairs["Total amount"] == "177.80 EUR"


def test_places_of_words_lie_in_the_page_that_is_drawn(letter: bytes, tmp_path: Path) -> None:
    (tmp_path / "letter.docx").write_bytes(letter)
    found = read(tmp_path / "letter.docx")
    page = found.pages[0]
    for word in page.words:
        assert 0 <= word.box.x0 < word.box.x1 <= page.width and 0 <= word.box.y0 < word.box.y1 <= page.height
    assert found.draw().size == (page.width, page.height)


def test_fields_are_extracted_from_a_word_file(letter: bytes) -> None:
    from pydantic import BaseModel

    class Invoice(BaseModel):
        invoice_number: str
        total: float

    found = Extractor(DocumentReader().read).extract(letter, Invoice)
    assert found.value == Invoice(invoice_number="RE-2024-017", total=177.8)


def test_the_mail_of_rfc_5322() -> None:
    found = read(RFC_MAIL)
    assert 'This is a message just to say hello.\nSo, "Hello".' in found.text
    pairs = {pair.key: pair.value for pair in found.key_values}
    assert pairs["Subject"] == "Saying Hello" and pairs["To"].startswith("Mary Smith")


def test_the_table_of_html_4() -> None:
    found = read(W3C_TABLE)
    (table,) = found.tables
    assert (table.rows, table.columns, table.header_rows) == (4, 4, 2)
    assert table.grid()[2:] == [["Males", "1.9", "0.003", "40%"], ["Females", "1.7", "0.002", "43%"]]
    assert {cell.text: (cell.row_span, cell.column_span) for cell in table.cells}["Average"] == (1, 2)
    assert found.text.startswith("A test table with merged cells")


def test_what_a_web_page_hides_is_not_read() -> None:
    page = (
        b"<!doctype html><head><title>t</title><script>var a</script></head><body><h2>Order</h2>"
        b"<p>Order no: A&amp;7<br>Size: 3&nbsp;m</p><p hidden>no</p><div style='display: none'>no</div>"
        b"<table><tr><td><p>left</p></td></tr></table>"
        b"<p><input type=checkbox checked> Paid <input type=checkbox> Open</p><dl><dt>Name</dt><dd>Ann</dd></dl></body>"
    )
    found = read(page)
    assert found.text.replace("\n\n", "\n").splitlines() == [
        "Order", "Order no: A&7", "Size: 3 m", "left", "[x] Paid [ ] Open", "Name: Ann",
    ]  # fmt: skip
    assert {pair.key: pair.checked for pair in found.key_values if pair.checked is not None} == {
        "Paid": True,
        "Open": False,
    }


def test_columns_of_plain_text_stay_under_each_other(tmp_path: Path) -> None:
    text = "Müller & Co\r\n\r\nItem        Qty    Price\r\n"
    text += "Bolt M6     4      12,00\r\nNut M6      10      3,00\r\n\fPage two"
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "cp1252"):
        (tmp_path / "a.txt").write_bytes(text.encode(encoding))
        found = read(tmp_path / "a.txt")
        assert len(found.pages) == 2 and found.pages[1].text == "Page two"
        assert found.pages[0].text.startswith("Müller & Co")
        assert found.tables[0].grid()[1] == ["Bolt M6", "4", "12,00"]


def test_long_files_have_several_pages_and_one_can_be_chosen() -> None:
    text = "\n\n".join(f"Paragraph {number} " + "word " * 60 for number in range(80)).encode()
    found = read(text)
    assert len(found.pages) > 3
    assert found.text.count("Paragraph") == 80
    one = read(text, OcrOptions(text_layer="only", pages=2))
    assert [page.number for page in one.pages] == [2] and one.pages[0].text == found.pages[1].text
    with pytest.raises(InputError, match="page"):
        read(text, OcrOptions(text_layer="only", pages=999))


def test_a_table_over_two_pages_loses_no_row() -> None:
    rows = "".join(f"<tr><td>row {number}</td><td>{'long ' * 30}</td></tr>" for number in range(60))
    found = read(f"<html><table><tr><th>A</th><th>B</th></tr>{rows}</table></html>".encode())
    first = [row[0] for table in found.tables for row in table.grid()]
    assert len(found.tables) > 1 and first == ["A", *(f"row {number}" for number in range(60))]


def test_without_the_library_the_line_that_installs_it_is_told(letter: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "docx", None)
    monkeypatch.setitem(sys.modules, "lxml", None)
    with pytest.raises(MissingExtraError, match=r"Word file needs python-docx: pip install .*\[office\]"):
        read(letter)
    with pytest.raises(MissingExtraError, match=r"web page needs lxml: pip install .*\[office\]"):
        read(W3C_TABLE.replace(b"<TABLE", b"<html><TABLE"))
    assert read(RFC_MAIL).pages and read(b"just text").text == "just text"


def test_broken_and_swollen_word_files_are_told(letter: bytes) -> None:
    def packed(data: bytes) -> bytes:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("word/document.xml", data)
        return stream.getvalue()

    with pytest.raises(DocumentError, match="`source` must be a complete Word file, but got one that is broken"):
        read(packed(b"<x/>"))
    with pytest.raises(DocumentError, match="of at most 268435456 bytes unpacked, but got 300000000"):
        read(packed(bytes(300_000_000)))


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=400), st.sampled_from(["", "<html>", "<!doctype html><table><tr><td>", "Subject: x\n\n"]))
def test_any_text_is_read_or_told(text: str, start: str) -> None:
    data = (start + text).encode("utf-8", "surrogatepass")
    try:
        found = read(data)
    except (DocumentError, InputError) as error:
        assert "`source`" in str(error) or "source" in str(error)
    else:
        assert len(found.pages) >= 1
