"""Lists of groups, such as the lines of an invoice: rows under a header, or rows that end in amounts.

An item is anchored by the row that has its amount. Other rows belong to the anchor above them (a description that
continues) or, where descriptions stand over their amounts, as on receipts, to the one below.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from vision_agent.documents.sheet import LOOSE_MARKS, Excerpt, Piece
from vision_agent.extract.lexicon import ITEM_CONCEPTS
from vision_agent.extract.rules.candidates import Candidate
from vision_agent.extract.rules.table_headers import Column, Header, column_of, find_headers, leaf_for
from vision_agent.extract.rules.view import Typed, View
from vision_agent.extract.target import Group, Leaf
from vision_agent.extract.values.coerce import readings

_STOPS = (
    "total",
    "subtotal",
    "tax",
    "cash",
    "change",
    "rounding",
    "service charge",
    "quantity total",
    "tax summary",
    "tax rate",
    "payment terms",
    "shipping",
)
_SKIPPED = ("discount",)
_TIMES = re.compile(
    r"(?P<quantity>\d+(?:[.,]\d+)?)\s*(?:[x\u00d7*@]|\bà)\s*(?=[$€£]?\s*(?:[A-Z]{2,3}\s*)?\d)", re.IGNORECASE
)
_CLOSE = 1.3  # text heights between an item and what continues it at a table's end
_MOST_ROWS = 4  # that stand apart from their anchor
_ROW_SCORE = 1.2  # log-odds of a value under a header's name
_BARE_SCORE = 0.2  # the same where no header names columns
_BY_NAME = {concept.name: concept for concept in ITEM_CONCEPTS}

Entry = tuple[Leaf, Candidate, Any]


@dataclass(frozen=True)
class Rows:
    """The items of a list.

    Attributes:
        rows: for each item its values: field, candidate, value.
        amounts: the line amounts, for sums.
    """

    rows: tuple[tuple[Entry, ...], ...] = ()
    amounts: tuple[Decimal, ...] = ()


@dataclass
class _Item:
    """An item while it is put together: what was found for each concept."""

    texts: dict[str, list[Excerpt]] = field(default_factory=dict)
    numbers: dict[str, Typed] = field(default_factory=dict)

    def empty(self) -> bool:
        return not self.texts and not self.numbers


def find_rows(view: View, group: Group) -> Rows:
    """Find the rows of a document that are items of a list; none where it has no such table."""
    for header in find_headers(view, group)[:3]:
        items = _under(view, header)
        rows = _entries(view, group, items, header.columns, _ROW_SCORE)
        if rows.rows:
            return rows
    if any(leaf.concept.name in ("amount", "unit price") for leaf in group.leaves()):
        columns = tuple(
            Column(_BY_NAME[name], 0.0, 0.0) for name in ("description", "quantity", "unit price", "amount")
        )
        return _entries(view, group, _bare(view), columns, _BARE_SCORE)
    return Rows()


def _body(view: View, header: Header) -> list[tuple[Piece, ...]]:
    """The rows between a header and what sums them up, over page ends too."""
    body: list[tuple[Piece, ...]] = []
    names = " ".join(piece.shape.text for row in header.sheet.rows[header.row : header.end] for piece in row)
    for sheet in view.sheets:
        if sheet.page.number < header.sheet.page.number:
            continue
        rows = sheet.rows
        if sheet is header.sheet:
            rows = rows[header.end :]
        else:  # a header that is printed again on the next page
            again = [
                index
                for index, row in enumerate(rows)
                if " ".join(piece.shape.text for piece in row) in names and len(row) > 1
            ]
            if not again:
                break
            rows = rows[again[0] + header.end - header.row :]
        for row in rows:
            if _stops(view, row):
                return body
            if not _labelled(view, row, _SKIPPED):
                body.append(row)
    return body


def _stops(view: View, row: Sequence[Piece]) -> bool:
    """A row that sums up: it begins with the label of a total or the like."""
    return _labelled(view, row, _STOPS)


def _labelled(view: View, row: Sequence[Piece], concepts: Sequence[str]) -> bool:
    lettered = [piece for piece in row if any(character.isalpha() for character in piece.text)]
    if not lettered:
        return False
    return any(
        label.concept in concepts and label.likeness * label.whole > 0.7 and label.excerpt.start <= 2
        for label in view.labels_in(lettered[0])
    )


def _under(view: View, header: Header) -> list[_Item]:
    """The items under a header."""
    body = _body(view, header)
    cells = [_cells(view, header.columns, row) for row in body]
    anchor = _anchor_column(cells, header.columns)
    if anchor is None:
        return [cell for cell in cells if len(cell.texts) + len(cell.numbers) > 1]
    anchored = [anchor in cell.numbers or anchor in cell.texts for cell in cells]
    text_column = next((column.concept.name for column in header.columns if not column.numeric), "description")
    over = _descriptions_over(cells, anchored, text_column)
    items: list[_Item] = []
    waiting: list[_Item] = []
    last = max(at for at, so in enumerate(anchored) if so)
    for at, (cell, anchors) in enumerate(zip(cells, anchored, strict=True)):
        if at > last and not over and not _goes_on(header, body[at - 1], body[at]):
            break
        if anchors:
            for before in waiting:
                _merge(cell, before, first=True)
            waiting = []
            items.append(cell)
        elif over:
            waiting = [*waiting, cell][-_MOST_ROWS:]
        elif items and cell.texts:
            _merge(items[-1], cell, first=False)
    return items


def _goes_on(header: Header, before: Sequence[Piece], row: Sequence[Piece]) -> bool:
    """Whether a row below the last item may continue it: close to it, and not under its numbers."""
    numeric = [column.x0 for column in header.columns if column.numeric and column.x0 > header.columns[0].x0]
    height = header.sheet.height
    close = row[0].page != before[0].page or row[0].y0 - before[0].y1 < _CLOSE * height
    return close and not (numeric and max(piece.x1 for piece in row) > max(numeric) + height)


def _anchor_column(cells: Sequence[_Item], columns: Sequence[Column]) -> str | None:
    """The column whose entries begin an item: the amount, if most items have one."""
    for name in ("amount", "unit price", "quantity"):
        filled = sum(name in cell.numbers for cell in cells)
        if filled and filled >= 0.3 * len(cells):
            return name
    numeric = [column.concept.name for column in columns if column.numeric]
    counts = {name: sum(name in cell.numbers for cell in cells) for name in numeric}
    best = max(counts, key=lambda name: counts[name], default=None)
    return best if best is not None and counts[best] >= 0.5 * len(cells) else None


def _descriptions_over(cells: Sequence[_Item], anchored: Sequence[bool], text: str) -> bool:
    """Whether descriptions stand over their amounts: the first anchor has none of its own, or only a code."""
    if not any(anchored):
        return False
    first = anchored.index(True)
    own = cells[first].texts.get(text, [])
    wordy = any(sum(character.isalpha() for character in excerpt.text) > 2 for excerpt in own)
    return first > 0 and not wordy and bool(cells[first - 1].texts)


def _merge(item: _Item, other: _Item, *, first: bool) -> None:
    for name, excerpts in other.texts.items():
        mine = item.texts.setdefault(name, [])
        mine[:] = [*excerpts, *mine] if first else [*mine, *excerpts]
    for name, typed in other.numbers.items():
        item.numbers.setdefault(name, typed)


def _cells(view: View, columns: Sequence[Column], row: Sequence[Piece]) -> _Item:
    """A row's pieces in their columns."""
    item = _Item()
    for piece in row:
        for part in _split(view, columns, piece):
            # With a column for it, "4 x 40" in a description is no quantity.
            counted = any(column.concept.name == "quantity" for column in columns)
            times = _TIMES.match(part.text) if counted else _TIMES.search(part.text)
            numbers = view.numbers(part)
            if times is not None and len(numbers) >= 2:  # "2 x 19.90"
                quantity = next(
                    (n for n in numbers if n.excerpt.start - part.start == times.start("quantity")), numbers[0]
                )
                price = next((n for n in numbers if n.excerpt.start - part.start >= times.end()), numbers[-1])
                item.numbers.setdefault("quantity", quantity)
                item.numbers.setdefault("unit price", price)
                if len(numbers) > 2 and numbers[-1].excerpt.start > price.excerpt.start:
                    item.numbers.setdefault("amount", numbers[-1])
                rest = Excerpt(piece, part.start, part.start + times.start()).stripped()
                if rest is not None and any(character.isalpha() for character in rest.text):
                    item.texts.setdefault("description", []).append(rest)
                continue
            typed = _number_of(view, part)
            if typed is not None and _is_worded(part, typed, columns):
                typed = None
            column = column_of(columns, part.x0, part.x1, numeric=typed is not None)
            if column is None:
                continue
            if column.numeric and typed is not None:
                item.numbers.setdefault(column.concept.name, typed)
            elif (place := part.stripped(LOOSE_MARKS)) is not None:
                item.texts.setdefault(column.concept.name, []).append(place)
    return item


def _split(view: View, columns: Sequence[Column], piece: Piece) -> list[Excerpt]:
    """A piece that runs under several columns, cut before and after the numbers at its ends."""
    under = [column for column in columns if min(piece.x1, column.x1) - max(piece.x0, column.x0) > 0]
    parts, start, end = [], 0, len(piece.tokens)
    if len(piece.tokens) > 1 and (len(under) > 1 or not any(column.numeric for column in under)):
        leading = [column for column in columns if column.numeric and column.x0 <= piece.x_at(0) + 3 * piece.height]
        if leading and re.fullmatch(r"\d{1,4}[.)]?", piece.tokens[0].word.text):
            parts.append(_tokens(piece, 0, 1))
            start = 1
        tail: list[Excerpt] = []
        while end - start > 1 and len(under) > 1 and _number_of(view, _tokens(piece, end - 1, end)) is not None:
            tail.insert(0, _tokens(piece, end - 1, end))
            end -= 1
        return [*parts, _tokens(piece, start, end), *tail]
    return [Excerpt.whole(piece)]


def _tokens(piece: Piece, start: int, end: int) -> Excerpt:
    last = end - 1
    return Excerpt(piece, piece.starts[start], piece.starts[last] + len(piece.tokens[last].word.text))


def _number_of(view: View, part: Excerpt) -> Typed | None:
    """The number that a part is, with no more than a currency, a unit or a mark beside it."""
    numbers = [*view.numbers(part), *view.numbers(part, percent=True)]
    if len(numbers) != 1:
        return None
    number = numbers[0]
    rest = part.text[: number.excerpt.start - part.start] + part.text[number.excerpt.end - part.start :]
    letters = sum(character.isalnum() for character in rest)
    return number if letters <= 3 or (number.number is not None and number.number.currency and letters <= 4) else None


def _is_worded(part: Excerpt, typed: Typed, columns: Sequence[Column]) -> bool:
    """Whether a number behind a word stands in a column of texts: "Ref 4471" is no amount."""
    word = part.text[: typed.excerpt.start - part.start]
    under = [column for column in columns if min(part.x1, column.x1) > max(part.x0, column.x0)]
    currency = typed.number is not None and typed.number.currency is not None
    lettered = sum(map(str.isalpha, word)) >= 2
    return lettered and not currency and bool(under) and not any(column.numeric for column in under)


def _bare(view: View) -> list[_Item]:
    """Items of a page whose columns have no names: rows above the sums that end in an amount."""
    items: list[_Item] = []
    waiting: list[Excerpt] = []
    sums = [
        (sheet, row)
        for sheet in view.sheets
        for row in sheet.rows
        if _labelled(view, row, ("total", "subtotal", "quantity total"))
    ]
    if not sums:
        return []
    last_sheet, last_row = sums[0]
    for row in last_sheet.rows[: last_sheet.rows.index(last_row)]:
        numbers = [typed for piece in row for typed in view.numbers(Excerpt.whole(piece))]
        priced = [
            typed
            for typed in numbers
            if typed.number is not None and (typed.number.decimals == 2 or typed.number.currency)
        ]
        texts = [Excerpt.whole(piece) for piece in row if _number_of(view, Excerpt.whole(piece)) is None]
        wordy = [
            text
            for text in texts
            if sum(character.isalpha() for character in text.text) > 2 and not _TIMES.search(text.text)
        ]
        if not priced or (len(priced) == 1 and priced[0].excerpt.piece is not row[-1] and len(row) > 2):
            labels = [
                label
                for piece in row
                for label in view.labels_in(piece)
                if label.likeness * label.lead > 0.8 and label.excerpt.start <= 1
            ]
            waiting = [] if labels or not wordy else [*waiting, *wordy][-2:]
            continue
        item = _Item(numbers={"amount": priced[-1]})
        times = next((match for piece in row if (match := _TIMES.search(piece.text))), None)
        counts = [
            typed for typed in numbers if typed.number is not None and typed.number.decimals == 0 and typed.value > 0
        ]
        if counts and (times is not None or counts[0].excerpt.start == 0):
            item.numbers["quantity"] = counts[0]
        if len(priced) > 1:
            item.numbers["unit price"] = priced[-2]
        described = [_before(text, priced) for text in wordy] or list(waiting)
        item.texts["description"] = [text for text in described if text is not None]
        waiting = []
        if item.texts["description"]:
            items.append(item)
    return items


def _before(text: Excerpt, numbers: Sequence[Typed]) -> Excerpt | None:
    """A text without the amounts that end it and the count that begins it."""
    ends = [typed.excerpt.start for typed in numbers if typed.excerpt.piece is text.piece]
    start = text.start + (len(lead[0]) if (lead := re.match(r"\d{1,3}\s*[x\u00d7]?\s+", text.text)) else 0)
    return Excerpt(text.piece, start, min(ends, default=text.end)).stripped()


def _entries(view: View, group: Group, items: Sequence[_Item], columns: Sequence[Column], score: float) -> Rows:
    """Items as values of the caller's fields; rows with next to nothing are left out."""
    rows: list[tuple[Entry, ...]] = []
    amounts: list[Decimal] = []
    leaves = list(group.leaves())
    for item in items:
        _move_codes(item)
        entries: list[Entry] = []
        for column in columns:
            leaf = leaf_for(group, column, columns)
            if leaf is None or any(entry[0] is leaf for entry in entries):
                continue
            candidate = _candidate(view, item, column.concept.name, leaf, score)
            if candidate is not None and (value := _accepted(leaf, candidate)) is not None:
                entries.append((leaf, candidate, value))
            elif candidate is not None and leaf.required and (stated := _stated(leaf, candidate)) is not None:
                entries.append((leaf, candidate, stated))  # the model itself says why it refuses it
        filled = {entry[0].path for entry in entries}
        lacking = [leaf for leaf in leaves if leaf.required and leaf.path not in filled]
        if entries and not (lacking and len(entries) < max(2, len(leaves) / 2)):
            rows.append(tuple(entries))
            if "amount" in item.numbers:
                amounts.append(item.numbers["amount"].value)
    return Rows(tuple(rows), tuple(amounts))


def _move_codes(item: _Item) -> None:
    """A number among a description's lines is the item's code."""
    described = item.texts.get("description", [])
    codes = [excerpt for excerpt in described if re.fullmatch(r"[\d\-/.]{4,}", excerpt.text)]
    if codes and len(codes) < len(described):
        item.texts["description"] = [excerpt for excerpt in described if excerpt not in codes]
        item.texts.setdefault("code", codes[:1])


def _candidate(view: View, item: _Item, name: str, leaf: Leaf, score: float) -> Candidate | None:
    if (typed := item.numbers.get(name)) is not None:
        return Candidate(typed.value, (typed.excerpt,), score + typed.weight, typed=typed)
    excerpts = item.texts.get(name)
    if not excerpts:
        return None
    if leaf.forms & {"date", "datetime"}:
        dates = [typed for excerpt in excerpts for typed in view.dates(excerpt)]
        return Candidate(dates[0].value, (dates[0].excerpt,), score + dates[0].weight) if dates else None
    if leaf.forms & {"number", "integer"}:
        numbers = [typed for excerpt in excerpts for typed in view.numbers(excerpt)]
        return Candidate(numbers[0].value, (numbers[0].excerpt,), score - 0.5) if numbers else None
    return Candidate(" ".join(excerpt.text for excerpt in excerpts), tuple(excerpts), score)


def _accepted(leaf: Leaf, candidate: Candidate) -> Any:
    for value in readings(leaf, candidate.value, candidate.text):
        accepted, checked = leaf.check(value)
        if accepted:
            return checked
    return None


def _stated(leaf: Leaf, candidate: Candidate) -> Any:
    """A number or a day as the field would have it, whatever its constraints say of it."""
    return next(
        (value for value in readings(leaf, candidate.value, candidate.text) if not isinstance(value, str)), None
    )
