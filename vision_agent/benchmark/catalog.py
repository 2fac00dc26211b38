"""All benchmarks by name, and how a command's `NAME[:SPLIT][=PATH]` is read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vision_agent.benchmark.benchmark_set import Benchmark, Prompts, Reading, SetOptions
from vision_agent.benchmark.box_sets import BoxSet
from vision_agent.benchmark.multiple_choice import MMBench
from vision_agent.benchmark.question_sets import ChartQa, Counting, DocVqa, Gqa, InfoVqa, OcrBench, Pope, TextVqa
from vision_agent.benchmark.referring import ReferringBoxes, ReferringMasks
from vision_agent.data.annotations.faults import Faults
from vision_agent.errors import InputError, bad_argument

_KINDS = (
    *(ReferringBoxes, ReferringMasks, BoxSet, Pope, MMBench, TextVqa, DocVqa, InfoVqa, ChartQa, OcrBench, Gqa),
    Counting,
)
NAMES = tuple(name for kind in _KINDS for name in kind.names)
"""What `read_benchmarks` takes."""


@dataclass(frozen=True)
class Target:
    """A benchmark that was asked for: its name, its part, and where its files are."""

    name: str
    split: str | None
    path: Path


def read_target(text: str, data: Path | None) -> Target:
    """Read `NAME[:SPLIT][=PATH]`; without a path it is the folder NAME in `data`.

    Raises:
        InputError: an unknown name, or no such path.
    """
    told, _, path = text.partition("=")
    name, _, split = told.partition(":")
    if name not in NAMES:
        raise InputError(bad_argument("benchmark", f"one of {', '.join(NAMES)}", name))
    if not path and data is None:
        raise InputError(bad_argument("benchmark", f"{name}=PATH, or --data with a folder {name}", text))
    where = Path(path) if path else Path(data or ".") / name
    if not where.exists():
        raise InputError(bad_argument("benchmark", "a file or a folder that exists", str(where)))
    return Target(name, split or None, where)


def read_benchmarks(
    targets: Sequence[Target],
    *,
    images: Path | None = None,
    limit: int | None = None,
    prompts: Prompts = "official",
) -> list[Benchmark]:
    """Read and check the files of benchmarks, images included; no model is needed.

    Args:
        targets: what to read.
        images: folder of the images, where they are not where publishers put them.
        limit: at most so many questions of each.
        prompts: see `SetOptions`.

    Raises:
        AnnotationError: the files have faults; tells all of them at once.
        InputError: no files of the expected names, or an argument that is wrong.
        MissingExtraError: a package that reads or measures them is not installed.
    """
    if limit is not None and limit < 1:
        raise InputError(bad_argument("limit", "at least 1", limit))
    if images is not None and not images.is_dir():
        raise InputError(bad_argument("images", "a folder that exists", str(images)))
    faults = Faults()
    read: list[Benchmark] = []
    for target in targets:
        kind = next(kind for kind in _KINDS if target.name in kind.names)
        options = SetOptions(target.path, target.split, images, limit, prompts)
        read.append(kind.read(target.name, Reading(options, faults)))
    faults.settle(False, ", ".join(dict.fromkeys(str(target.path) for target in targets)))
    names = [benchmark.name for benchmark in read]
    if len(set(names)) < len(names):
        raise InputError(bad_argument("benchmark", "each benchmark once", names))
    return read
