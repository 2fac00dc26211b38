"""Runs a job with the actors of a Ray cluster: one process each, which loads its models once.

Ray by itself tries the task of an actor that died again without end, and a file that kills its process would never
end. So actors are started anew here, and attempts are counted by file, as for local workers. An actor answers about
one file at a time: whose turn it was when it died is known.
"""

import os
import pickle
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from vision_agent.batch.attempts import ATTEMPTS, Attempts, Done, check_count, check_seconds
from vision_agent.batch.jobs import Job
from vision_agent.batch.workers import answered, as_error
from vision_agent.errors import EngineError, InputError, VisionAgentError, bad_argument, require_extra

_STORE = 128 * 2**20  # bytes of the object store of a Ray that is started here: records are small


class RayActors:
    """Actors of a Ray cluster. All its nodes must have the files at the same places, and this package.

    Args:
        address: of the cluster, such as "auto" or "ray://head:10001"; None for the one that this program or the
            variable RAY_ADDRESS names, or else one that is started on this machine for the run.
        count: actors; None for as many as there are processors in the cluster, or GPUs by `gpus`.
        gpus: of each actor; 0.25 lets four share one.
        seconds: that a file may take before its actor is ended; None for no bound.

    Raises:
        InputError: numbers out of range.
        MissingExtraError: Ray is not installed.
    """

    def __init__(
        self, address: str | None = None, count: int | None = None, gpus: float = 0.0, seconds: float | None = None
    ) -> None:
        if isinstance(gpus, bool) or not isinstance(gpus, int | float) or not 0 <= gpus <= 64:
            raise InputError(bad_argument("gpus", "a number from 0 to 64", gpus))
        if gpus > 1 and gpus != int(gpus):
            raise InputError(bad_argument("gpus", "a whole number where it is over 1", gpus))
        self._address = address
        self._count = count if count is None else check_count("workers", count, 100_000)
        self._gpus = float(gpus)
        self._seconds = check_seconds(seconds)
        import_ray()

    def work(self, job: Job, files: Sequence[str]) -> Done:
        """Yield each file with its record, as it is done. See `attempts.Executor`."""
        with connected(self._address) as ray:
            yield from self._work(ray, job, files)

    def _work(self, ray: Any, job: Job, files: Sequence[str]) -> Done:
        count = min(self._count or self._room(ray), max(1, len(files)))
        make = ray.remote(num_cpus=1, num_gpus=self._gpus, max_restarts=0, max_task_retries=0)(_Actor).remote
        # A job may be of a module that lies beside the program, as it may for processes of this machine.
        shipped, paths = ray.cloudpickle.dumps(job), list(sys.path)
        waiting, attempts, unborn = deque(files), Attempts(self._seconds), 0
        running: dict[Any, _Turn] = {}
        idle: list[Any] = []
        actors = 0
        try:
            while waiting or any(turn.file is not None for turn in running.values()):
                busy = sum(turn.file is not None for turn in running.values())
                while actors < min(count, busy + len(waiting)):
                    actor = make(shipped, paths)
                    running[actor.begin.remote()] = _Turn(actor)
                    actors += 1
                while idle and waiting:
                    actor, file = idle.pop(), waiting.popleft()
                    running[actor.answer.remote(file)] = _Turn(actor, file, self._end())
                for reference, turn, slow in _heard(ray, running):
                    del running[reference]
                    try:
                        if slow:
                            ray.kill(turn.actor)
                        answer: tuple[str, Any, bool] = ("gone", "", False) if slow else ray.get(reference)
                    except ray.exceptions.RayError as error:
                        answer = ("gone", _first_line(error), False)
                    kind, content, well = answer
                    if kind == "failed":
                        raise as_error(content[0], content[1])
                    if kind != "gone":
                        unborn = 0
                        idle.append(turn.actor)
                        if turn.file is not None:
                            yield turn.file, content, well
                        continue
                    actors -= 1
                    if turn.file is None:
                        unborn += 1
                        if unborn == ATTEMPTS:
                            raise VisionAgentError(f"an actor ended before it began: {content}")
                    elif (line := attempts.failed(turn.file, slow=slow)) is not None:
                        yield turn.file, line, False
                    else:
                        waiting.append(turn.file)
        finally:
            for actor in [*idle, *(turn.actor for turn in running.values())]:
                ray.kill(actor)

    def _end(self) -> float | None:
        return None if self._seconds is None else time.monotonic() + self._seconds

    def _room(self, ray: Any) -> int:
        """How many actors the cluster has room for."""
        there = ray.cluster_resources()
        processors = int(there.get("CPU", 1))
        return max(1, min(processors, int(there.get("GPU", 0) / self._gpus)) if self._gpus else processors)


@dataclass(frozen=True)
class _Turn:
    """What an actor does: begin, or a file, until a time."""

    actor: Any
    file: str | None = None
    end: float | None = None


class _Actor:
    """In the cluster: loads once, then answers about a file at a time."""

    def __init__(self, job: bytes, paths: Sequence[str]) -> None:
        self._job = job
        self._paths = paths

    def begin(self) -> tuple[str, Any, bool]:
        try:
            sys.path += [path for path in self._paths if path not in sys.path]
            job: Job = pickle.loads(self._job)
            self._work = job.start(1)
        except Exception as error:  # whatever it is, the run cannot continue, and the driver says why
            return "failed", (type(error).__name__, str(error)), False
        return "ready", b"", True

    def answer(self, file: str) -> tuple[str, Any, bool]:
        return answered(self._work, file)


def _heard(ray: Any, running: dict[Any, _Turn]) -> list[tuple[Any, _Turn, bool]]:
    """Turns that came to an end, or whose time is over, which is then True."""
    ends = [turn.end for turn in running.values() if turn.end is not None]
    patience = max(0.0, min(ends) - time.monotonic()) if ends else None
    done, _ = ray.wait(list(running), num_returns=1, timeout=patience)
    now = time.monotonic()
    late = [each for each, turn in running.items() if turn.end is not None and turn.end <= now and each not in done]
    return [(each, running[each], each in late) for each in (*done, *late)]


def import_ray() -> Any:
    """Return the module `ray`, which sends no statistics. Raises MissingExtraError where it is not installed."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    require_extra("ray", "ray", "actors are run")
    import ray

    return ray


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Give `ray`, connected; what was connected before stays so.

    Raises:
        EngineError: there is no cluster at the address.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    local = address is None and not os.environ.get("RAY_ADDRESS")
    settings = {"object_store_memory": _STORE, "include_dashboard": False} if local else {}
    try:
        ray.init("local" if local else address, log_to_driver=False, logging_level="error", **settings)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise EngineError(f"no Ray cluster at {address or 'RAY_ADDRESS'!r}: {_first_line(error)}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _first_line(error: object) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
