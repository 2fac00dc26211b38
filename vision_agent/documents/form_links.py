"""Features that tell whether a text of a form was filled in for a label."""

from collections.abc import Sequence
from dataclasses import dataclass

from vision_agent.documents.form_roles import Roles
from vision_agent.documents.form_segments import Features, text_features
from vision_agent.documents.sheet import Piece

_LEAST_ROLE = 0.12  # chance of a role from which a text is looked at in it
_FAR = 40.0
_BELOW = 30.0  # text heights
_MOST_LABELS = 8  # that are looked at for one text on each side


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
    found = []
    for label, answer in pairs:
        q, a = boxes[label], boxes[answer]
        level = _level(q, a)
        between = [
            index
            for index in range(len(groups))
            if index not in (label, answer) and _stands_between(boxes[index], q, a, level)
        ]
        weights = [groups[index].roles["question"] for index in between]
        answers = [groups[index].roles["answer"] for index in between]
        rivals = [other for other in of_answer[answer] if other != label]
        others = [other for other in of_label[label] if other != answer]
        gap = _gap(q, a, height)
        strong = [(groups[other].roles["question"], boxes[other]) for other in rivals]
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
                "between": float(len(between)),
                "labels between": sum(weights),
                "surest label between": max(weights, default=0.0),
                "texts between": sum(answers),
                "surest text between": max(answers, default=0.0),
                "rivals level": max((chance for chance, box in strong if _level(box, a)), default=0.0),
                "rivals above": max((chance for chance, box in strong if not _level(box, a)), default=0.0),
                "nearest level rival": min(
                    (_gap(box, a, height) for chance, box in strong if _level(box, a) and chance > 0.4), default=_FAR
                ),
                "nearest rival above": min(
                    (_gap(box, a, height) for chance, box in strong if not _level(box, a) and chance > 0.4),
                    default=_FAR,
                ),
                "rank for text": float(
                    sum(
                        groups[other].roles["question"] > 0.4 and _gap(boxes[other], a, height) < gap
                        for other in rivals
                    )
                ),
                "rank for label": float(
                    sum(groups[other].roles["answer"] > 0.4 and _gap(q, boxes[other], height) < gap for other in others)
                ),
                "texts level": max(
                    (groups[other].roles["answer"] for other in others if _level(q, boxes[other])), default=0.0
                ),
                "texts below": float(
                    sum(groups[other].roles["answer"] > 0.5 and not _level(q, boxes[other]) for other in others)
                ),
                "nearest level text": min(
                    (
                        _gap(q, boxes[other], height)
                        for other in others
                        if _level(q, boxes[other]) and groups[other].roles["answer"] > 0.4
                    ),
                    default=_FAR,
                ),
            }
        )
    return found


_LOOKS = ("letters", "words", "share of digits", "share of capitals", "ends in colon", "has colon", "has brackets")


def _level(label: Sequence[float], text: Sequence[float]) -> bool:
    """Whether a label stands on the left of a text, at its height."""
    shared = min(label[3], text[3]) - max(label[1], text[1])
    return shared > 0.25 * min(label[3] - label[1], text[3] - text[1]) and label[0] < text[0]


def _gap(label: Sequence[float], text: Sequence[float], height: float) -> float:
    """How far a text is from its label, in text heights; downwards counts more."""
    across = max(0.0, text[0] - label[2], label[0] - text[2])
    down = 0.0 if _level(label, text) else max(0.0, text[1] - label[3])
    return min(_FAR, (across + 2 * down) / height)


def _stands_between(box: Sequence[float], label: Sequence[float], text: Sequence[float], level: bool) -> bool:
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    if level:
        shared = min(box[3], text[3]) - max(box[1], text[1])
        return label[2] - 2 < x < text[0] + 2 and shared > 0.3 * min(box[3] - box[1], text[3] - text[1])
    shared = min(box[2], text[2]) - max(box[0], text[0])
    return label[3] - 2 < y < text[1] + 2 and shared > 0


def _bound(value: float) -> float:
    return max(-_FAR, min(_FAR, value))
