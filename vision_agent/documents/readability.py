"""Whether a page was read at all: a recogniser that does not know a script writes little, or guesses."""

from collections.abc import Sequence

from vision_agent.documents.result import Line

_SURE = 0.88  # score of a line from which it counts as read
_LEAST_WIDE = 3.0  # line heights; shorter lines tell nothing
_MOST_UNREAD = 0.4  # of the width of all lines

WARNING = (
    "most lines are hardly read; they are blurred, or of a script that the reader does not know: "
    'give another recogniser, `ocr(..., recogniser="cyrillic_rec.onnx")`, or another `engine`'
)


def reading_warnings(lines: Sequence[Line]) -> tuple[str, ...]:
    """Return what makes the lines that were read from an image doubtful.

    Characters of running text are about half as wide as a line is high. Where a reader does not know the script, it
    leaves most of them out, however sure it is of the rest; or it is not sure.
    """
    whole = unread = 0.0
    for line in lines:
        (x0, y0), (x1, y1), _, (x3, y3) = line.quad
        wide = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
        high = max(1.0, ((x3 - x0) ** 2 + (y3 - y0) ** 2) ** 0.5)
        if wide < _LEAST_WIDE * high:
            continue
        whole += wide
        if line.score < _SURE or len(line.text.replace(" ", "")) * high < wide:
            unread += wide
    return (WARNING,) if whole and unread > _MOST_UNREAD * whole else ()
