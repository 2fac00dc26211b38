"""What a benchmark gives: figures, each with its sample size and a 95 % interval."""

from collections.abc import Hashable, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from vision_agent.benchmark.intervals import Floats, bootstrap, f1_of, ratio, wilson


class Score(BaseModel):
    """One figure of a benchmark.

    Attributes:
        benchmark: its name and part, such as "refcoco:testA".
        metric: what was measured.
        value: the figure; shares are 0-1.
        low, high: bounds of its 95 % interval; None where a single image tells nothing of it.
        interval: how they were found.
        count: of how many.
        of: what was counted.
    """

    model_config = ConfigDict(frozen=True)

    benchmark: str
    metric: str
    value: float
    low: float | None
    high: float | None
    interval: str
    count: int
    of: str


class BenchmarkReport(BaseModel):
    """All figures of a run.

    Attributes:
        model: what was measured.
        scores: the figures, benchmark by benchmark.
        failed: questions of each benchmark that got an error for an answer; they count as wrong.
        files: the predictions, in the form that the benchmarks' servers take.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    scores: tuple[Score, ...]
    failed: dict[str, int]
    files: tuple[str, ...]

    def to_markdown(self) -> str:
        """Return the figures as a Markdown table."""
        lines = ["| benchmark | metric | value | 95 % interval | measured over |", "|---|---|---|---|---|"]
        lines += [
            f"| {each.benchmark} | {each.metric} | {each.value:.4f} | {_interval(each)} | {each.count} {each.of} |"
            for each in self.scores
        ]
        lines += [
            f"\n{name}: {count} failed, and count as wrong; see the records" for name, count in self.failed.items()
        ]
        return "\n".join(lines)


def _interval(score: Score) -> str:
    if score.low is None or score.high is None:
        return "unknown"
    return f"{score.low:.4f} to {score.high:.4f} ({score.interval})"


def share(benchmark: str, metric: str, hits: Sequence[bool], of: str) -> Score:
    """Return the share of what is right."""
    right = sum(hits)
    low, high = wilson(right, len(hits))
    value = right / len(hits) if hits else 0.0
    return Score(
        benchmark=benchmark,
        metric=metric,
        value=value,
        low=low,
        high=high,
        interval="Wilson",
        count=len(hits),
        of=of,
    )


def mean(benchmark: str, metric: str, values: Sequence[float], images: Sequence[Hashable], of: str) -> Score:
    """Return the mean of numbers, one a question."""
    value = sum(values) / len(values) if values else 0.0
    return quotient(benchmark, metric, value, [(each, 1.0) for each in values], images, of)


def quotient(
    benchmark: str,
    metric: str,
    value: float,
    rows: Sequence[tuple[float, float]],
    images: Sequence[Hashable],
    of: str,
) -> Score:
    """Return a sum over a sum, with its bootstrap."""
    return _drawn(benchmark, metric, value, bootstrap(rows, images, ratio), len(rows), of)


def f1_score(
    benchmark: str, metric: str, said: Sequence[bool], true: Sequence[bool], images: Sequence[Hashable], of: str
) -> Score:
    """Return the F1 of what was said against what is true."""
    rows = [(float(s and t), float(s), float(t)) for s, t in zip(said, true, strict=True)]
    both, found, there = (sum(row[place] for row in rows) for place in range(3))
    precision, recall = both / found if found else 0.0, both / there if there else 0.0
    value = 2 * precision * recall / (precision + recall) if both else 0.0
    return _drawn(benchmark, metric, value, bootstrap(rows, images, f1_of), len(rows), of)


def mean_f1_score(
    benchmark: str,
    metric: str,
    said: Sequence[bool],
    true: Sequence[bool],
    groups: Sequence[str],
    images: Sequence[Hashable],
    of: str,
) -> Score:
    """Return the mean of the F1 of each group."""
    names = sorted(set(groups))
    rows = [
        [float(group == name and each) for name in names for each in (s and t, s, t)]
        for s, t, group in zip(said, true, groups, strict=True)
    ]
    value = float(_mean_f1(np.sum(rows, axis=0, keepdims=True))[0])
    return _drawn(benchmark, metric, value, bootstrap(rows, images, _mean_f1), len(rows), of)


def _mean_f1(sums: Floats) -> Floats:
    each = [f1_of(sums[:, place : place + 3]) for place in range(0, sums.shape[1], 3)]
    means: Floats = np.mean(each, axis=0)
    return means


def _drawn(benchmark: str, metric: str, value: float, bounds: tuple[float, float] | None, count: int, of: str) -> Score:
    return Score(
        benchmark=benchmark,
        metric=metric,
        value=value,
        low=bounds[0] if bounds else None,
        high=bounds[1] if bounds else None,
        interval="bootstrap",
        count=count,
        of=of,
    )
