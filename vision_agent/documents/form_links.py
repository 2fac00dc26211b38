"""Features that tell whether a text of a form was filled in for a label."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vision_agent.documents.form_roles import Roles
from vision_agent.documents.form_segments import Features, text_features
from vision_agent.documents.sheet import Piece
from vision_agent.documents.tree_ensemble import Floats, Ints

_LEAST_ROLE = 0.12  # chance of a role from which a text is looked at in it
_FAR = 40.0
_BELOW = 45.0  # text heights
_MOST_LABELS = 12  # that are looked at for one text on each side


@dataclass(frozen=True)
class Group:
    """Lines that are one text.

    Attributes:
        lines: pieces from the top.
        roles: mean chances of its roles.
    """

    lines: tuple[Piece, ...]
    roles: Roles

    @property
    def text(self) -> str:
        return " ".join(line.text for line in self.lines)

    @property
    def box(self) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1 in the reading frame."""
        return (
            min(line.x0 for line in self.lines),
            min(line.y0 for line in self.lines),
            max(line.x1 for line in self.lines),
            max(line.y1 for line in self.lines),
        )


Boxes = Sequence[tuple[float, float, float, float]]


def link_pairs(groups: Sequence[Group], height: float) -> list[tuple[int, int]]:
    """Return indexes of labels and texts that may belong together: the label on the left, or above."""
    boxes = [group.box for group in groups]
    labels = [index for index, group in enumerate(groups) if group.roles["question"] >= _LEAST_ROLE]
    pairs = []
    for index, group in enumerate(groups):
        if group.roles["answer"] < _LEAST_ROLE:
            continue
        ax0, ay0, ax1, ay1 = boxes[index]
        left, above = [], []
        for label in labels:
            if label == index:
                continue
            qx0, qy0, qx1, qy1 = boxes[label]
            level = min(ay1, qy1) - max(ay0, qy0) > 0.25 * min(ay1 - ay0, qy1 - qy0)
            middle_gap = abs((ay0 + ay1 - qy0 - qy1) / 2) / height
            across = min(ax1, qx1) - max(ax0, qx0)
            if (level or middle_gap < 1.2) and qx0 < ax0 and qx1 < ax0 + 2 * height:
                left.append((ax0 - qx1 + 20 * height * (not level), label))
            elif qy1 <= ay0 + 0.7 * height and (ay0 - qy1) / height < _BELOW and across > -3 * height:
                above.append((ay0 - qy1 + 0.3 * max(0.0, -across), label))
        pairs += [(label, index) for side in (left, above) for _, label in sorted(side)[:_MOST_LABELS]]
    return pairs


def link_features(groups: Sequence[Group], pairs: Sequence[tuple[int, int]], height: float) -> list[Features]:
    """Return features of labels with texts.

    Args:
        groups: of a page.
        pairs: indexes of the label and the text.
        height: the usual height of text, pixels.
    """
    boxes = [group.box for group in groups]
    looks = [text_features(group.text, "own", {}) for group in groups]
    of_answer: dict[int, list[int]] = {}
    of_label: dict[int, list[int]] = {}
    for label, answer in pairs:
        of_answer.setdefault(answer, []).append(label)
        of_label.setdefault(label, []).append(answer)
    found: list[Features] = []
    if not pairs:
        return found
    edges = np.array(boxes)
    is_level = _levels(edges)
    levels: list[list[bool]] = is_level.tolist()
    gaps: list[list[float]] = _gaps(edges, is_level, height).tolist()
    between = _between(edges, np.array(pairs), is_level)
    question, is_answer = ([group.roles[role] for group in groups] for role in ("question", "answer"))
    counts = between.sum(axis=1).tolist()
    labels_between, answers_between = (np.where(between, role, 0.0) for role in (question, is_answer))
    sums = labels_between.sum(axis=1).tolist(), answers_between.sum(axis=1).tolist()
    surest = labels_between.max(axis=1).tolist(), answers_between.max(axis=1).tolist()
    for number, (label, answer) in enumerate(pairs):
        q, a = boxes[label], boxes[answer]
        level, gap = levels[label][answer], gaps[label][answer]
        rivals = [other for other in of_answer[answer] if other != label]
        others = [other for other in of_label[label] if other != answer]
        found.append(
            {
                "level": float(level),
                "across": _bound((a[0] - q[2]) / height),
                "down": _bound((a[1] - q[3]) / height),
                "first lines": _bound((groups[answer].lines[0].middle - groups[label].lines[0].middle) / height),
                "last to first line": _bound(
                    (groups[answer].lines[0].middle - groups[label].lines[-1].middle) / height
                ),
                "left edges": _bound((a[0] - q[0]) / height),
                "right edges": _bound((a[2] - q[2]) / height),
                "centres": _bound((a[0] + a[2] - q[0] - q[2]) / (2 * height)),
                "shared width": (min(a[2], q[2]) - max(a[0], q[0])) / max(1.0, min(a[2] - a[0], q[2] - q[0])),
                "gap": gap,
                "label lines": float(len(groups[label].lines)),
                "text lines": float(len(groups[answer].lines)),
                **{f"label as {role}": chance for role, chance in groups[label].roles.items()},
                **{f"text as {role}": chance for role, chance in groups[answer].roles.items()},
                **{f"label {name}": looks[label][f"own {name}"] for name in _LOOKS},
                **{f"text {name}": looks[answer][f"own {name}"] for name in _LOOKS},
                "between": float(counts[number]),
                "labels between": sums[0][number],
                "surest label between": surest[0][number],
                "texts between": sums[1][number],
                "surest text between": surest[1][number],
                "rivals level": max((question[other] for other in rivals if levels[other][answer]), default=0.0),
                "rivals above": max((question[other] for other in rivals if not levels[other][answer]), default=0.0),
                "nearest level rival": min(
                    (gaps[other][answer] for other in rivals if levels[other][answer] and question[other] > 0.4),
                    default=_FAR,
                ),
                "nearest rival above": min(
                    (gaps[other][answer] for other in rivals if not levels[other][answer] and question[other] > 0.4),
                    default=_FAR,
                ),
                "rank for text": float(sum(question[other] > 0.4 and gaps[other][answer] < gap for other in rivals)),
                "rank for label": float(sum(is_answer[other] > 0.4 and gaps[label][other] < gap for other in others)),
                "texts level": max((is_answer[other] for other in others if levels[label][other]), default=0.0),
                "texts below": float(sum(is_answer[other] > 0.5 and not levels[label][other] for other in others)),
                "nearest level text": min(
                    (gaps[label][other] for other in others if levels[label][other] and is_answer[other] > 0.4),
                    default=_FAR,
                ),
            }
        )
    return found


_LOOKS = (
    "letters",
    "words",
    "share of digits",
    "share of capitals",
    "ends in colon",
    "has colon",
    "has brackets",
    "is amount",
    "has date",
    "has initials",
    "has number's sign",
    "running words",
    "large words",
)


def _levels(edges: Floats) -> npt.NDArray[np.bool_]:
    """For each label and text of N boxes whether the label stands on the left of the text, at its height: (N, N)."""
    x0, y0, _, y1 = edges.T
    shared = np.minimum(y1[:, None], y1) - np.maximum(y0[:, None], y0)
    found: npt.NDArray[np.bool_] = (shared > 0.25 * np.minimum((y1 - y0)[:, None], y1 - y0)) & (x0[:, None] < x0)
    return found


def _gaps(edges: Floats, level: npt.NDArray[np.bool_], height: float) -> Floats:
    """How far each text is from each label, in text heights, (N, N) by label and text; downwards counts more."""
    x0, y0, x1, y1 = edges.T
    across = np.maximum(0.0, np.maximum(x0 - x1[:, None], x0[:, None] - x1))
    down = np.where(level, 0.0, np.maximum(0.0, y0 - y1[:, None]))
    found: Floats = np.minimum(_FAR, (across + 2 * down) / height)
    return found


def _between(edges: Floats, pairs: Ints, level: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which of N boxes stand between the label and the text of each of P pairs: (P, N)."""
    x0, y0, x1, y1 = edges.T
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    label, text = (edges[column][:, :, None] for column in pairs.T)
    high = np.minimum(y1, text[:, 3]) - np.maximum(y0, text[:, 1])
    wide = np.minimum(x1, text[:, 2]) - np.maximum(x0, text[:, 0])
    beside = (label[:, 2] - 2 < x) & (x < text[:, 0] + 2) & (high > 0.3 * np.minimum(y1 - y0, text[:, 3] - text[:, 1]))
    under = (label[:, 3] - 2 < y) & (y < text[:, 1] + 2) & (wide > 0)
    found: npt.NDArray[np.bool_] = np.where(level[pairs[:, 0], pairs[:, 1]][:, None], beside, under)
    found[np.arange(len(pairs))[:, None], pairs] = False
    return found


def _bound(value: float) -> float:
    return max(-_FAR, min(_FAR, value))
