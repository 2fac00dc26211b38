"""Kinds of files that have no pages: which are read as text, and which are not, so that an error can name them."""

import io
import re
import unicodedata
import zipfile
from pathlib import PurePath
from typing import Literal

READ = "a PDF, a TIFF or another image, or a Word file (.docx), a web page, a mail (.eml) or plain text"
"""What is read, for errors."""

TextKind = Literal["a Word file", "a web page", "a mail", "plain text"]
"""Files that are read without a picture."""

_BY_MARK = (
    (b"xl/", "an Excel file"),
    (b"ppt/", "a PowerPoint file"),
    (b"opendocument", "an OpenDocument file"),
    (b"epub+zip", "an EPUB"),
)
_BY_SUFFIX = {
    ".doc": "an old Word file", ".rtf": "an RTF file", ".odt": "an OpenDocument file", ".epub": "an EPUB",
    ".xlsx": "an Excel file", ".xls": "an Excel file", ".pptx": "a PowerPoint file", ".ppt": "a PowerPoint file",
    ".msg": "a mail of Outlook",
}  # fmt: skip
_NO_TEXT = {".pdf", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".gif", ".bmp", ".avif", ".heic", ".jp2"}
_WEB = re.compile(rb"<(html|!doctype html)\b|^\s*<(body|div|p|h[1-6]|table|ul|ol|article|section|main|form)[\s>]")
_MAIL = (b"from:", b"received:", b"return-path:", b"mime-version:", b"delivered-to:", b"message-id:", b"subject:")


def unread_kind(head: bytes, file: str = "") -> str | None:
    """Return what a file is that is neither an image nor a PDF, and what to do; None where that is not known.

    Args:
        head: its first bytes.
        file: its path, "" for none.
    """
    suffix, lower = PurePath(file).suffix.lower(), head.lower()
    kind = _BY_SUFFIX.get(suffix)
    if suffix in _NO_TEXT and head and _is_text(head):  # such as a page that says "not found", saved as a PDF
        return "text, whatever its name says: it is read under a name that ends in .txt or .html"
    if kind is None and head.startswith(b"PK"):
        kind = next((name for mark, name in _BY_MARK if mark in lower), "a ZIP archive")
    if kind is None and head.startswith(b"\xd0\xcf\x11\xe0"):
        kind = "an old Office file"
    return None if kind is None else f"{kind}: print it to a PDF, which is read"


def text_kind(head: bytes, data: bytes | None, file: str = "") -> TextKind | None:
    """Return which of the files that are read without a picture this is; None for none of them.

    Args:
        head: its first bytes.
        data: all of it, as far as that is known: a ZIP's list of files stands at its end.
        file: its path, "" for none.
    """
    suffix, lower = PurePath(file).suffix.lower(), head.lower()
    if suffix in _BY_SUFFIX or suffix in _NO_TEXT or not head:
        return None
    if head.startswith(b"PK"):
        return "a Word file" if _holds_word(data, file) else None
    if not _is_text(head):
        return None
    if suffix in (".html", ".htm", ".xhtml") or _WEB.search(lower):
        return "a web page"
    return "a mail" if suffix == ".eml" or lower.startswith(_MAIL) else "plain text"


def _holds_word(data: bytes | None, file: str) -> bool:
    try:
        with zipfile.ZipFile(file if data is None else io.BytesIO(data)) as archive:
            return "word/document.xml" in archive.namelist()
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError):
        return False


def _is_text(head: bytes) -> bool:
    """Whether bytes are text in UTF-8, in UTF-16 with its mark, or in a Western European page of 8 bits."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return all(_shows(each) for each in head[: len(head) // 2 * 2].decode("utf-16", "ignore"))
    text = head.decode("utf-8", "ignore")
    if len(text.encode()) >= len(head) - 3:
        return all(_shows(each) for each in text)
    control = sum(byte < 32 and byte not in b"\t\n\r\f\x1b" for byte in head)
    high = sum(byte > 126 for byte in head)
    return control == 0 and high < 0.2 * len(head) and 0x7F not in head


def _shows(character: str) -> bool:
    return character.isprintable() or character.isspace() or unicodedata.category(character) in ("Cf", "Co", "Cn")
