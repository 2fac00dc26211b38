"""Where requests wait for their turn, and where the work for one of them stops when its client leaves."""

import asyncio
import contextlib
import contextvars
import math
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from starlette.types import Receive

from vision_agent.plugins.cancellation import CANCELLED, raise_if_cancelled
from vision_agent.serve.counters import Counters
from vision_agent.serve.options import ServeOptions
from vision_agent.serve.problems import ClientGoneError, Problem

R = TypeVar("R")
T = TypeVar("T")
_END = object()


class Desk:
    """Lets so many requests be worked on side by side, each in a thread of its own; the others wait, or are sent away.

    Attributes:
        draining: no request is taken any more.
    """

    def __init__(self, options: ServeOptions, counters: Counters) -> None:
        self._options = options
        self._counters = counters
        self._threads = ThreadPoolExecutor(options.max_running, thread_name_prefix="vision-agent")
        self._free = options.max_running
        self._waiting: list[asyncio.Future[None]] = []
        self._usual = 1.0  # seconds that a request takes
        self.draining = False

    def close(self) -> None:
        """Take no more work; what runs ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    @contextlib.asynccontextmanager
    async def turn(self, receive: Receive, *, patient: bool = False) -> AsyncIterator["Turn"]:
        """Wait for a turn, and hold it.

        Args:
            receive: tells when the client leaves.
            patient: nobody waits at the other end: it is a job, which waits as long as it must.

        Raises:
            Problem: 429 where the queue is full or the wait was too long; 503 where the server stops.
            ClientGoneError: the client left while it waited.
        """
        gone = asyncio.ensure_future(_until_gone(receive))
        began = time.perf_counter()
        try:
            await self._enter(gone, patient)
            self._counters.see("queue_seconds", time.perf_counter() - began)
            started = time.perf_counter()
            seconds = self._options.job_seconds if patient else self._options.request_seconds
            turn = Turn(self._threads, gone, seconds, started - began)
            self._counters.add("requests_running")
            try:
                yield turn
            finally:
                # A thread cannot be stopped: the place is free when it has ended, some steps after it was told to.
                turn.when_idle(self._leave)
                self._usual += 0.2 * (time.perf_counter() - started - self._usual)
        finally:
            gone.cancel()

    async def _enter(self, gone: "asyncio.Future[None]", patient: bool) -> None:
        if self.draining and not patient:
            raise Problem(503, "the server is stopping", kind="server_error", code="stopping")
        if self._free > 0:
            self._free -= 1
            return
        if not patient and len(self._waiting) >= self._options.max_queue:
            raise self._busy(f"{len(self._waiting)} requests are waiting already")
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        self._counters.add("requests_waiting")
        try:
            longest = None if patient else self._options.queue_seconds
            await asyncio.wait({place, gone}, timeout=longest, return_when=asyncio.FIRST_COMPLETED)
            if place.done():
                return
            if gone.done():
                raise ClientGoneError
            raise self._busy(f"no turn came within {self._options.queue_seconds:g} seconds")
        except asyncio.CancelledError:
            if place.done():
                self._leave(counted=False)
            raise
        finally:
            self._counters.add("requests_waiting", -1)
            if place in self._waiting:
                self._waiting.remove(place)

    def _leave(self, counted: bool = True) -> None:
        """Give the place to whoever waits longest. Runs in the event loop."""
        if counted:
            self._counters.add("requests_running", -1)
        if self._waiting:
            self._waiting.pop(0).set_result(None)
        else:
            self._free += 1

    def _busy(self, why: str) -> Problem:
        rounds = (len(self._waiting) + 1) / self._options.max_running
        seconds = min(120, max(1, math.ceil(self._usual * rounds)))
        return Problem(
            429,
            f"the server is busy: {why}; come again in {seconds} seconds",
            kind="rate_limit_error",
            code="queue_full",
            headers={"retry-after": str(seconds)},
        )


class Turn:
    """One request that is worked on.

    Attributes:
        waited: seconds in the queue.
    """

    def __init__(
        self, threads: ThreadPoolExecutor, gone: "asyncio.Future[None]", seconds: float, waited: float
    ) -> None:
        self.waited = waited
        self._threads = threads
        self._gone = gone
        self._seconds = seconds
        self._began = asyncio.get_running_loop().time()
        self._until = self._began + seconds
        self._abandoned = threading.Event()
        self._work: asyncio.Future[Any] | None = None

    @property
    def seconds(self) -> float:
        """Seconds since the turn came."""
        return asyncio.get_running_loop().time() - self._began

    async def run(self, work: Callable[[], R]) -> R:
        """Run `work` in a thread, until it ends, the client leaves, or the time is up.

        Raises:
            Problem: the time is up. ClientGoneError: the client left. In both cases the model stops after its step.
        """
        task = self._started(work)
        await self._wait_for(task)
        return task.result()

    async def stream(self, work: Callable[[Callable[[T], None]], None]) -> AsyncGenerator[T, None]:
        """Yield what `work` hands to its argument, as it does so; raises what `run` raises."""
        loop = asyncio.get_running_loop()
        ready: asyncio.Queue[Any] = asyncio.Queue()

        def emit(item: Any) -> None:
            raise_if_cancelled(self._abandoned)
            loop.call_soon_threadsafe(ready.put_nowait, item)

        def whole() -> None:
            try:
                work(emit)
            finally:
                with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits
                    loop.call_soon_threadsafe(ready.put_nowait, _END)

        task = self._started(whole)
        while True:
            item = asyncio.ensure_future(ready.get())
            try:
                await self._wait_for(item)
                if (got := item.result()) is _END:
                    break
            finally:
                item.cancel()
            yield got
        await asyncio.wait({task})
        task.result()

    def when_idle(self, then: Callable[[], None]) -> None:
        """Call `then` when no thread works on the request any more; tell one that does to stop."""
        if self._work is None or self._work.done():
            then()
            return
        self._abandoned.set()

        def ended(work: "asyncio.Future[Any]") -> None:
            if not work.cancelled():
                work.exception()  # asked for, so that it does not count as lost: nobody waits for it any more
            then()

        self._work.add_done_callback(ended)

    def _started(self, work: Callable[[], R]) -> "asyncio.Future[R]":
        context = contextvars.copy_context()
        context.run(CANCELLED.set, self._abandoned)
        task = asyncio.wrap_future(self._threads.submit(context.run, work))
        self._work = task
        return task

    async def _wait_for(self, some: "asyncio.Future[Any]") -> None:
        left = self._until - asyncio.get_running_loop().time()
        await asyncio.wait({some, self._gone}, timeout=max(0.0, left), return_when=asyncio.FIRST_COMPLETED)
        if some.done():
            return
        self._abandoned.set()
        if self._gone.done():
            raise ClientGoneError
        # No 408 or 5xx: clients would send it again, and it would take as long again.
        said = f"the answer took longer than {self._seconds:g} seconds; ask for less at once"
        raise Problem(422, said, kind="timeout_error", code="request_timeout")


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
