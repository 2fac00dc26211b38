"""Files that are no documents here: errors name what they are and what is read."""

import io
import zipfile
from pathlib import Path

import pytest

from vision_agent import DocumentError, ImageTooLargeError, InputError
from vision_agent.documents.options import OcrOptions
from vision_agent.documents.reader import DocumentReader
from vision_agent.documents.source import page_images
from vision_agent.images.loading import ImageLimits

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
        ("a.odt", packed("mimetype", "content.xml"), "an OpenDocument file"),
        ("no-suffix", packed("[Content_Types].xml", "xl/workbook.xml"), "an Excel file"),
        ("a.zip", packed("one", "two"), "a ZIP archive"),
        ("a.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100), "an old Word file"),
        ("a.msg", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100), "a mail of Outlook"),
    ],
)
def test_files_that_are_not_read_are_named(tmp_path: Path, file: str, data: bytes, kind: str) -> None:
    (tmp_path / file).write_bytes(data)
    read = r"a PDF, a TIFF or another image, or a Word file \(.docx\), a web page, a mail \(.eml\) or plain text"
    with pytest.raises(DocumentError, match=f"must be {read}, but got '.*', which is {kind}"):
        DocumentReader().read(tmp_path / file, ALONE)


def test_empty_files_and_unknown_bytes_are_told(tmp_path: Path) -> None:
    for name in ("a.pdf", "a.docx", "a.txt", "a.html", "a.eml"):
        (tmp_path / name).write_bytes(b"")
    for source in (*sorted(tmp_path.iterdir()), b"", io.BytesIO(b"")):
        with pytest.raises(DocumentError, match=r"must be a PDF, .* or plain text, but got .*, which is empty"):
            DocumentReader().read(source, ALONE)
    with pytest.raises(InputError, match="no image in a known format"):
        DocumentReader().read(bytes(range(128, 256)), ALONE)


@pytest.mark.parametrize("file", ["invoice.pdf", "scan.PNG", "scan.tiff"])
def test_text_under_the_name_of_a_picture_is_told(tmp_path: Path, file: str) -> None:
    (tmp_path / file).write_bytes(b"<!DOCTYPE html><title>404 Not Found</title><p>The total is 12.00")
    with pytest.raises(InputError, match="which is text, whatever its name says"):
        DocumentReader().read(tmp_path / file, ALONE)


def test_pages_of_text_keep_to_the_limits() -> None:
    with pytest.raises(ImageTooLargeError, match="1240 x 1754 pixels"):
        list(page_images(b"hello", limits=ImageLimits(max_pixels=100_000)))
