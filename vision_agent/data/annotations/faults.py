"""What is wrong with a set of annotations: collected over the whole set, then told at once."""

from collections import Counter
from dataclasses import dataclass

from vision_agent.errors import AnnotationError

_TOLD_OF_A_KIND = 20


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        kind: in a few words, the same for all faults of its kind.
        file: the file that it is in.
        place: the annotation's id, a line, the number of a shape; "" for the file as a whole.
        detail: what was found.
    """

    kind: str
    file: str
    place: str = ""
    detail: str = ""

    def __str__(self) -> str:
        where = f"{self.file}, {self.place}" if self.place else self.file
        return f"{self.kind}: {where}" + (f": {self.detail}" if self.detail else "")


class Faults:
    """Collects faults.

    Attributes:
        found: all of them, in the order of the set.
        fatal: whether one spoils the whole set, so that leaving it out is no remedy.
    """

    def __init__(self) -> None:
        self.found: list[Fault] = []
        self.fatal = False

    def add(self, kind: str, file: object, place: str = "", detail: object = "", *, fatal: bool = False) -> None:
        """Add one; what is found is shortened."""
        told = str(detail)
        self.found.append(Fault(kind, str(file), place, told if len(told) <= 160 else told[:150] + "..."))
        self.fatal |= fatal

    def settle(self, skip_bad: bool, name: str) -> tuple[str, ...]:
        """Raise if there are faults; with `skip_bad` only if one is fatal. Return them all as sentences.

        Raises:
            AnnotationError: tells the number of each kind, and the first of each kind one by one.
        """
        if self.found and (self.fatal or not skip_bad):
            raise AnnotationError(self.told(name), tuple(map(str, self.found)))
        return tuple(map(str, self.found))

    def told(self, name: str) -> str:
        """Return the report: a line of counts, then faults line by line, at most twenty of a kind."""
        counts = Counter(fault.kind for fault in self.found)
        summed = ", ".join(f"{count} x {kind}" for kind, count in counts.most_common())
        lines = [f"{name!r} has {len(self.found)} fault{'s' * (len(self.found) > 1)}: {summed}"]
        for kind, count in counts.items():
            of_kind = [fault for fault in self.found if fault.kind == kind]
            lines += [f"  {fault}" for fault in of_kind[:_TOLD_OF_A_KIND]]
            if count > _TOLD_OF_A_KIND:
                lines.append(f"  {kind}: {count - _TOLD_OF_A_KIND} more")
        if not self.fatal:
            lines.append("mend the files, or leave the faulty parts out with --skip-bad (`skip_bad=True`)")
        return "\n".join(lines)
