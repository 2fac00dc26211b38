"""Worker processes that handle one file at a time; a file that crashes its process costs only itself.

`ProcessPoolExecutor` gives up all pending work when a process dies. A broken document can do that to a native library,
so here each worker has a pipe of its own: another takes the place of one that dies, or that a file holds up.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Self

from vision_agent import errors
from vision_agent.batch.attempts import (
    ATTEMPTS,
    Attempts,
    Done,
    attempted,
    check_count,
    check_seconds,
    failed_in_the_end,
)
from vision_agent.batch.image_batches import OF_THE_RUN
from vision_agent.batch.jobs import Job, Work
from vision_agent.batch.records import as_line
from vision_agent.errors import VisionAgentError
from vision_agent.model.threads import available_cpus

# New processes rather than forks: the threads of torch and onnxruntime do not live through a fork.
_CONTEXT = multiprocessing.get_context("spawn")
# Errors that the run ends with as they are; in a file's own work an InputError is about that file.
_KEPT_ERRORS = frozenset({"InputError", *(kind.__name__ for kind in OF_THE_RUN)})
_PATIENCE = 5.0  # seconds in which a worker that was told to stop does so


class LocalWorkers:
    """Processes of this machine, each of which loads its models once; they share the cores.

    Args:
        count: how many.
        seconds: that a file may take before its process is ended; None for no bound.

    Raises:
        InputError: another number.
    """

    def __init__(self, count: int = 1, seconds: float | None = None) -> None:
        self._count = check_count("workers", count)
        self._seconds = check_seconds(seconds)

    def work(self, job: Job, files: Sequence[str]) -> Done:
        """Yield each file with its record, as it is done. See `attempts.Executor`."""
        with WorkerPool(job, min(self._count, max(1, len(files))), self._seconds) as pool:
            yield from pool.work(files)


class WorkerPool:
    """Workers for one job; a context manager that stops them at its end, however it comes.

    Args:
        job: what they do.
        count: how many of them.
        seconds: that a file may take; None for no bound.
    """

    def __init__(self, job: Job, count: int, seconds: float | None = None) -> None:
        self._job = job
        self._count = count
        self._threads = max(1, available_cpus() // count)
        self._seconds = seconds
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.pipe.close()
        for worker in self._workers:
            worker.stop(at_once=kind is not None)

    def work(self, files: Iterable[str]) -> Iterator[tuple[str, bytes, bool]]:
        """Yield each file with its record as a line and whether it went well, as they are done.

        Raises:
            VisionAgentError: a worker could not begin, for the reason it gave.
        """
        waiting, attempts, unborn = deque(files), Attempts(self._seconds), 0
        while waiting or any(worker.file is not None for worker in self._workers):
            busy = sum(worker.file is not None for worker in self._workers)
            while len(self._workers) < min(self._count, busy + len(waiting)):
                self._workers.append(_Worker(self._job, self._threads))
            for worker in self._workers:
                if worker.ready and worker.file is None and waiting:
                    worker.give(waiting.popleft(), self._seconds)
            for worker, slow in self._heard():
                file = worker.file
                try:
                    if slow:
                        raise EOFError
                    kind, content, well = worker.hear()
                except (EOFError, OSError):  # the process is gone, or has to go
                    self._workers.remove(worker)
                    code = worker.end() if slow else worker.stop(at_once=False)
                    if file is None:
                        unborn += 1
                        if unborn == ATTEMPTS:
                            raise VisionAgentError(
                                f"a worker process ended with {_ending(code)} before it began"
                            ) from None
                    elif (line := attempts.failed(file, slow=slow)) is not None:
                        yield file, line, False
                    else:
                        waiting.append(file)
                    continue
                if kind == "failed":
                    raise as_error(*content)
                unborn = 0
                if kind == "done" and file is not None:
                    yield file, content, well

    def _heard(self) -> list[tuple["_Worker", bool]]:
        """Workers that have something to say, or whose time is over, which is then True."""
        listened = [worker for worker in self._workers if worker.file is not None or not worker.ready]
        ends = [worker.deadline for worker in listened if worker.deadline is not None]
        heard = wait([worker.pipe for worker in listened], max(0.0, min(ends) - time.monotonic()) if ends else None)
        now = time.monotonic()
        late = [each for each in listened if each.deadline is not None and each.deadline <= now]
        return [(each, each.pipe not in heard) for each in listened if each.pipe in heard or each in late]


class _Worker:
    """One process and the pipe to it."""

    def __init__(self, job: Job, threads: int) -> None:
        self.pipe, other = _CONTEXT.Pipe()
        self.file: str | None = None
        self.deadline: float | None = None
        self.ready = False
        self._process: BaseProcess = _CONTEXT.Process(target=_serve, args=(other, job, threads), daemon=True)
        with _interrupts_ignored():
            self._process.start()
        other.close()  # the worker's end lives in the worker alone, so that its death is heard

    def give(self, file: str, seconds: float | None) -> None:
        self.file = file
        self.deadline = None if seconds is None else time.monotonic() + seconds
        try:
            self.pipe.send(file)
        except OSError:
            return  # it is gone, which `hear` will tell

    def hear(self) -> tuple[str, Any, bool]:
        kind, content, well = self.pipe.recv()
        self.ready = True
        self.file = self.deadline = None
        return kind, content, well

    def end(self) -> int | None:
        """Kill the process: what hangs may not hear anything milder."""
        self._process.kill()
        return self.stop(at_once=False)

    def stop(self, *, at_once: bool) -> int | None:
        """End the process, and its exit code: idle ones end by themselves when their pipe closes."""
        self.pipe.close()
        if at_once:
            self._process.terminate()
        self._process.join(_PATIENCE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        return self._process.exitcode


def _serve(pipe: Connection, job: Job, threads: int) -> None:
    """In the worker: load once, then a file in, a line out, until the pipe closes, also by the death of the parent."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        work = job.start(threads)
    except Exception as error:  # whatever it is, the run cannot continue, and the parent says why
        pipe.send(("failed", (type(error).__name__, str(error)), False))
        return
    try:
        pipe.send(("ready", b"", True))
        while True:
            answer = answered(work, pipe.recv())
            pipe.send(answer)
            if answer[0] == "failed":
                return
    except (EOFError, OSError):
        return


def answered(work: Work, file: str) -> tuple[str, Any, bool]:
    """Return what a worker says of a file: ("done", its record as a line, whether it went well).

    Or ("failed", (name, message), False) of an error that would come for all files.
    """
    try:
        record = {"file": file, "error": None} | attempted(work, file)
        line = as_line(record)
    except OF_THE_RUN as error:
        return "failed", (type(error).__name__, str(error)), False
    except Exception as error:  # a document may break anything; the others are still processed
        record = failed_in_the_end(file, error)
        line = as_line(record)
    return "done", line, record["error"] is None


def as_error(name: str, message: str) -> VisionAgentError:
    """Return an error of a worker, to raise it here; the message of one that is not ours begins with its name."""
    if name in _KEPT_ERRORS:
        made: Callable[[str], VisionAgentError] = getattr(errors, name)
        return made(message)
    return VisionAgentError(f"a worker could not begin: {name}: {message}")


def _end_with_parent() -> None:
    """Nobody waits for a file that hangs once the parent was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Processes started here do not hear Ctrl-C, which a terminal sends to all: the parent stops them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {-code}"
    return f"exit code {code}"
