"""Tables without lines: rows whose pieces of text stand in columns, with white between them."""

from collections.abc import Sequence
from statistics import median

from vision_agent.documents.partial_ruling import NUMERIC, columns_of
from vision_agent.documents.result import box_around
from vision_agent.documents.sheet import Piece, Sheet, Token
from vision_agent.documents.table import Cell, Table
from vision_agent.documents.writing_direction import words_in_order

_FEWEST_ROWS, _FEWEST_COLUMNS = 3, 3
_FULL = 0.8  # share of its column that running text fills, line for line
_NEAR = 1.8  # text heights between a row and the next of one table
_INDENT = 0.3  # text heights by which rows below a heading of their own begin further right
_MOST_NAME_ROWS = 3  # of names over names, at the top of a table
_MOST_NAME_WORDS = 6  # of a name over several columns


def gap_tables(sheet: Sheet, taken: set[int]) -> list[Table]:
    """Return the tables that stand in rows of at least three columns, but for pieces (by id) that are taken."""
    tables = []
    run: list[list[Piece]] = []
    rows = _with_labels_around([[piece for piece in row if id(piece) not in taken] for row in sheet.rows])
    for index, free in enumerate([*rows, []]):
        far = bool(run) and bool(free) and min(p.y0 for p in free) - max(p.y1 for p in run[-1]) > 1.8 * sheet.height
        following = rows[index + 1] if index + 1 < len(rows) else []
        more = index + 1 < len(rows) and len(rows[index + 1]) > 1
        if run and (not free or far or (len(free) < 2 and not _belongs(run, free, following, more))):
            tables += _gap_table(sheet, run)
            run = []
        if free and (len(free) > 1 or run):
            run.append(free)
    return tables + _gap_table(sheet, run)


def _with_labels_around(rows: Sequence[Sequence[Piece]]) -> list[list[Piece]]:
    """Rows, where a label of several lines stands around the middle of its numbers, with all of the label in them."""
    joined: list[list[Piece]] = []
    for row in rows:
        above = joined[-1] if joined else []
        lone, full = (above, row) if len(above) < len(row) else (row, above)
        if lone and len({id(piece) for piece in full}) >= _FEWEST_COLUMNS and _stands_beside(lone, full):
            joined[-1] = sorted([*above, *row], key=lambda piece: piece.x0)
        else:
            joined.append(list(row))
    return joined


def _stands_beside(lone: Sequence[Piece], row: Sequence[Piece]) -> bool:
    """Whether one piece shares the height of a row and stands left of all that the row has there."""
    numbers = [piece for piece in row if NUMERIC.fullmatch(piece.text)]
    if len(lone) != 1 or len(numbers) < 0.7 * len(row) - 1 or not numbers:
        return False
    shared = min(lone[0].y1, max(p.y1 for p in numbers)) - max(lone[0].y0, min(p.y0 for p in numbers))
    return shared > 0.3 * lone[0].height and lone[0].x1 < min(piece.x0 for piece in numbers)


def _belongs(run: Sequence[Sequence[Piece]], row: Sequence[Piece], following: Sequence[Piece], more: bool) -> bool:
    return _continues(run, row, more) or _is_section(run, row, following)


def _is_section(run: Sequence[Sequence[Piece]], row: Sequence[Piece], following: Sequence[Piece]) -> bool:
    """Whether a lone piece heads the rows below it, which begin further right."""
    if len(row) != 1 or len(following) < _FEWEST_COLUMNS or row[0].text[:1].islower():
        return False
    edge = min(piece.x0 for each in run for piece in each)
    height = row[0].height
    near = min(p.y0 for p in following) - row[0].y1 < _NEAR * height
    indented = _INDENT * height < following[0].x0 - row[0].x0 < 4 * height
    return near and indented and row[0].x0 < edge + _INDENT * height and row[0].x1 < following[1].x0


def _continues(run: Sequence[Sequence[Piece]], row: Sequence[Piece], more: bool) -> bool:
    """Whether a lone piece continues a cell of the row above; where `more` rows follow, it may stand further down."""
    above = [piece for piece in run[-1] if min(piece.x1, row[0].x1) - max(piece.x0, row[0].x0) > 0]
    close = (1.4 if more else 0.7) * row[0].height
    return len(above) == 1 and row[0].y0 - above[0].y1 < close and len(run) > 1


def _gap_table(sheet: Sheet, run: Sequence[Sequence[Piece]]) -> list[Table]:
    full = [row for row in run if len(row) >= _FEWEST_COLUMNS]
    if len(full) < _FEWEST_ROWS or len(full) < 0.5 * len(run):
        return []
    columns = columns_of(full)
    if len(columns) < _FEWEST_COLUMNS or _is_running_text(full, columns):
        return []
    texts: list[dict[int, list[tuple[Piece, Token]]]] = []
    spread: dict[tuple[int, int], int] = {}
    for index, row in enumerate(run):
        below = run[index + 1] if index + 1 < len(run) else []
        named = index <= _MOST_NAME_ROWS and not any(map(_is_numeric, run[:index]))
        if named and (over := _over_names(row, below, columns)) is not None:
            spread.update({(len(texts), first): last - first + 1 for first, last, _ in over})
            texts.append({first: [(piece, token) for token in piece.tokens] for first, _, piece in over})
            continue
        places: dict[int, list[tuple[Piece, Token]]] = {}
        for piece in row:
            for part in _over_columns(piece, columns):
                places.setdefault(_column(part[0].x0, part[-1].x1, columns), []).extend(
                    (piece, token) for token in part
                )
        if len(row) == 1 and texts and not _is_section(run[:index], row, below):
            for column, own in places.items():
                texts[-1].setdefault(column, []).extend(own)
        else:
            texts.append(places)
    cells = [
        Cell(
            row=index,
            column=column,
            column_span=spread.get((index, column), 1),
            text=cell_text(own),
            box=box_around([token.word.quad for _, token in own]),
        )
        for index, places in enumerate(texts)
        for column, own in sorted(places.items())
    ]
    box = box_around([token.word.quad for row in run for piece in row for token in piece.tokens])
    header = 1 + max((row for row, _ in spread), default=-1)
    plain = not any(character.isdigit() for cell in cells if cell.row == header for character in cell.text)
    header += plain or header > 0
    if header >= len(texts):
        return []
    if not header and not _has_numbers(cells, len(columns)):
        return []
    return [Table(rows=len(texts), columns=len(columns), cells=tuple(cells), header_rows=header, box=box)]


def _is_numeric(row: Sequence[Piece]) -> bool:
    """Whether most of a row is numbers: it names no columns."""
    return 2 * sum(bool(NUMERIC.fullmatch(piece.text)) for piece in row) > len(row)


def _over_names(
    row: Sequence[Piece], below: Sequence[Piece], columns: Sequence[tuple[float, float]]
) -> list[tuple[int, int, Piece]] | None:
    """Pieces that stand over several names of columns, with their first and last column; None for any other row.

    Such a name stands over the middle of its columns.
    """
    names = [piece for piece in below if not NUMERIC.fullmatch(piece.text)]
    if not row or len(row) >= len(below) or len(below) < _FEWEST_COLUMNS or len(names) < 0.8 * len(below):
        return None
    if any(len(piece.tokens) > _MOST_NAME_WORDS for piece in row):
        return None
    under = [{at for at, (x0, x1) in enumerate(columns) if piece.x0 < x1 and x0 < piece.x1} for piece in row]
    under = [own or {_column(p.x0, p.x1, columns)} for own, p in zip(under, row, strict=True)]
    found: list[tuple[int, int, Piece]] = []
    for index, (piece, own) in enumerate(zip(row, under, strict=True)):
        low = max(under[index - 1]) + 1 if index else 0
        high = min(under[index + 1]) - 1 if index + 1 < len(row) else len(columns) - 1
        if found:
            low = max(low, found[-1][1] + 1)
        if min(own) < low or max(own) > high:
            return None
        middle = (piece.x0 + piece.x1) / 2
        choices = [(first, last) for first in range(low, min(own) + 1) for last in range(max(own), high + 1)]
        first, last = min(
            choices,
            key=lambda each: (
                round(abs((columns[each[0]][0] + columns[each[1]][1]) / 2 - middle) / piece.height),
                each[1] - each[0],
            ),
        )
        found.append((first, last, piece))
    return found if any(last > first for first, last, _ in found) else None


def _has_numbers(cells: Sequence[Cell], columns: int) -> bool:
    """Whether half of the columns are of numbers: addresses and labels side by side are no table."""
    numeric = 0
    for column in range(columns):
        texts = [cell.text for cell in cells if cell.column == column]
        numeric += bool(texts) and sum(map(bool, map(NUMERIC.fullmatch, texts))) >= 0.6 * len(texts)
    return 2 * numeric >= columns


def _over_columns(piece: Piece, columns: Sequence[tuple[float, float]]) -> list[list[Token]]:
    """A piece as one part; cut at words that begin a column, where it reaches over several: "Pos. Description"."""
    parts = [[piece.tokens[0]]]
    for token in piece.tokens[1:]:
        here, before = _column(token.x0, token.x1, columns), _column(parts[-1][0].x0, parts[-1][-1].x1, columns)
        edges = columns[here]
        if here != before and min(token.x1, edges[1]) > max(token.x0, edges[0]) and piece.x1 > edges[0]:
            parts.append([token])
        else:
            parts[-1].append(token)
    return parts


def _column(x0: float, x1: float, columns: Sequence[tuple[float, float]]) -> int:
    """The column that is nearest to the middle of a stretch."""
    middle = (x0 + x1) / 2
    return min(range(len(columns)), key=lambda at: max(columns[at][0] - middle, middle - columns[at][1]))


def _is_running_text(rows: Sequence[Sequence[Piece]], columns: Sequence[tuple[float, float]]) -> bool:
    """Columns of a newspaper: most pieces fill their column, and hardly any is a number."""
    pieces = [piece for row in rows for piece in row]
    filled = []
    for piece in pieces:
        width = max(x1 - x0 for x0, x1 in columns if piece.x0 < x1 and x0 < piece.x1)
        filled.append((piece.x1 - piece.x0) / max(1.0, width))
    numeric = sum(any(character.isdigit() for character in piece.text) for piece in pieces) / len(pieces)
    words = median(len(piece.tokens) for piece in pieces)
    return median(filled) > _FULL and numeric < 0.2 and words > 3


def cell_text(own: Sequence[tuple[Piece, Token]]) -> str:
    """Return the words of a cell by the rows of the page they stand on."""
    by_row: dict[int, list[Token]] = {}
    for piece, token in own:
        by_row.setdefault(piece.row, []).append(token)
    rows = []
    for row in sorted(by_row):
        words = [token.word.text for token in sorted(by_row[row], key=lambda token: token.x0)]
        rows.append(" ".join(words[index] for index in words_in_order(words)))
    return "\n".join(rows)
