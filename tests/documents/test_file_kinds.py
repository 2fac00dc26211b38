"""Files that are no documents here: errors name what they are and what is read."""

import io
import zipfile
from pathlib import Path

import pytest

from vision_agent import DocumentError, InputError
from vision_agent.documents.options import OcrOptions
from vision_agent.documents.reader import DocumentReader

ALONE = OcrOptions(text_layer="only")


def packed(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, "<x/>")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("file", "data", "kind"),
    [
        ("a.docx", packed("[Content_Types].xml", "word/document.xml"), "a Word file"),
        ("no-suffix", packed("[Content_Types].xml", "xl/workbook.xml"), "an Excel file"),
        ("a.zip", packed("one", "two"), "a ZIP archive"),
        ("a.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100), "a Word file"),
        ("a.txt", "Grüße aus Köln\n".encode(), "plain text"),
        ("a.html", b"<!DOCTYPE html><html><body>x</body></html>", "a web page"),
        ("a", b"Return-Path: <a@b.c>\r\nSubject: x\r\n\r\nhello", "a mail"),
    ],
)
def test_files_that_are_not_read_are_named(tmp_path: Path, file: str, data: bytes, kind: str) -> None:
    (tmp_path / file).write_bytes(data)
    with pytest.raises(DocumentError, match=f"must be a PDF, a TIFF or another image, but got '.*', which is {kind}"):
        DocumentReader().read(tmp_path / file, ALONE)


def test_empty_files_and_unknown_bytes_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"")
    for source in (tmp_path / "a.pdf", b"", io.BytesIO(b"")):
        with pytest.raises(InputError, match="which is empty"):
            DocumentReader().read(source, ALONE)
    with pytest.raises(InputError, match="no image in a known format"):
        DocumentReader().read(bytes(range(128, 256)), ALONE)
