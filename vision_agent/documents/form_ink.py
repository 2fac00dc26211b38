"""Features of a form's words, pieces, lines and links that its picture gives: other strokes, rules, walls of cells."""

from collections.abc import Sequence
from itertools import pairwise

from vision_agent.documents.form_links import Group
from vision_agent.documents.form_roles import Neighbours
from vision_agent.documents.form_segments import Features
from vision_agent.documents.page_ink import PageInk, edges_of
from vision_agent.documents.sheet import Piece, Token

_FAR = 3.0  # text heights beside a text in which rules are looked for


def gap_ink(rows: Sequence[Sequence[Token]], ink: PageInk) -> list[Features]:
    """Return features of each gap between neighbours, row by row."""
    found = []
    for row in rows:
        for left, right in pairwise(row):
            y0, y1 = min(left.y0, right.y0), max(left.y1, right.y1)
            (thick, dense), (other_thick, other_dense) = ink.print_of([left]), ink.print_of([right])
            ruled, other_ruled = ink.under(edges_of(left)), ink.under(edges_of(right))
            found.append(
                {
                    "wall": ink.walled((left.x1 - 1, y0, right.x0 + 2, y1)),
                    "left strokes": thick,
                    "right strokes": other_thick,
                    "change of strokes": other_thick - thick,
                    "change of ink": other_dense - dense,
                    "left ruled": ruled,
                    "right ruled": other_ruled,
                    "change of rule": other_ruled - ruled,
                    "gap ruled": ink.under((left.x1, y0, max(left.x1 + 2, right.x0), y1)),
                }
            )
    return found


def role_ink(pieces: Sequence[Piece], around: Sequence[Neighbours], ink: PageInk) -> list[Features]:
    """Return features of each piece: its print, rules around it, and how its neighbours differ."""
    prints = [ink.print_of(piece.tokens) for piece in pieces]
    far, found = _FAR * ink.height, []
    for piece, (thick, dense), near in zip(pieces, prints, around, strict=True):
        x0, y0, x1, y1 = edges_of(piece)
        features = {
            "strokes": thick,
            "ink": dense,
            "ruled": ink.under((x0, y0, x1, y1)),
            "ruled over": ink.ruled((x0, y0 - 0.6 * ink.height, x1, y0 + 0.1 * ink.height)),
            "ruled behind": ink.under((x1 + 0.1 * far, y0, x1 + far, y1)),
            "ruled before": ink.under((x0 - far, y0, x0 - 0.1 * far, y1)),
            "wall before": ink.walled((x0 - far, y0, x0, y1)),
            "wall behind": ink.walled((x1, y0, x1 + far, y1)),
        }
        for side in ("left", "right", "above", "below"):
            other = getattr(near, side)
            features[f"{side} strokes"] = 0.0 if other is None else prints[other][0] - thick
            features[f"{side} ink"] = 0.0 if other is None else prints[other][1] - dense
            features[f"{side} parted"] = -1.0 if other is None else _parted(piece, pieces[other], side, ink)
        found.append(features)
    return found


def _parted(piece: Piece, other: Piece, side: str, ink: PageInk) -> float:
    """How far a rule parts two neighbours."""
    if side in ("left", "right"):
        return ink.walled((min(piece.x1, other.x1), piece.y0, max(piece.x0, other.x0), piece.y1))
    x0, x1 = max(piece.x0, other.x0), min(piece.x1, other.x1)
    inset = 0.1 * ink.height
    return ink.ruled((x0, min(piece.y1, other.y1) - inset, max(x0 + 2, x1), max(piece.y0, other.y0) + inset))


def line_ink(pieces: Sequence[Piece], pairs: Sequence[tuple[int, int]], ink: PageInk) -> list[Features]:
    """Return features of two lines over each other."""
    far, found = _FAR * ink.height, []
    for upper, lower in pairs:
        one, other = pieces[upper], pieces[lower]
        x0, x1 = max(one.x0, other.x0), min(one.x1, other.x1)
        left, right = min(one.x0, other.x0), max(one.x1, other.x1)
        y0, y1 = one.y1 - 0.3 * ink.height, max(other.y0 + 0.2 * ink.height, one.y1 + 1)
        (thick, dense), (other_thick, other_dense) = ink.print_of(one.tokens), ink.print_of(other.tokens)
        found.append(
            {
                "ruled between": ink.ruled((min(x0, x1 - 2), y0, max(x1, x0 + 2), y1)),
                "rule on the left": ink.ruled((left - far, y0, left, y1)),
                "rule on the right": ink.ruled((right, y0, right + far, y1)),
                "change of strokes": other_thick - thick,
                "change of ink": other_dense - dense,
                "upper strokes": thick,
                "lower ruled": ink.under(edges_of(other)),
            }
        )
    return found


def link_ink(groups: Sequence[Group], pairs: Sequence[tuple[int, int]], ink: PageInk) -> list[Features]:
    """Return features of labels with texts."""
    prints = [ink.print_of([token for line in group.lines for token in line.tokens])[0] for group in groups]
    boxes = [group.box for group in groups]
    ruled = [ink.under(box) for box in boxes]
    found = []
    for label, text in pairs:
        q, a = boxes[label], boxes[text]
        y0, y1 = max(q[1], a[1]), min(q[3], a[3])
        x0, x1 = max(q[0], a[0]), min(q[2], a[2])
        found.append(
            {
                "ruled between": ink.ruled((min(x0, x1), q[3], max(x0, x1), a[1])) if a[1] > q[3] else 0.0,
                "wall between": ink.walled((q[2], y0, a[0], max(y0 + 2, y1))) if a[0] > q[2] else 0.0,
                "change of strokes": prints[text] - prints[label],
                "text ruled": ruled[text],
                "label ruled": ruled[label],
            }
        )
    return found


def with_ink(found: Sequence[Features], more: Sequence[Features]) -> list[Features]:
    """Return features with those of the picture."""
    return [{**one, **other} for one, other in zip(found, more, strict=True)]
