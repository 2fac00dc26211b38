"""Features that tell what a piece of a form is: a label, what was filled in, a heading, or something else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vision_agent.documents.form_segments import Features, text_features
from vision_agent.documents.sheet import Piece

ROLES = ("question", "answer", "header")
_FAR = 40.0


@dataclass(frozen=True)
class Neighbours:
    """The nearest pieces around one, by their indexes; None where there is none."""

    left: int | None
    right: int | None
    above: int | None
    below: int | None


def neighbours(pieces: Sequence[Piece]) -> list[Neighbours]:
    """Return for each piece the nearest ones in its row, and over and under it."""
    rows: dict[int, list[int]] = {}
    for index, piece in enumerate(pieces):
        rows.setdefault(piece.row, []).append(index)
    order = sorted(rows)
    place = {row: at for at, row in enumerate(order)}
    found = []
    for index, piece in enumerate(pieces):
        row = rows[piece.row]
        at = row.index(index)
        beyond = []
        for step in (-1, 1):
            nearest = None
            for number in range(1, 7):
                other = place[piece.row] + step * number
                if not 0 <= other < len(order):
                    break
                under = [
                    each
                    for each in rows[order[other]]
                    if min(piece.x1, pieces[each].x1) - max(piece.x0, pieces[each].x0) > -0.5 * piece.height
                    and step * (pieces[each].middle - piece.middle) > 0.3 * piece.height
                ]
                if under:
                    nearest = min(under, key=lambda each: abs(pieces[each].x0 - piece.x0))
                    break
            beyond.append(nearest)
        found.append(
            Neighbours(row[at - 1] if at else None, row[at + 1] if at + 1 < len(row) else None, beyond[0], beyond[1])
        )
    return found


def role_features(
    pieces: Sequence[Piece],
    around: Sequence[Neighbours],
    height: float,
    lexicon: Mapping[str, float],
) -> list[Features]:
    """Return features of each piece by itself and by what stands around it.

    Args:
        pieces: of a page, from the top.
        around: their neighbours.
        height: the usual height of text, pixels.
        lexicon: how much a word speaks for a label.
    """
    if not pieces:
        return []
    x0, x1 = min(piece.x0 for piece in pieces), max(piece.x1 for piece in pieces)
    y0, y1 = min(piece.y0 for piece in pieces), max(piece.y1 for piece in pieces)
    wide, high = max(1.0, x1 - x0), max(1.0, y1 - y0)
    texts = [text_features(piece.text, "own", lexicon) for piece in pieces]
    in_row: dict[int, int] = {}
    for piece in pieces:
        in_row[piece.row] = in_row.get(piece.row, 0) + 1
    found = []
    for index, (piece, near) in enumerate(zip(pieces, around, strict=True)):
        features = {
            **texts[index],
            "left edge": (piece.x0 - x0) / wide,
            "right edge": (piece.x1 - x0) / wide,
            "width": (piece.x1 - piece.x0) / wide,
            "down": (piece.y0 - y0) / high,
            "height": piece.height / height,
            "off centre": abs((piece.x0 + piece.x1) / 2 - (x0 + x1) / 2) / wide,
            "pieces in row": float(in_row[piece.row]),
            "begin alike": float(sum(abs(each.x0 - piece.x0) < 0.5 * height for each in pieces)),
            "label words of page": sum(text["own ends in colon"] for text in texts) / len(texts),
        }
        for side in ("left", "right", "above", "below"):
            other = getattr(near, side)
            distance = _FAR
            if other is not None:
                distance = _distance(piece, pieces[other], side) / height
            features[f"{side} away"] = min(_FAR, distance)
            for name in (
                "share of digits",
                "share of capitals",
                "ends in colon",
                "has colon",
                "label words",
                "words",
                "letters",
                "is amount",
                "running words",
            ):
                features[f"{side} {name}"] = -1.0 if other is None else texts[other][f"own {name}"]
            if side in ("above", "below"):
                features[f"{side} edge"] = (
                    _FAR if other is None else max(-_FAR, min(_FAR, (pieces[other].x0 - piece.x0) / height))
                )
        found.append(features)
    return found


def _distance(piece: Piece, other: Piece, side: str) -> float:
    return {
        "left": piece.x0 - other.x1,
        "right": other.x0 - piece.x1,
        "above": piece.y0 - other.y1,
        "below": other.y0 - piece.y1,
    }[side]


Roles = Mapping[str, float]


def with_roles(found: Sequence[Features], around: Sequence[Neighbours], roles: Sequence[Roles]) -> list[Features]:
    """Return features with the chances of the roles of a piece and of its neighbours, as a first look gave them."""
    told = []
    for index, (features, near) in enumerate(zip(found, around, strict=True)):
        more = dict(features)
        for side in ("own", "left", "right", "above", "below"):
            other = index if side == "own" else getattr(near, side)
            for role in ROLES:
                more[f"{side} as {role}"] = -1.0 if other is None else roles[other][role]
        told.append(more)
    return told
