"""Whether a page was read at all: a recogniser that does not know a script writes little, or guesses."""

from collections.abc import Sequence

from vision_agent.documents.result import Line

_SURE = 0.88  # score of a line from which it counts as read
_LEAST_WIDE = 3.0  # line heights; shorter lines tell nothing
_MOST_UNREAD = 0.4  # of the width of all lines
_LONG, _WIDEST = 5.0, 3.0  # line heights of a line that is left blank, and of a character in it

WARNING = (
    "most lines are hardly read; they are blurred, or of a script that the reader does not know: "
    'give another recogniser, `ocr(..., recogniser="cyrillic_rec.onnx")`, or another `engine`'
)
LINES_WARNING = WARNING.replace("most lines are", "{count} of {all} lines are", 1)


def reading_warnings(lines: Sequence[Line]) -> tuple[str, ...]:
    """Return what makes the lines that were read from an image doubtful.

    Characters of running text are about half as wide as a line is high. Where a reader does not know the script, it
    leaves most of them out, however sure it is of the rest; or it is not sure.
    """
    whole = unread = 0.0
    blank = told = 0
    for line in lines:
        (x0, y0), (x1, y1), _, (x3, y3) = line.quad
        wide = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
        high = max(1.0, ((x3 - x0) ** 2 + (y3 - y0) ** 2) ** 0.5)
        if wide < _LEAST_WIDE * high:
            continue
        whole += wide
        told += 1
        # Hardly any letter where many have room: not blurred, but of a script that the reader does not know.
        blank += wide > _LONG * high and _WIDEST * len(line.text.replace(" ", "")) * high < wide
        if line.score < _SURE or len(line.text.replace(" ", "")) * high < wide:
            unread += wide
    if whole and unread > _MOST_UNREAD * whole:
        return (WARNING,)
    return (LINES_WARNING.format(count=blank, all=told),) if blank else ()
