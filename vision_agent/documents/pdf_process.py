"""Processes in which PDFium draws, kept warm and killed when a document takes too long.

PDFium is not safe in several threads, cannot be stopped, and crashes on some broken files. Here each document that is
being drawn has a process of its own (`pdf_renderer.py`): a hostile one costs its own process, while others go on. A
process that is done waits for the next document. They end with this process, however it ends.
"""

import atexit
import importlib.util
import json
import mmap
import os
import signal
import subprocess
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import spawn
from pathlib import Path
from typing import IO, Any

from vision_agent.errors import DocumentError, require_package

_PROGRAM = Path(__file__).with_name("pdf_renderer.py")
_START = 30.0  # seconds in which a process starts
_WALL_TIMES = 4.0  # seconds on the clock for one of computing, on a machine with other work
_LONGEST = 86400.0
_OUT_OF_TIME = -getattr(signal, "SIGPROF", 0) or None  # the exit code of one that computed too long
_MOST_WAITING = 4  # processes that are kept without work; a document that loses its own is opened again in another
_KEPT_PIXELS = 1 << 25  # bytes of a page's image for which memory is kept


class RendererGoneError(Exception):
    """A process ended in the middle of a request.

    Attributes:
        timed_out: whether it was killed because it took too long.
        code: its exit code; 0 if it had ended by itself, for want of work.
    """

    def __init__(self, timed_out: bool, code: int) -> None:
        super().__init__(f"it ended with code {code}")
        self.timed_out = timed_out
        self.code = code


class Renderer:
    """One process; for one thread at a time.

    Attributes:
        document: what it has open: any object that its user tells it by.
    """

    def __init__(self) -> None:
        self.document: object | None = None
        # Memory without a name, for the pixels; elsewhere they come through the pipe.
        self._shared = os.memfd_create("pdf page") if hasattr(os, "memfd_create") else None
        self._mapped: mmap.mmap | None = None
        python = os.fsdecode(spawn.get_executable())
        # -I and -S: nothing of the environment or of the site's start-up files, which take time.
        command = [python, "-I", "-S", str(_PROGRAM), json.dumps(_library_folders())]
        self._process = subprocess.Popen(
            command + ([] if self._shared is None else [str(self._shared)]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=() if self._shared is None else (self._shared,),
            start_new_session=True,  # a terminal's Ctrl-C is not for it
        )
        _ALL.add(self)
        try:
            self._answer(_START, {}, b"", started=False)
        except BaseException:
            self.kill()
            raise

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def call(self, request: dict[str, Any], data: bytes, seconds: float) -> tuple[dict[str, Any], bytes]:
        """Send a request and wait for its answer: a dictionary, and bytes.

        The process ends after `seconds` of computing, so that a busy machine makes no difference, and is killed after
        a few times as many on the clock.

        Raises:
            RendererGoneError: it was killed, or has ended otherwise.
        """
        return self._answer(seconds, request, data, started=True)

    def _answer(
        self, seconds: float, request: dict[str, Any], data: bytes, *, started: bool
    ) -> tuple[dict[str, Any], bytes]:
        late = threading.Event()

        def stop() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(min(_WALL_TIMES * seconds, _LONGEST), stop)
        timer.daemon = True
        timer.start()
        sent, heard = _pipes(self._process)
        try:
            if started:
                line = json.dumps(request | {"seconds": min(seconds, _LONGEST), "bytes": len(data)})
                _write(sent.fileno(), line.encode() + b"\n")
                _write(sent.fileno(), data)
            answer = json.loads(heard.readline())
            content = heard.read(answer["bytes"])
            if len(content) < answer["bytes"]:
                raise EOFError
            return dict(answer), content
        except (EOFError, OSError, ValueError) as error:  # the pipe is broken, closed, or ends within an answer
            with suppress(subprocess.TimeoutExpired):  # it is ending; how it does is told apart by its code
                self._process.wait(1)
            code = self.kill()
            raise RendererGoneError(late.is_set() or code == _OUT_OF_TIME, code) from error
        finally:
            timer.cancel()

    @contextmanager
    def pixels(self, size: int, content: bytes) -> Iterator[Any]:
        """Lend the bytes of the page that was drawn last: `size` of them, from shared memory or the answer's end."""
        if self._shared is None:
            yield memoryview(content)[-size:]
            return
        if self._mapped is None or len(self._mapped) != os.fstat(self._shared).st_size:
            self._forget_pixels()
            self._mapped = mmap.mmap(self._shared, os.fstat(self._shared).st_size, access=mmap.ACCESS_READ)
        with memoryview(self._mapped) as view, view[:size] as page:
            yield page
        if len(self._mapped) > _KEPT_PIXELS:
            self._forget_pixels()
            os.ftruncate(self._shared, 0)

    def _forget_pixels(self) -> None:
        if self._mapped is not None:
            self._mapped.close()
            self._mapped = None

    def kill(self) -> int:
        """End the process at once, and return its exit code."""
        self._process.kill()
        code = self._process.wait()
        for pipe in _pipes(self._process):
            pipe.close()
        self._forget_pixels()
        if self._shared is not None:
            os.close(self._shared)
            self._shared = None
        return code

    def leave(self) -> None:
        """Do nothing with the process any more, which after a fork is the parent's."""
        self._process.returncode = 0


def _write(descriptor: int, data: bytes) -> None:
    """Write all of it, past any buffer: one that is half full when this process forks would be written twice."""
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def _pipes(process: "subprocess.Popen[bytes]") -> tuple[IO[bytes], IO[bytes]]:
    assert process.stdin is not None and process.stdout is not None
    return process.stdin, process.stdout


def _library_folders() -> list[str]:
    """Where numpy and PDFium's modules lie: all that the process imports besides the standard library and us."""
    require_package("pypdfium2", 'PDFs need pypdfium2: pip install "internvl-vision-agent[ocr]"')
    folders = []
    for module in ("numpy", "pypdfium2", "pypdfium2_raw", "pypdfium2_cfg"):
        found = importlib.util.find_spec(module)
        if found is not None and found.origin is not None:
            folders.append(str(Path(found.origin).parents[1].resolve()))
    return list(dict.fromkeys(folders))


_ALL: "weakref.WeakSet[Renderer]" = weakref.WeakSet()


class RendererPool:
    """Processes without work, the one used last at the end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[Renderer] = []
        self._inherited: list[Renderer] = []  # of the process that this one was forked from; never used, never closed

    @contextmanager
    def lent(self, document: object) -> Iterator[Renderer]:
        """Lend a process: the one that has `document` open, else one that is free, else a new one.

        It is killed if an error leaves the block, as nobody knows then what it is doing; not for what it said itself
        of a document.
        """
        renderer = self._take(document) or Renderer()
        try:
            yield renderer
        except DocumentError:
            self._keep(renderer)
            raise
        except BaseException:
            renderer.kill()
            raise
        self._keep(renderer)

    def _keep(self, renderer: Renderer) -> None:
        with self._lock:
            self._waiting.append(renderer)
            over = self._waiting[:-_MOST_WAITING]
            del self._waiting[:-_MOST_WAITING]
        for each in over:
            each.kill()

    def has(self, document: object) -> bool:
        """Return whether a process without work has a document open."""
        with self._lock:
            return any(each.document is document for each in self._waiting)

    def _take(self, document: object) -> Renderer | None:
        with self._lock:
            gone = [each for each in self._waiting if not each.alive]
            alive = [each for each in self._waiting if each not in gone]
            own = [each for each in alive if each.document is document]
            free = [each for each in alive if each.document is None]
            chosen = (own or free)[-1:] or (alive[:1] if len(alive) >= _MOST_WAITING else [])
            self._waiting = [each for each in alive if each not in chosen]
        for each in gone:
            each.kill()
        return chosen[0] if chosen else None

    def end(self) -> None:
        """End all processes."""
        with self._lock:
            self._waiting.clear()
        for each in list(_ALL):
            each.kill()

    def after_fork(self) -> None:
        """Leave the processes to the parent, in a process that was forked from it."""
        self._lock = threading.Lock()
        self._waiting = []
        for each in list(_ALL):
            each.leave()
            self._inherited.append(each)
        _ALL.clear()


POOL = RendererPool()
atexit.register(POOL.end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=POOL.after_fork)
