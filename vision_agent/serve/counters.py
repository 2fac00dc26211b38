"""What a server counts, in the text form of Prometheus. No label is a word of a client."""

import threading
from collections import defaultdict
from collections.abc import Iterator

SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""The upper bounds of all histograms."""
_HELP = {
    "requests_total": ("counter", "Requests by route and status."),
    "requests_running": ("gauge", "Requests that are worked on."),
    "requests_waiting": ("gauge", "Requests in the queue."),
    "requests_abandoned_total": ("counter", "Requests whose client left before the answer."),
    "prompt_tokens_total": ("counter", "Tokens that were read."),
    "completion_tokens_total": ("counter", "Tokens that were written."),
    "images_total": ("counter", "Images that came in requests."),
    "request_seconds": ("histogram", "Seconds from a request's arrival to the end of its answer, by route."),
    "queue_seconds": ("histogram", "Seconds that requests waited for their turn."),
    "first_token_seconds": ("histogram", "Seconds from a streamed request's arrival to its first words."),
    "token_seconds": ("histogram", "Seconds a token of an answer took, on the average of that answer."),
}


class Counters:
    """Counts, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[tuple[str, str], float] = defaultdict(float)
        self._seen: dict[tuple[str, str], list[float]] = {}

    def add(self, name: str, amount: float = 1, **labels: object) -> None:
        """Add to a counter or a gauge."""
        with self._lock:
            self._values[name, _labels(labels)] += amount

    def see(self, name: str, seconds: float, **labels: object) -> None:
        """Add one duration to a histogram."""
        with self._lock:
            row = self._seen.setdefault((name, _labels(labels)), [0.0] * (len(SECONDS) + 2))
            for place, bound in enumerate(SECONDS):
                row[place] += seconds <= bound
            row[-2] += 1
            row[-1] += seconds

    def value(self, name: str, **labels: object) -> float:
        """Return a counter's or a gauge's value."""
        with self._lock:
            return self._values.get((name, _labels(labels)), 0.0)

    def text(self) -> str:
        """Return all of it, as Prometheus reads it."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        with self._lock:
            values = sorted(self._values.items())
            seen = sorted((key, list(row)) for key, row in self._seen.items())
        for name, (kind, told) in _HELP.items():
            full = f"vision_agent_{name}"
            yield f"# HELP {full} {told}"
            yield f"# TYPE {full} {kind}"
            for (own, labels), value in values:
                if own == name:
                    yield f"{full}{_in_braces(labels)} {value:g}"
            for (own, labels), row in seen:
                if own != name:
                    continue
                for bound, count in zip((*(f"{each:g}" for each in SECONDS), "+Inf"), row[:-1], strict=True):
                    yield f"{full}_bucket{_in_braces(labels, bound)} {count:g}"
                yield f"{full}_sum{_in_braces(labels)} {row[-1]:.6f}"
                yield f"{full}_count{_in_braces(labels)} {row[-2]:g}"


def _labels(labels: dict[str, object]) -> str:
    return ",".join(f'{name}="{value}"' for name, value in sorted(labels.items()))


def _in_braces(labels: str, bound: str | None = None) -> str:
    inside = ",".join(part for part in (labels, "" if bound is None else f'le="{bound}"') if part)
    return f"{{{inside}}}" if inside else ""
