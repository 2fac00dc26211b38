"""Lines of a form that are one text: an address of three lines, a label of two."""

from collections.abc import Sequence

from vision_agent.documents.form_roles import ROLES, Neighbours, Roles
from vision_agent.documents.form_segments import Features
from vision_agent.documents.sheet import Piece

_MOST_STACKED = 12


def line_pairs(pieces: Sequence[Piece], around: Sequence[Neighbours], height: float) -> list[tuple[int, int]]:
    """Return neighbours over each other that may be lines of one text, upper one first."""
    pairs = set()
    for index, near in enumerate(around):
        if near.above is not None:
            pairs.add((near.above, index))
        if near.below is not None:
            pairs.add((index, near.below))
    return sorted((upper, lower) for upper, lower in pairs if pieces[lower].y0 - pieces[upper].y1 < 1.5 * height)


def line_features(
    pieces: Sequence[Piece],
    around: Sequence[Neighbours],
    looks: Sequence[Features],
    roles: Sequence[Roles],
    pairs: Sequence[tuple[int, int]],
    height: float,
) -> list[Features]:
    """Return features of two lines over each other.

    Args:
        pieces: of a page.
        around: their neighbours.
        looks: what each looks like, from `role_features`.
        roles: chances of the roles of each.
        pairs: indexes of the upper and the lower one.
        height: the usual height of text, pixels.
    """
    right = max((piece.x1 for piece in pieces), default=1.0)
    rows: dict[int, list[int]] = {}
    for index, piece in enumerate(pieces):
        rows.setdefault(piece.row, []).append(index)
    stacks = [_stack(pieces, around, index, height) for index in range(len(pieces))]
    found = []
    for upper, lower in pairs:
        one, other = pieces[upper], pieces[lower]
        next_gap, before = around[lower].below, around[upper].above
        stack = stacks[upper] | stacks[lower]
        room = max(pieces[index].x1 for index in stack) - one.x1
        wide = room + one.x1 - min(pieces[index].x0 for index in stack)
        upper_row, lower_row = rows[one.row], rows[other.row]
        aligned = sum(
            any(abs(pieces[index].x0 - pieces[each].x0) < 0.7 * height for each in lower_row) for index in upper_row
        )
        found.append(
            {
                "gap": (other.y0 - one.y1) / height,
                "pitch": (other.middle - one.middle) / height,
                "next pitch": 9.0 if next_gap is None else (pieces[next_gap].middle - other.middle) / height,
                "pitch before": 9.0 if before is None else _bound((one.middle - pieces[before].middle) / height),
                "lines alike": float(len(stack)),
                "room in upper": _bound(room / height),
                "room for next word": _bound((room - (other.tokens[0].x1 - other.tokens[0].x0)) / height),
                "width of lines": _bound(wide / height),
                "letters' widths": _letter_width(other) / max(0.1, _letter_width(one)),
                "pieces in upper row": float(len(upper_row)),
                "pieces in lower row": float(len(lower_row)),
                "aligned in rows": float(aligned),
                "share aligned": aligned / min(len(upper_row), len(lower_row)),
                "place in upper row": float(upper_row.index(upper)),
                "place in lower row": float(lower_row.index(lower)),
                "rows between": float(other.row - one.row - 1),
                "left edges": _bound((other.x0 - one.x0) / height),
                "right edges": _bound((other.x1 - one.x1) / height),
                "centres": _bound((other.x0 + other.x1 - one.x0 - one.x1) / (2 * height)),
                "widths": min(9.0, (other.x1 - other.x0) / max(1.0, one.x1 - one.x0)),
                "heights": other.height / one.height,
                "room on the right": _bound((right - one.x1) / height),
                "nearest": float(around[lower].above == upper and around[upper].below == lower),
                "below is nearest": float(around[upper].below == lower),
                **{f"upper {name}": looks[upper][name] for name in _LOOKS},
                **{f"lower {name}": looks[lower][name] for name in _LOOKS},
                **{f"upper as {role}": roles[upper][role] for role in ROLES},
                **{f"lower as {role}": roles[lower][role] for role in ROLES},
                "in one role": sum(roles[upper][role] * roles[lower][role] for role in ROLES),
                **{f"over as {role}": _role(roles, before, role) for role in ROLES},
                **{f"under as {role}": _role(roles, next_gap, role) for role in ROLES},
                "both as question": roles[upper]["question"] * roles[lower]["question"],
                "both as answer": roles[upper]["answer"] * roles[lower]["answer"],
                "lower's left as question": _role(roles, around[lower].left, "question"),
                "upper's left as question": _role(roles, around[upper].left, "question"),
                "lower's right as answer": _role(roles, around[lower].right, "answer"),
                "upper's right as answer": _role(roles, around[upper].right, "answer"),
            }
        )
    return found


_LOOKS = (
    "own ends in colon",
    "own ends in stop",
    "own ends in comma",
    "own begins small",
    "own share of digits",
    "own share of capitals",
    "own words",
    "own has brackets",
    "left away",
    "right away",
    "left has colon",
    "pieces in row",
    "begin alike",
    "own letters",
    "own begins large",
    "own has colon",
    "own label words",
    "own first label word",
    "own is amount",
    "own has date",
    "own has initials",
    "own running words",
    "own large words",
)


def _stack(pieces: Sequence[Piece], around: Sequence[Neighbours], start: int, height: float) -> set[int]:
    """The lines over and under one that begin where it begins, close to each other."""
    found = {start}
    for side in ("above", "below"):
        last = start
        for _ in range(_MOST_STACKED):
            index = getattr(around[last], side)
            if index is None or abs(pieces[index].x0 - pieces[start].x0) > height:
                break
            if abs(pieces[index].middle - pieces[last].middle) > 2.6 * height:
                break
            found.add(index)
            last = index
    return found


def _letter_width(piece: Piece) -> float:
    """The mean width of its letters, pixels."""
    letters = sum(len(token.word.text) for token in piece.tokens)
    return sum(token.x1 - token.x0 for token in piece.tokens) / max(1, letters)


def _role(roles: Sequence[Roles], index: int | None, role: str) -> float:
    return -1.0 if index is None else roles[index][role]


def _bound(value: float) -> float:
    return max(-40.0, min(40.0, value))


def groups_of(count: int, pairs: Sequence[tuple[int, int]], chances: Sequence[float], least: float) -> list[list[int]]:
    """Return indexes of pieces as groups of lines: each continues at most one, and is continued by at most one."""
    after: dict[int, int] = {}
    before: dict[int, int] = {}
    for chance, (upper, lower) in sorted(zip(chances, pairs, strict=True), reverse=True):
        if chance < least:
            break
        if upper not in after and lower not in before:
            after[upper], before[lower] = lower, upper
    groups = []
    for index in range(count):
        if index not in before:
            group = [index]
            while group[-1] in after:
                group.append(after[group[-1]])
            groups.append(group)
    return groups
