"""Word files, web pages, mails and plain text as parts in reading order. Nothing they point to is fetched.

Word files need python-docx and web pages lxml, which comes with it (extra `office`); mails and plain text need nothing.
"""

import email.policy
import io
import re
import zipfile
from collections.abc import Iterator
from email.message import EmailMessage
from email.parser import BytesParser
from typing import Any, Literal

from vision_agent.documents.file_kinds import TextKind
from vision_agent.documents.text_flow import FlowPart, PartKind, table_part
from vision_agent.errors import DocumentError, MissingExtraError

_MOST_UNPACKED = 256 * 2**20  # bytes of a Word file's parts
_SPACES = re.compile(r"[ \t\r\f\v\u00a0]+")


def parts_of(data: bytes, kind: TextKind, name: str) -> list[FlowPart]:
    """Return what a file holds.

    Args:
        data: the file.
        kind: what it is.
        name: what the caller calls it, for messages.

    Raises:
        DocumentError: it is broken.
        MissingExtraError: the library that reads it is not installed.
    """
    if kind == "a Word file":
        return _word_parts(data, name)
    if kind == "a web page":
        return list(_web_parts(data, name))
    return list(_mail_parts(data, name)) if kind == "a mail" else _text_parts(_decoded(data))


def _missing(kind: str, library: str) -> MissingExtraError:
    return MissingExtraError(f'reading {kind} needs {library}: pip install "internvl-vision-agent[office]"')


def _text_parts(text: str) -> list[FlowPart]:
    """Plain text as it stands: its columns stay under each other; a form feed begins a page."""
    found = []
    for number, page in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\f")):
        for index, part in enumerate(re.split(r"\n[ \t]*\n", page)):
            if part.strip():
                found.append(FlowPart(part.strip("\n"), new_page=number > 0 and index == 0, as_is=True))
    return found


def _decoded(data: bytes) -> str:
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if data.startswith(mark):
            return data.decode(encoding, "replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


# --- Word


def _word_parts(data: bytes, name: str) -> list[FlowPart]:
    try:
        import docx
    except ImportError as error:
        raise _missing("a Word file", "python-docx") from error
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            unpacked = sum(info.file_size for info in archive.infolist())
        if unpacked > _MOST_UNPACKED:
            raise DocumentError(
                f"`{name}` must be a Word file of at most {_MOST_UNPACKED} bytes unpacked, but got {unpacked}"
            )
        document = docx.Document(io.BytesIO(data))
        section = document.sections[0] if len(document.sections) else None
        first = bool(section and section.different_first_page_header_footer)
        parts = list(_word_blocks(document.element.body, document))
        if section is not None:
            head, foot = (
                (section.first_page_header, section.first_page_footer) if first else (section.header, section.footer)
            )
            parts = [
                *_of_kind(_word_blocks(head._element, document), "header"),
                *parts,
                *_of_kind(_word_blocks(foot._element, document), "footer"),
            ]
        return parts
    except DocumentError:
        raise
    except Exception as error:  # python-docx lets all errors of broken archives and of lxml through
        raise DocumentError(f"`{name}` must be a complete Word file, but got one that is broken ({error})") from error


def _of_kind(parts: Iterator[FlowPart], kind: Literal["header", "footer"]) -> list[FlowPart]:
    return [part if part.cells else FlowPart(part.text, kind) for part in parts]


_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_LEFT_OUT = {f"{_W}{each}" for each in ("del", "moveFrom", "instrText", "pPr", "rPr")} | {
    "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
}


def _word_blocks(parent: Any, document: Any) -> Iterator[FlowPart]:
    """Paragraphs and tables, also those inside of content controls."""
    for child in parent:
        if child.tag == f"{_W}p":
            yield from _word_paragraph(child, document)
        elif child.tag == f"{_W}tbl":
            table = table_part([list(_word_cells(row)) for row in child.iterchildren(f"{_W}tr")])
            if table is not None:
                yield table
        elif child.tag in (f"{_W}sdt", f"{_W}sdtContent", f"{_W}ins"):
            yield from _word_blocks(child, document)


def _word_cells(row: Any) -> Iterator[tuple[str, int, int]]:
    for cell in row.iter(f"{_W}tc"):
        if next(cell.iterancestors(f"{_W}tr")) is not row:
            continue  # of a table inside a cell, whose text that cell has
        span = cell.find(f"{_W}tcPr/{_W}gridSpan")
        text = "\n".join(_word_text(paragraph) for paragraph in cell.iter(f"{_W}p"))
        goes_on = cell.find(f"{_W}tcPr/{_W}vMerge")
        if goes_on is not None and goes_on.get(f"{_W}val") != "restart":
            text = ""
        yield text, 1, int(span.get(f"{_W}val") or 1) if span is not None else 1


def _word_text(paragraph: Any) -> str:
    """What a paragraph shows: without what was deleted, and without text in boxes."""
    found: list[str] = []

    def walk(element: Any) -> None:
        for child in element:
            if child.tag in _LEFT_OUT or child.tag == f"{_W}txbxContent":
                continue
            if child.tag == f"{_W}t":
                found.append(child.text or "")
            elif child.tag == f"{_W}tab":
                found.append("    ")
            elif child.tag in (f"{_W}br", f"{_W}cr"):
                found.append("\n")
            elif child.tag == f"{_W}noBreakHyphen":
                found.append("-")
            else:
                walk(child)

    walk(paragraph)
    return "".join(found).strip()


def _word_paragraph(paragraph: Any, document: Any) -> Iterator[FlowPart]:
    text = _word_text(paragraph)
    if text:
        style = paragraph.find(f"{_W}pPr/{_W}pStyle")
        number = paragraph.find(f"{_W}pPr/{_W}numPr")
        names = {each.style_id: each.name or "" for each in document.styles}
        named = names.get(style.get(f"{_W}val"), "") if style is not None else ""
        heading = re.fullmatch(r"[Hh]eading ([1-9])", named)
        if heading or named == "Title":
            yield FlowPart(text, "title", int(heading[1]) if heading else 1)
        elif number is not None or named.startswith("List"):
            yield FlowPart(text if text[:1] in "•-*" else f"• {text}", "list")
        else:
            yield FlowPart(text)
    for box in paragraph.iter(f"{_W}txbxContent"):
        if not any(parent.tag in _LEFT_OUT for parent in box.iterancestors()):
            yield from _word_blocks(box, document)


# --- web pages

_HIDDEN = {"script", "style", "head", "template", "noscript", "svg", "iframe", "object"}
_INLINE = set(
    "a abbr b bdi bdo cite code data del dfn em font i ins kbd label mark q s samp small span strong sub sup time tt u "
    "var wbr input button select option textarea img picture big center".split()
)


def _web_parts(data: bytes, name: str) -> Iterator[FlowPart]:
    try:
        from lxml import etree, html
    except ImportError as error:
        raise _missing("a web page", "lxml") from error
    encoding = "utf-8"
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        encoding = ""
    try:
        # A page that says nothing of its encoding is in UTF-8 where it can be, else what its own mark says.
        root = html.fromstring(data, parser=html.HTMLParser(encoding=encoding or None, no_network=True))
    except (etree.LxmlError, ValueError) as error:
        if not data.strip() or "empty" in str(error).lower():
            return
        raise DocumentError(f"`{name}` must be a web page, but got one that is broken ({error})") from error
    yield from _Web().parts(root)


class _Web:
    """Walks a web page, and gathers text up to the next block."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._found: list[FlowPart] = []

    def parts(self, root: Any) -> list[FlowPart]:
        """Return all parts under an element."""
        self._walk(root)
        self._flush()
        return self._found

    def _flush(self, kind: PartKind = "text", level: int | None = None) -> None:
        text = _tidy("".join(self._text))
        self._text = []
        if text:
            self._found.append(FlowPart(f"• {text}" if kind == "list" else text, kind, level))

    def _walk(self, element: Any) -> None:
        tag = element.tag if isinstance(element.tag, str) else ""
        if not tag or tag in _HIDDEN or _is_hidden(element):
            return
        if tag == "br":
            self._text.append("\n")
        elif tag == "input":
            self._text.append(_input_text(element))
        elif tag == "table" and (table := _web_table(element)) is not None:
            self._flush()
            for caption in element.iterchildren("caption"):
                self._inside(caption)
                self._flush("caption")
            self._found.append(table)
        elif tag == "pre":
            self._flush()
            self._found.append(FlowPart(element.text_content().strip("\n"), "code", as_is=True))
        elif tag in _INLINE:
            self._inside(element)
        else:
            if tag != "dd":  # which goes on in the line of its term
                self._flush()
            self._inside(element)
            if re.fullmatch("h[1-6]", tag):
                self._flush("title", int(tag[1]))
            elif tag == "dt":
                self._text.append(": " if "".join(self._text).strip()[-1:] not in (":", "") else " ")
            else:
                self._flush("list" if tag == "li" else "text")

    def _inside(self, element: Any) -> None:
        self._text.append(_SPACES.sub(" ", (element.text or "").replace("\n", " ")))
        for child in element:
            self._walk(child)
            self._text.append(_SPACES.sub(" ", (child.tail or "").replace("\n", " ")))


def _is_hidden(element: Any) -> bool:
    style = (element.get("style") or "").replace(" ", "").lower()
    return "hidden" in element.attrib or "display:none" in style or element.get("type") == "hidden"


def _input_text(element: Any) -> str:
    kind = (element.get("type") or "text").lower()
    if kind in ("checkbox", "radio"):
        return " [x] " if "checked" in element.attrib else " [ ] "
    return f" {element.get('value') or ''} " if kind in ("text", "number", "date", "email", "tel", "url") else ""


def _tidy(text: str) -> str:
    return "\n".join(line for line in (_SPACES.sub(" ", each).strip() for each in text.split("\n")) if line)


def _web_table(element: Any) -> FlowPart | None:
    """A table of data: none inside it, and somewhere two cells side by side. Others only place what is in them."""
    if element.find(".//table") is not None:
        return None
    rows = []
    named = [all(cell.tag == "th" for cell in row if cell.tag in ("td", "th")) for row in element.iter("tr")]
    for row in element.iter("tr"):
        cells = [cell for cell in row if cell.tag in ("td", "th") and not _is_hidden(cell)]
        texts = ["\n".join(part.text for part in _Web().parts(cell)) for cell in cells]
        rows.append([(text, *_spans(cell)) for text, cell in zip(texts, cells, strict=True)])
    heads = max(1, [*named, False].index(False))
    return table_part(rows, heads) if len(rows) > 1 and any(len(row) > 1 for row in rows) else None


def _spans(cell: Any) -> tuple[int, int]:
    found = [re.match(r"\d{1,3}", cell.get(name) or "") for name in ("rowspan", "colspan")]
    high, wide = (int(match[0]) if match else 1 for match in found)
    return max(1, high), max(1, min(wide, 100))


# --- mails

_HEADERS = ("From", "To", "Cc", "Date", "Subject")


def _mail_parts(data: bytes, name: str) -> Iterator[FlowPart]:
    message = BytesParser(_class=EmailMessage, policy=email.policy.default).parsebytes(data)
    yield FlowPart("\n".join(f"{key}: {message[key]}" for key in _HEADERS if message[key]))
    body = message.get_body(("plain", "html"))
    if body is not None:
        raw = body.get_payload(decode=True)
        content = raw if isinstance(raw, bytes) else b""
        charset = body.get_content_charset("utf-8")
        try:
            text = content.decode(charset, "replace")
        except LookupError:
            text = _decoded(content)
        yield from _text_parts(text) if body.get_content_subtype() == "plain" else _web_parts(text.encode(), name)
    names = [part.get_filename() for part in message.iter_attachments() if part.get_filename()]
    if names:
        yield FlowPart("\n".join(f"Attachment: {each}" for each in names))
