"""Runs verbs on the CPU and on pretended accelerators, and says where they differ: a program with a process of its own.

    python tests/accelerators/scenarios.py default one     # the shipped model on one device
    python tests/accelerators/scenarios.py default two     # ... spread over two

Prints a table: what was run, how often the host waited for the device, and what differs from the CPU. With `--json` a
file for the tests; with `--lines`, the lines that waited.
"""

import argparse
import json
import math
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pretend
import torch
from PIL import Image
from pydantic import BaseModel
from torch import Tensor

Scenario = tuple[str, Callable[[bool], Any]]  # name; on the device or on the CPU -> result

_CLOSE = 1e-3  # of scores and coordinates, relative to their size or to 1
_PIXELS = 1e-3  # share of a mask's pixels that rounding may turn


@dataclass(frozen=True)
class Outcome:
    """What came of one scenario.

    Attributes:
        differences: from the CPU's result; or the error, with the lines of this project that it passed.
        waits: how often the host waited.
        lines: where it waited, and how often there.
        seconds: on the CPU and on the device; the latter says nothing about a real one.
    """

    name: str
    differences: tuple[str, ...]
    waits: int
    lines: Mapping[str, int]
    seconds: tuple[float, float]


def differences(one: Any, other: Any, place: str = "") -> Iterator[str]:
    """Say where two results differ by more than rounding."""
    if type(one) is not type(other) and not isinstance(one, Tensor):
        yield f"{place}: {one!r:.200} and {other!r:.200}"
    elif isinstance(one, BaseModel):
        for name in type(one).model_fields:
            yield from differences(getattr(one, name), getattr(other, name), f"{place}.{name}")
    elif hasattr(one, "to_mask"):
        yield from differences(one.to_mask(), other.to_mask(), f"{place} mask")
    elif is_dataclass(one):
        for each in fields(one):
            yield from differences(getattr(one, each.name), getattr(other, each.name), f"{place}.{each.name}")
    elif isinstance(one, Image.Image):
        pixels, others = (np.asarray(each.convert("RGB")).astype(np.float32) for each in (one, other))
        if pixels.shape != others.shape or np.abs(pixels - others).mean() > 0.5:
            yield f"{place}: images differ"
    elif isinstance(one, Tensor):
        yield from differences(one.detach().cpu().float().numpy(), other.detach().cpu().float().numpy(), place)
    elif isinstance(one, np.ndarray):
        if one.shape != other.shape:
            yield f"{place}: shapes {one.shape} and {other.shape}"
        elif one.dtype == np.bool_:
            if one.size and (one != other).mean() > _PIXELS:
                yield f"{place}: {(one != other).mean():.2%} differ"
        elif not np.allclose(one, other, rtol=_CLOSE, atol=_CLOSE):
            yield f"{place}: by {np.abs(one - other).max()}"
    elif isinstance(one, float):
        if not math.isclose(one, other, rel_tol=_CLOSE, abs_tol=_CLOSE):
            yield f"{place}: {one} and {other}"
    elif isinstance(one, Mapping):
        if one.keys() != other.keys():
            yield f"{place}: {sorted(one)} and {sorted(other)}"
        for name in one.keys() & other.keys():
            yield from differences(one[name], other[name], f"{place}[{name!r}]")
    elif isinstance(one, Sequence) and not isinstance(one, str | bytes):
        if len(one) != len(other):
            yield f"{place}: {len(one)} and {len(other)} items"
        for index, (left, right) in enumerate(zip(one, other, strict=False)):
            yield from differences(left, right, f"{place}[{index}]")
    elif one != other:
        yield f"{place}: {one!r:.200} and {other!r:.200}"


def carry_out(scenarios: Sequence[Scenario]) -> Iterator[Outcome]:
    """Run each scenario on the CPU and on the device, and compare."""
    for name, scenario in scenarios:
        start = time.perf_counter()
        expected = scenario(False)
        middle = time.perf_counter()
        with pretend.waits() as counted:
            try:
                found = tuple(differences(expected, scenario(True)))
            except Exception as error:
                frames = traceback.extract_tb(error.__traceback__)
                own = [
                    frame for frame in frames if any(f"/{folder}/" in frame.filename for folder in pretend.callers())
                ]
                where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(own))
                found = (f"{type(error).__name__}: {error} at {where}",)
        seconds = (middle - start, time.perf_counter() - middle)
        yield Outcome(name, found, counted.total, dict(counted.lines.most_common()), seconds)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Compare verbs on pretended accelerators with the CPU.")
    parser.add_argument("group", choices=["default", "tiny", "training"])
    parser.add_argument("places", choices=["one", "two"])
    parser.add_argument("--only", default="", help="scenarios whose name holds this text")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--lines", action="store_true")
    given = parser.parse_args()
    pretend.install()
    sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in ("", "decoders", "model", "serve", "train")]
    import groups

    with tempfile.TemporaryDirectory() as folder:
        scenarios: list[Scenario] = getattr(groups, given.group)(given.places == "two", Path(folder))
        outcomes = []
        print(f"{'':28}{'waits':>6}{'CPU':>8}{'device':>8}  differs")
        for outcome in carry_out([each for each in scenarios if given.only in each[0]]):
            outcomes.append(outcome)
            cpu, device = outcome.seconds
            differs = "; ".join(outcome.differences)
            print(f"{outcome.name:28}{outcome.waits:6}{cpu:7.1f}s{device:7.1f}s  {differs}", flush=True)
            for line, count in outcome.lines.items() if given.lines else ():
                print(f"{'':34}{count:4} {line}")
    if given.json:
        given.json.write_text(json.dumps([asdict(outcome) for outcome in outcomes]), "utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)  # sums in one order, here and there
    main()
