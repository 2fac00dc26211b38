"""Lines of a form that are one text: an address of three lines, a label of two."""

from collections.abc import Sequence

from vision_agent.documents.form_roles import ROLES, Neighbours, Roles
from vision_agent.documents.form_segments import Features
from vision_agent.documents.sheet import Piece


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
    found = []
    for upper, lower in pairs:
        one, other = pieces[upper], pieces[lower]
        next_gap = around[lower].below
        found.append(
            {
                "gap": (other.y0 - one.y1) / height,
                "pitch": (other.middle - one.middle) / height,
                "next pitch": 9.0 if next_gap is None else (pieces[next_gap].middle - other.middle) / height,
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
)


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
