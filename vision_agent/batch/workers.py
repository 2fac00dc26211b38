"""Worker processes that handle one file at a time; a file that crashes its process costs only itself.

`ProcessPoolExecutor` gives up all pending work when a process dies. A broken document can do that to a native library,
so here each worker has a pipe of its own: one that dies costs its file, and another takes its place.
"""

import multiprocessing
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Self

from vision_agent import errors
from vision_agent.batch.jobs import Job
from vision_agent.batch.records import as_line, failed
from vision_agent.errors import MissingExtraError, VisionAgentError
from vision_agent.model.threads import available_cpus

# New processes rather than forks: the threads of torch and onnxruntime do not live through a fork.
_CONTEXT = multiprocessing.get_context("spawn")
_PATIENCE = 5.0  # seconds in which a worker that was told to stop does so


class WorkerPool:
    """Workers for one job; a context manager that stops them at its end, however it comes.

    Args:
        job: what they do.
        count: how many of them.
    """

    def __init__(self, job: Job, count: int) -> None:
        self._job = job
        self._count = count
        self._threads = max(1, available_cpus() // count)
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
        waiting = deque(files)
        while waiting or any(worker.file is not None for worker in self._workers):
            busy = sum(worker.file is not None for worker in self._workers)
            while len(self._workers) < min(self._count, busy + len(waiting)):
                self._workers.append(_Worker(self._job, self._threads))
            for worker in self._workers:
                if worker.ready and worker.file is None and waiting:
                    worker.give(waiting.popleft())
            heard = wait([worker.pipe for worker in self._workers if worker.file is not None or not worker.ready])
            for worker in [each for each in self._workers if each.pipe in heard]:
                file = worker.file
                try:
                    kind, content, well = worker.hear()
                except (EOFError, OSError):  # the process is gone
                    self._workers.remove(worker)
                    code = worker.stop(at_once=False)
                    if file is None:
                        raise VisionAgentError(f"a worker process ended with {_ending(code)} before it began") from None
                    reason = {"type": "WorkerDied", "message": f"the process reading it ended with {_ending(code)}"}
                    yield file, as_line({"file": file, "error": reason}), False
                    continue
                if kind == "failed":
                    raise _as_error(*content)
                if kind == "done" and file is not None:
                    yield file, content, well


class _Worker:
    """One process and the pipe to it."""

    def __init__(self, job: Job, threads: int) -> None:
        self.pipe, other = _CONTEXT.Pipe()
        self.file: str | None = None
        self.ready = False
        self._process: BaseProcess = _CONTEXT.Process(target=_serve, args=(other, job, threads), daemon=True)
        with _interrupts_ignored():
            self._process.start()
        other.close()  # the worker's end lives in the worker alone, so that its death is heard

    def give(self, file: str) -> None:
        self.file = file
        try:
            self.pipe.send(file)
        except OSError:
            return  # it is gone, which `hear` will tell

    def hear(self) -> tuple[str, Any, bool]:
        kind, content, well = self.pipe.recv()
        self.ready = True
        self.file = None
        return kind, content, well

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
    try:
        work = job.start(threads)
    except Exception as error:  # whatever it is, the run cannot continue, and the parent says why
        pipe.send(("failed", (type(error).__name__, str(error)), False))
        return
    try:
        pipe.send(("ready", b"", True))
        while True:
            file = pipe.recv()
            try:
                record = {"file": file, "error": None} | work(file)
                line = as_line(record)
            except MissingExtraError as error:  # so it would be for all files
                pipe.send(("failed", (type(error).__name__, str(error)), False))
                return
            except Exception as error:  # a document may break anything; the others are still processed
                record = failed(file, error)
                line = as_line(record)
            pipe.send(("done", line, record["error"] is None))
    except (EOFError, OSError):
        return


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


def _as_error(name: str, message: str) -> VisionAgentError:
    """An error of a worker, raised again here; the message of one that is not ours begins with its name."""
    if name in ("CheckpointError", "InputError", "MissingExtraError", "UnknownDecoderError"):
        error: VisionAgentError = getattr(errors, name)(message)
        return error
    return VisionAgentError(f"a worker could not begin: {name}: {message}")


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {-code}"
    return f"exit code {code}"
