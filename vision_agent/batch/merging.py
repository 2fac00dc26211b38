"""Makes one output of the shards that several machines wrote."""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from vision_agent.batch.image_jobs import ImageJob
from vision_agent.batch.jobs import OcrJob, extracted_rows
from vision_agent.batch.records import Record, Records
from vision_agent.batch.run import Summary, check_output, records_of
from vision_agent.batch.shards import Shards
from vision_agent.batch.tables import write_table
from vision_agent.errors import InputError

Rows = Callable[[Record], Iterable[Mapping[str, Any]]]


def merge(out: str | os.PathLike[str], rows: Rows | None = None) -> Summary:
    """Make an output of its shards: the same bytes as of a run that was not parted. The shards stay.

    Args:
        out: what the runs of the shards named.
        rows: of a job of your own, `job.rows`, where `out` is a table; None for the jobs of this package.

    Raises:
        InputError: a shard is missing or not at its end, or shards of other files or other settings.
    """
    target = check_output(out)
    shards = Shards.of(target)
    path = records_of(target)
    shown = _rows_of(shards.settings()) if rows is None and path != target else rows
    with Records(path, target, shards.settings()) as records:
        shards.write(path)
        known = records.done()
        if path != target and shown is not None:
            write_table(path, target, shown)
    well = sum(known.values())
    return Summary(len(known), well, len(known) - well, 0)


def _rows_of(settings: Mapping[str, Any]) -> Rows:
    """How the records of a job become rows."""
    job = settings.get("job")
    if job == "ocr":
        return OcrJob().rows
    if job == "extract":
        return lambda record: extracted_rows(record, by_schema=settings["schema"] is not None)
    try:
        return ImageJob(job, settings.get("request", "")).rows  # type: ignore[arg-type]  # the job checks it
    except InputError as error:
        raise InputError("`rows` must be given for a table of a job that is not of this package") from error
