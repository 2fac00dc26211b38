"""A run: files in, records out, and the form that the output's suffix asks for."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vision_agent.batch.jobs import Job
from vision_agent.batch.records import Records
from vision_agent.batch.tables import SUFFIXES, check_suffix, write_table
from vision_agent.batch.workers import WorkerPool
from vision_agent.errors import ArgumentTypeError, InputError, bad_argument


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
    workers: int = 1,
    retry: bool = False,
    progress: bool = False,
) -> Summary:
    """Do a job for many files. The same call resumes a run that was stopped, and ends with the same output.

    Files that have a record in `out` are not done again; new ones are added. While a run lasts, records stand in the
    order they were done; at its end in that of `files`, whatever the number of workers. A file that fails becomes a
    record with an `error`, and the others are still processed.

    Args:
        files: paths; see `find_files`.
        job: what to do with each.
        out: `.jsonl` (one record a line), `.csv` or `.parquet` (flat rows, written at the end from
            `OUT.records.jsonl`). `OUT.settings.json` beside it says what made it.
        workers: processes, each of which loads its models once; they share the cores.
        retry: do files again that failed before.
        progress: show a bar on stderr, where it is a terminal.

    Raises:
        InputError: another suffix, an output of other settings, one that another run writes, a folder that is missing.
        MissingExtraError: what the job or a Parquet file needs is not installed.
        VisionAgentError: workers cannot begin.
    """
    if isinstance(files, str | os.PathLike):
        raise ArgumentTypeError(bad_argument("files", "a list of paths", files))
    if isinstance(workers, bool) or not isinstance(workers, int) or not 1 <= workers <= 256:
        raise InputError(bad_argument("workers", "a whole number from 1 to 256", workers))
    target = check_output(out)
    wanted = list(dict.fromkeys(files))
    path = target if target.suffix.lower() == SUFFIXES[0] else target.with_name(f"{target.name}.records.jsonl")
    with Records(path, target, job.settings()) as records:
        known = records.done()
        left = [file for file in wanted if file not in known or (retry and not known[file])]
        before = len(wanted) - len(left)
        with _bar(progress, len(wanted), before) as step, WorkerPool(job, min(workers, max(1, len(left)))) as pool:
            for file, line, well in pool.work(left):
                records.append(line)
                known[file] = well
                step()
        records.sort(wanted)
        if path != target:
            write_table(path, target, job.rows)
    done = sum(known[file] for file in wanted)
    return Summary(len(wanted), done, len(wanted) - done, before)


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
