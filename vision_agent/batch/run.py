"""A run: files in, records out, and the form that the output's suffix asks for."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from vision_agent.batch.attempts import Done, Executor, attempted, failed_in_the_end
from vision_agent.batch.image_batches import ask_in_batches
from vision_agent.batch.image_jobs import ImageJob, record_of
from vision_agent.batch.jobs import Job
from vision_agent.batch.records import Record, Records, as_line
from vision_agent.batch.shards import Shard
from vision_agent.batch.tables import SUFFIXES, check_suffix, write_table
from vision_agent.batch.workers import LocalWorkers
from vision_agent.errors import ArgumentTypeError, InputError, bad_argument
from vision_agent.images.loading import ImageLimits, load_image


@dataclass(frozen=True)
class Summary:
    """How a run went.

    Attributes:
        files: that were asked for.
        done: of them now, with a record of what was found.
        failed: of them, with a record of the error.
        before: had a record already when this run began.
    """

    files: int
    done: int
    failed: int
    before: int


def process(
    files: Sequence[str],
    job: Job,
    out: str | os.PathLike[str],
    *,
    workers: int | None = None,
    executor: Executor | None = None,
    shard: str | None = None,
    retry: bool = False,
    progress: bool = False,
) -> Summary:
    """Do a job for many files. The same call resumes a run that was stopped, and ends with the same output.

    Files that have a record in `out` are not done again; new ones are added. While a run lasts, records stand in the
    order they were done; at its end in that of `files`, whatever ran the job. A file that fails becomes a record with
    an `error`, and the others are still processed; so does one that brings down its worker three times.

    Args:
        files: paths; see `find_files`.
        job: what to do with each.
        out: `.jsonl` (one record a line), `.csv` or `.parquet` (flat rows, written at the end from
            `OUT.records.jsonl`). `OUT.settings.json` beside it says what made it.
        workers: processes, each of which loads its models once; they share the cores. None for 1.
        executor: what runs the job instead: `LocalWorkers`, `RayActors` or `Servers`.
        shard: such as "2/3": the second of three parts of the files, by a hash of their names. Its records go to
            `OUT.shard-2-of-3.jsonl`; `merge` makes `out` of all parts.
        retry: do files again that failed before.
        progress: show a bar on stderr, where it is a terminal.

    Raises:
        InputError: another suffix, an output of other settings, one that another run writes, a folder that is missing.
        MissingExtraError: what the job or a Parquet file needs is not installed.
        VisionAgentError: workers cannot begin.
    """
    if executor is not None and workers is not None:
        raise InputError("`workers` goes without `executor`, which has its own")
    runs = LocalWorkers(1 if workers is None else workers) if executor is None else executor
    part = None if shard is None else Shard.of(shard)

    def done(wanted: Sequence[str], left: Sequence[str]) -> Done:
        if left:
            yield from runs.work(job, left)

    return _run(files, job, out, done, retry, progress, part)


def process_images(
    files: Sequence[str],
    job: ImageJob,
    out: str | os.PathLike[str],
    *,
    retry: bool = False,
    progress: bool = False,
    limits: ImageLimits | None = None,
) -> Summary:
    """Ask the same about many images, in batches. Resumes as `process` does, and with the same outputs.

    The model runs in this process, and takes several images at once; others are read meanwhile.

    Args:
        files: paths; see `find_images`.
        job: what to ask.
        out, retry, progress: as for `process`.
        limits: what images are accepted.

    Raises:
        InputError: as for `process`.
        CheckpointError, ConfigError, MissingExtraError, RouteError: the model cannot be loaded, or has no such verb.
    """

    def load(file: str) -> Image.Image:
        return attempted(lambda name: load_image(Path(name), limits=limits or ImageLimits()), file)

    def done(wanted: Sequence[str], left: Sequence[str]) -> Done:
        for each in ask_in_batches(wanted, frozenset(left), load, job.loaded):
            if each.result is None:
                record = failed_in_the_end(each.file, each.error or RuntimeError("no result"))
            else:
                record = record_of(each.file, each.result)
            yield each.file, as_line(record), each.result is not None

    return _run(files, job, out, done, retry, progress)


class _Recorded(Protocol):
    """What a run needs of a job."""

    def settings(self) -> dict[str, Any]: ...

    def rows(self, record: Record) -> Iterable[Mapping[str, Any]]: ...


def _run(
    files: Sequence[str],
    job: _Recorded,
    out: str | os.PathLike[str],
    done: Callable[[Sequence[str], Sequence[str]], Done],
    retry: bool,
    progress: bool,
    part: Shard | None = None,
) -> Summary:
    """Write the records that `done` gives; it is told all files, and those that have none yet."""
    if isinstance(files, str | os.PathLike):
        raise ArgumentTypeError(bad_argument("files", "a list of paths", files))
    target = check_output(out)
    wanted = list(dict.fromkeys(files))
    path = records_of(target)
    if part is not None:
        path = target = part.path(target)
    with Records(path, target, job.settings()) as records:
        if part is not None:
            wanted = part.choose(wanted, path)
        known = records.done()
        left = [file for file in wanted if file not in known or (retry and not known[file])]
        before = len(wanted) - len(left)
        with _bar(progress, len(wanted), before) as step, closing(done(wanted, left)) as results:
            for file, line, well in results:
                records.append(line)
                known[file] = well
                step()
        records.sort(wanted)
        if path != target:
            write_table(path, target, job.rows)
    well_done = sum(known[file] for file in wanted)
    return Summary(len(wanted), well_done, len(wanted) - well_done, before)


def records_of(out: Path) -> Path:
    """Return where an output's records are: it, or beside a table."""
    return out if out.suffix.lower() == SUFFIXES[0] else out.with_name(f"{out.name}.records.jsonl")


def check_output(out: str | os.PathLike[str]) -> Path:
    """Return the output's path. Raises InputError where it cannot be written, MissingExtraError for its suffix."""
    target = Path(out)
    if not target.parent.is_dir():
        raise InputError(bad_argument("out", "a file in a folder that exists", str(target)))
    check_suffix(target)
    return target


@contextmanager
def _bar(shown: bool, total: int, before: int) -> Iterator[Callable[[], object]]:
    from tqdm import tqdm

    # `disable=None` is tqdm's word for "only on a terminal".
    with tqdm(total=total, initial=before, unit=" file", disable=None if shown else True) as bar:
        yield lambda: bar.update(1)
