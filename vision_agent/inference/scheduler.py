"""One thread owns the model; all others put their requests in and wait.

Two kinds of requests: a row is one answer, written beside the other rows, step by step; work is a function, run between
two steps, such as a decoder; some work, such as encoding images, is done for several who wait for it at once. Both are
taken in the order in which they come. Between two steps of the rows one chunk of a prompt is read, and one piece of
work is done, or as many as wait and take no longer than `_WORK_SECONDS`: the more requests have come as far as their
row, the more a step is worth. Nobody waits for more than these.

The thread begins with the first request. It holds nothing while it has nothing to do, and ends with its scheduler.
"""

import atexit
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextvars import copy_context
from queue import Empty, SimpleQueue
from typing import Any, TypeVar, cast

import torch

from vision_agent.errors import BusyError
from vision_agent.generation.decoding import GenerationOutput
from vision_agent.generation.step_batch import Row, StepBatch
from vision_agent.model.threads import release_helpers
from vision_agent.plugins.cancellation import CANCELLED

A = TypeVar("A")
T = TypeVar("T")

MOST_WAITING = 1024  # requests that were not begun
MOST_ROWS = 64  # written side by side
_BRIEFLY = 0.001  # seconds
_WORK_SECONDS = 0.1  # of work between two steps; the last piece of it may end later
AHEAD = 4  # steps that a row is written before anybody has taken them; it then pauses


class StepScheduler:
    """Runs one model for any number of threads.

    Args:
        bytes_per_token: of keys and values.
        most_bytes: of the keys and values of all rows that are written at a time; one row may always be written.
        most_waiting: most requests that wait.
        most_together: most requests that are done at once, of those that can be.
    """

    def __init__(
        self, bytes_per_token: int, most_bytes: int, most_waiting: int = MOST_WAITING, most_together: int = 1
    ) -> None:
        self._most_tokens = most_bytes // bytes_per_token
        self._most_together = most_together
        self._most_waiting = most_waiting
        self._starting = threading.Lock()
        self._desk = _Desk(most_waiting)
        self._thread: threading.Thread | None = None

    def is_owner(self) -> bool:
        """Return whether the calling thread is the one that owns the model: it must not wait for itself."""
        return self._thread is threading.current_thread()

    def run(self, work: Callable[[], T]) -> T:
        """Run a function in the thread that owns the model, and return what it returns.

        It runs in a copy of the caller's context. Where the caller is interrupted, `CANCELLED` is set for it.

        Raises:
            BusyError: too many requests wait already.
        """
        if self.is_owner():
            return work()
        return cast(T, self._result(_Work(work)))

    def run_together(self, work: Callable[[list[A]], list[T]], item: A, most: int | None = None) -> T:
        """Run a function on an item and on those for which others wait to run it, and return this item's result.

        Where that fails, it runs on each item by itself, so that only those at fault fail. Otherwise as `run`.

        Args:
            work: items to results, in their order; the same for all who may be together, by `==`.
            most: items that are done at once; None for the scheduler's `most_together`.

        Raises:
            BusyError: too many requests wait already.
        """
        if self.is_owner():
            return work([item])[0]
        return cast(T, self._result(_Shared(work, item, most)))

    def run_steps(self, steps: Iterator[T]) -> T:
        """Run an iterator to its end, one step at a time between the steps of others; return the last item.

        Raises:
            BusyError: too many requests wait already.
        """
        if self.is_owner():
            (last,) = deque(steps, maxlen=1)
            return last
        return cast(T, self._result(_Work(lambda: next(steps), repeated=True)))

    def submit(self, row: Row, *, stepwise: bool = False) -> "RowSteps":
        """Take a row, and return its steps.

        Args:
            row: one that is given to nobody else. Its `is_gone` is asked before each step.
            stepwise: each step is to be taken, rather than the last one alone; a row whose steps nobody takes pauses.

        Raises:
            BusyError: too many requests wait already.
        """
        steps = RowSteps(row, stepwise, self)
        self._post(steps.request)
        return steps

    def _result(self, work: "_Work") -> Any:
        self._post(work)
        try:
            found = work.outbox.get()
        except BaseException:  # such as Ctrl+C
            work.is_gone.set()
            raise
        if isinstance(found, _Raised):
            raise found.error
        return found

    def _post(self, request: "_Work | _RowRequest") -> None:
        if not self._desk.free.acquire(blocking=False):
            raise BusyError(f"{self._most_waiting} requests wait for the model already; try again later")
        with self._starting:
            if self._thread is None or not self._thread.is_alive():
                # A new desk, too: of a process that was forked, the old one may be locked for ever.
                self._desk = _Desk(self._most_waiting, self._desk.free)
                self._thread = threading.Thread(
                    target=_serve,
                    args=(self._desk, self._most_tokens, self._most_together),
                    name="vision-agent-model",
                    daemon=True,
                )
                self._thread.start()
                weakref.finalize(self, self._desk.inbox.put, None)
                _threads.add(self._thread)
                _desks.add(self._desk)
        release_helpers()  # the owner computes now
        request.desk = self._desk
        self._desk.inbox.put(request)


class RowSteps(Iterator[GenerationOutput]):
    """The steps of one row: its answer as it grows, or only the whole of it. Closing it frees the row's place."""

    def __init__(self, row: Row, stepwise: bool, scheduler: StepScheduler) -> None:
        self.request = _RowRequest(row, stepwise)
        self._scheduler = scheduler  # not to end before its rows

    def __next__(self) -> GenerationOutput:
        """Wait for the next step.

        Raises:
            CancelledError: the row's `is_gone` says so.
        """
        request = self.request
        if request.is_taken:
            raise StopIteration
        try:
            found = request.outbox.get()
        except BaseException:  # such as Ctrl+C
            self.close()
            raise
        if isinstance(found, _Raised):
            request.is_taken = True
            raise found.error
        output, request.is_taken = found
        if request.is_paused and request.is_wanted:
            request.wake()
        return cast(GenerationOutput, output)

    def last(self) -> GenerationOutput:
        """Wait for the end, and return the whole answer. Raises what `next` raises."""
        (output,) = deque(self, maxlen=1)
        return output

    def close(self) -> None:
        """Give the row up. When this returns, nothing of it is computed any longer."""
        request = self.request
        if request.is_taken:
            return
        request.is_taken = request.is_closed = True
        request.wake()
        if not self._scheduler.is_owner():
            # A row is dropped before each step. Work of others, which may take long, is not waited for.
            while request.desk.is_stepping and not request.ended.wait(0.01):
                pass


class _Desk:
    """What the owner of the model and those who wait for it share; it holds no model."""

    def __init__(self, most_waiting: int, free: threading.Semaphore | None = None) -> None:
        self.inbox: SimpleQueue[_Work | _RowRequest | None] = SimpleQueue()  # may be filled by finalizers, too
        self.free = free or threading.Semaphore(most_waiting)
        self.is_stepping = False


class _Raised:
    def __init__(self, error: BaseException) -> None:
        self.error = error


class _Work:
    """A function that is waiting to be run, once or until it has no more steps."""

    desk: _Desk

    def __init__(self, call: Callable[[], Any], repeated: bool = False) -> None:
        self.outbox: SimpleQueue[Any] = SimpleQueue()
        self.is_gone = threading.Event()
        self.threads = torch.get_num_threads()
        self._call: Callable[[], Any] | None = call
        self._repeated = repeated
        self._last: Any = None
        self._context = copy_context()
        if self._context.get(CANCELLED) is None:
            self._context.run(CANCELLED.set, self.is_gone)

    def run(self) -> bool:
        """Run once; return whether it is to be run again."""
        call = self._call
        if call is None or self.is_gone.is_set():
            return False
        try:
            self._last = self._context.run(call)
            if self._repeated:
                return True
        except StopIteration as error:
            if not self._repeated:
                self._last = _Raised(error)
        except BaseException as error:  # whatever it is, it is the caller's
            self._last = _Raised(error)
        self._call = None
        self.outbox.put(self._last)
        return False


class _Shared(_Work):
    """A function of an item, which may run on the items of others at once."""

    def __init__(self, work: Callable[[list[A]], list[Any]], item: A, most: int | None) -> None:
        super().__init__(lambda: work([item])[0])
        self.work, self.item, self.most = work, item, most

    @property
    def is_wanted(self) -> bool:
        cancelled = self._context.get(CANCELLED)
        return not (self.is_gone.is_set() or (cancelled is not None and cancelled.is_set()))

    def end(self, result: Any) -> None:
        """Hand over what running it together gave."""
        self._call = None
        self.outbox.put(result)


class _RowRequest:
    """A row that is waiting, or being written."""

    desk: _Desk

    def __init__(self, row: Row, stepwise: bool) -> None:
        self.row = row
        self.stepwise = stepwise
        self.outbox: SimpleQueue[Any] = SimpleQueue()
        self.ended = threading.Event()
        self.is_taken = self.is_closed = False  # by the caller
        self.is_known = self.is_paused = False  # by the owner
        self.threads = torch.get_num_threads()

    @property
    def is_wanted(self) -> bool:
        """Whether the caller has taken so many steps that more are to be written."""
        return self.outbox.qsize() < AHEAD // 2

    def wake(self) -> None:
        """Let the owner look at the row again."""
        self.desk.inbox.put(self)

    def deliver(self) -> None:
        """Hand over what there is."""
        row = self.row
        if row.error is not None:
            self.outbox.put(_Raised(row.error))
        elif row.is_done or self.stepwise:
            self.outbox.put((row.output(), row.is_done))
        if row.is_done:
            self.ended.set()

    def drop(self) -> None:
        self.row.error = CancelledError()
        self.deliver()


class _Owner:
    """What the thread that owns the model has before it."""

    def __init__(self, desk: _Desk, most_tokens: int, most_together: int) -> None:
        self._desk = desk
        self._most_tokens = most_tokens
        self._most_together = most_together
        self._work: deque[_Work] = deque()
        self._waiting: deque[_RowRequest] = deque()
        self._begun: dict[Row, _RowRequest] = {}
        self._batch: StepBatch | None = None
        self._owed = 0.0  # seconds of writing, for those that the last chunk took

    @property
    def is_busy(self) -> bool:
        return bool(self._work or self._waiting or (self._batch is not None and self._batch.rows))

    @property
    def is_free(self) -> bool:
        """Whether nothing is left, not even rows that pause."""
        return not self._work and not self._waiting and not self._begun

    def receive(self, request: _Work | _RowRequest) -> None:
        if request.threads != torch.get_num_threads():
            torch.set_num_threads(request.threads)  # as in the caller's thread
        if isinstance(request, _Work):
            self._work.append(request)
        elif not request.is_known:
            request.is_known = True
            self._waiting.append(request)
        elif request.is_paused and self._batch is not None and (request.is_closed or request.is_wanted):
            request.is_paused = False
            self._batch.add(request.row)

    def turn(self) -> None:
        """Do some work, read one chunk, and write one step."""
        if self._work:
            self._do_work()
            if self._batch is not None and self._batch.rows:
                self._receive_rows()
        self._desk.is_stepping = True  # before the rows are looked at; see `RowSteps.close`
        try:
            self._step()
        finally:
            self._desk.is_stepping = False

    def _do_work(self) -> None:
        """Do the first piece of work, and those behind it until it is time for a step."""
        began = time.perf_counter()
        for _ in range(len(self._work)):
            if not self._work:  # several were done at once
                return
            work = self._work.popleft()
            if isinstance(work, _Shared):
                self._run_together(work)
            elif work.run():
                self._work.append(work)
            else:
                self._desk.free.release()
            if time.perf_counter() - began > _WORK_SECONDS:
                return

    def _run_together(self, first: _Shared) -> None:
        """Run a function on the items of all who wait for it, or of as many as may be together."""
        waiting = [work for work in self._work if isinstance(work, _Shared) and work.work == first.work]
        some = [first, *waiting[: (first.most or self._most_together) - 1]]
        for work in some[1:]:
            self._work.remove(work)
        wanted = [work for work in some if work.is_wanted]
        try:
            results = first.work([work.item for work in wanted]) if len(wanted) > 1 else []
        except Exception:  # of one of them: each by itself
            results = []
        for work, result in zip(wanted, results, strict=False):
            work.end(result)
        for work in some:
            work.run()  # nothing, where its end is there
            self._desk.free.release()

    def _receive_rows(self) -> None:
        """See whether those whose work was done put in a row now, which is not to wait for a chunk of others."""
        time.sleep(_BRIEFLY)
        while not self._desk.inbox.empty():
            request = self._desk.inbox.get()
            if request is None:  # the end, which the thread has to see
                self._desk.inbox.put(None)
                return
            self.receive(request)

    def fail(self, error: Exception) -> None:
        """End all rows: the batch itself is broken."""
        for request in [*self._waiting, *self._begun.values()]:
            request.row.error = error
            request.deliver()
        for _ in self._waiting:
            self._desk.free.release()
        self._waiting.clear()
        self._begun.clear()
        self._batch = None

    def _step(self) -> None:
        for request in [each for each in self._waiting if _is_gone(each)]:
            self._waiting.remove(request)
            self._desk.free.release()
            request.drop()
        for request in [each for each in self._begun.values() if _is_gone(each)]:
            if self._batch is not None:
                self._batch.drop(request.row)
            del self._begun[request.row]
            request.drop()
        while self._waiting and self._has_room(self._waiting[0].row):
            request = self._waiting.popleft()
            self._desk.free.release()
            self._begun[request.row] = request
            self._batch = self._batch or StepBatch(request.row.backbone, request.row.recorded)
            self._batch.add(request.row)
        if self._batch is not None:
            self._read_and_write(self._batch)
        if not self._begun:
            self._batch = None

    def _read_and_write(self, batch: StepBatch) -> None:
        """Read and write one step. Short prompts are read first, long ones for half of the time that others write."""
        self._deliver(batch.read(short_only=True))
        began = time.perf_counter()
        if not batch.writing or self._owed <= 0:
            self._deliver(batch.read())
            self._owed, began = time.perf_counter() - began, time.perf_counter()
        self._deliver(batch.step())
        self._owed -= time.perf_counter() - began

    def _deliver(self, rows: list[Row]) -> None:
        for row in rows:
            request = self._begun[row]
            if request.stepwise and not row.is_done and request.outbox.qsize() >= AHEAD - 1 and self._batch is not None:
                self._batch.pause(row)
                request.is_paused = True
            request.deliver()
            if request.is_paused and request.is_wanted:  # taken meanwhile, by a caller who saw no pause
                request.wake()
            if row.is_done:
                del self._begun[row]

    def _has_room(self, row: Row) -> bool:
        """Whether a row fits beside the others, with the longest answers that they may have."""
        rows = [*(self._batch.rows if self._batch is not None else ()), row]
        places = -(-len(rows) // 4) * 4
        longest = max(each.most_tokens for each in rows)
        return len(rows) == 1 or (len(rows) <= MOST_ROWS and places * longest <= self._most_tokens)


def _is_gone(request: _RowRequest) -> bool:
    return request.is_closed or request.row.is_gone()


def _serve(desk: _Desk, most_tokens: int, most_together: int) -> None:
    """Own the model: take requests until there is nobody left who could make one."""
    while (request := desk.inbox.get()) is not None:
        owner = _Owner(desk, most_tokens, most_together)
        owner.receive(request)
        del request  # nothing is held while there is nothing to do
        if not _serve_all(desk, owner):
            return
        del owner


def _serve_all(desk: _Desk, owner: _Owner) -> bool:
    """Serve until nothing is left to do; return False where the thread is to end."""
    while not owner.is_free:
        try:
            request = desk.inbox.get(block=not owner.is_busy)
            if request is None:
                return False
            owner.receive(request)
            continue
        except Empty:
            pass
        try:
            owner.turn()
        except Exception as error:
            owner.fail(error)
    return True


_threads: "weakref.WeakSet[threading.Thread]" = weakref.WeakSet()
_desks: "weakref.WeakSet[_Desk]" = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """Let no thread run into the end of the interpreter."""
    for desk in list(_desks):
        desk.inbox.put(None)
    for thread in list(_threads):
        thread.join(5)
