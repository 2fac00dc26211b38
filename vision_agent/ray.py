"""Verbs in pipelines of Ray Data: `vision_agent.ray.map(dataset, "detect", "dog")`. Needs the extra `ray`.

    import ray, vision_agent.ray

    photos = ray.data.read_binary_files("s3://bucket/photos", include_paths=True)
    found = vision_agent.ray.map(photos, "detect", "dog; frisbee", column="bytes")
    found.drop_columns(["bytes"]).write_parquet("found")

Each actor works with a process of its own beside it, which a row may bring down: it is tried three times, and then is a
row with an error. The pipeline goes on, while Ray by itself would try it without end.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vision_agent.batch.attempts import check_count, check_seconds
from vision_agent.batch.image_jobs import ImageJob, Verb
from vision_agent.batch.jobs import Job
from vision_agent.batch.ray_actors import import_ray
from vision_agent.batch.workers import WorkerPool
from vision_agent.errors import ArgumentTypeError, InputError, bad_argument

_ADDED = ("error", "text", "result")


def map(
    dataset: Any,
    verb: Verb | Job,
    request: str = "",
    *,
    column: str = "image",
    workers: int = 1,
    gpus: float = 0.0,
    seconds: float | None = 300.0,
    **settings: Any,
) -> Any:
    """Add to each row of a data set what a verb says about its image.

    Args:
        dataset: a `ray.data.Dataset`.
        verb: of `ImageJob`, with its `request`; or a job, such as `OcrJob()`.
        column: has the image or document: a path, its bytes, an array (height, width, 3) of uint8, or an object with
            `bytes` and `path`, as data sets of Hugging Face have.
        workers: actors.
        gpus: of each.
        seconds: that a row may take; None for no bound.
        **settings: of `ImageJob`, such as `threshold` or `model`.

    Returns:
        a `ray.data.Dataset` whose rows have three texts more: `result`, the record's other fields as JSON; `text`, its
        words; `error`, what went wrong. Each is "" where there is none.

    Raises:
        InputError: a column that is not there, one that would be overwritten, or settings that are wrong.
        ArgumentTypeError: no data set.
        MissingExtraError: Ray is not installed.
    """
    import_ray()
    from ray.data import ActorPoolStrategy, Dataset

    if not isinstance(dataset, Dataset):
        raise ArgumentTypeError(bad_argument("dataset", "a ray.data.Dataset", dataset))
    if isinstance(verb, str):
        job: Job = ImageJob(verb, request, **settings)
    elif request or settings:
        raise InputError("`request` and settings go with the name of a verb: a job has its own")
    else:
        job = verb
    count = check_count("workers", workers)
    names = dataset.columns() or []
    if column not in names:
        raise InputError(bad_argument("column", f"one of {', '.join(names)}", column))
    if taken := sorted(set(_ADDED) & set(names)):
        raise InputError(f"`dataset` has a column {taken[0]!r} already, which would be overwritten: rename it")
    actor: Any = _RowWorker  # Ray takes classes, too
    return dataset.map(
        actor,
        fn_constructor_args=(job, column, check_seconds(seconds)),
        compute=ActorPoolStrategy(size=count),
        num_cpus=1,
        num_gpus=gpus,
    )


class _RowWorker:
    """In an actor of Ray Data: gives rows to a process beside it."""

    def __init__(self, job: Job, column: str, seconds: float | None) -> None:
        self._column = column
        self._pool = WorkerPool(job, 1, seconds)
        self._folder = tempfile.TemporaryDirectory(prefix="vision-agent-")

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        record = self._record(row[self._column])
        error = record.get("error")
        rest = {name: value for name, value in record.items() if name not in ("file", "error", "text")}
        return {
            **row,
            "error": f"{error['type']}: {error['message']}" if error else "",
            "text": record.get("text", ""),
            "result": json.dumps(rest.get("result", rest), ensure_ascii=False) if rest else "",
        }

    def _record(self, cell: Any) -> dict[str, Any]:
        try:
            file = self._file(cell)
        except InputError as error:
            return {"error": {"type": "InputError", "message": str(error)}}
        ((_, line, _),) = self._pool.work([file])
        record: dict[str, Any] = json.loads(line)
        return record

    def _file(self, cell: Any) -> str:
        """The path of what a cell holds."""
        if isinstance(cell, Mapping):
            cell = cell.get("bytes") or cell.get("path")
        if isinstance(cell, str):
            return cell
        place = Path(self._folder.name) / "row"
        if isinstance(cell, bytes):
            place.write_bytes(cell)
        elif isinstance(cell, np.ndarray) and cell.dtype == np.uint8 and cell.ndim in (2, 3):
            Image.fromarray(cell).save(place, "PNG")
        else:
            raise InputError(bad_argument(self._column, "a path, bytes or an array of uint8", cell))
        return str(place)
