"""Files that people take for documents and that are not read here, so that an error can name them."""

from pathlib import PurePath

_BY_MARK = (
    (b"word/", "a Word file"),
    (b"xl/", "an Excel file"),
    (b"ppt/", "a PowerPoint file"),
    (b"opendocument", "an OpenDocument file"),
    (b"epub+zip", "an EPUB"),
)
_BY_SUFFIX = {
    ".docx": "a Word file", ".doc": "a Word file", ".rtf": "a Word file", ".odt": "an OpenDocument file",
    ".xlsx": "an Excel file", ".xls": "an Excel file", ".pptx": "a PowerPoint file", ".ppt": "a PowerPoint file",
    ".eml": "a mail", ".msg": "a mail", ".html": "a web page", ".htm": "a web page", ".epub": "an EPUB",
}  # fmt: skip
_MAIL = (b"from:", b"received:", b"return-path:", b"mime-version:", b"delivered-to:", b"message-id:", b"subject:")


def unread_kind(head: bytes, file: str = "") -> str | None:
    """Return what a file is that is neither an image nor a PDF, and what to do; None where that is not known.

    Args:
        head: its first bytes.
        file: its path, "" for none.
    """
    kind = _BY_SUFFIX.get(PurePath(file).suffix.lower())
    lower = head.lower()
    if kind is None and head.startswith(b"PK"):
        kind = next((name for mark, name in _BY_MARK if mark in lower), "a ZIP archive")
    if kind is None and head.startswith(b"\xd0\xcf\x11\xe0"):
        kind = "an old Office file"
    if kind is None and (b"<html" in lower or b"<!doctype html" in lower):
        kind = "a web page"
    if kind is None and lower.startswith(_MAIL):
        kind = "a mail"
    if kind is None and head and _is_text(head):
        return "plain text, which needs no reading"
    return None if kind is None else f"{kind}: print it to a PDF, which is read"


def _is_text(head: bytes) -> bool:
    text = head.decode("utf-8", "ignore")
    return len(text.encode()) >= len(head) - 3 and all(each.isprintable() or each.isspace() for each in text)
