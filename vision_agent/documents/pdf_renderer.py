"""The program in which PDFium runs: started by `pdf_process.py`, as a process of its own that can be killed.

It reads a request from stdin (a line of JSON, then as many bytes as the line's `bytes` says) and answers on stdout in
the same form, until stdin ends. A request's `seconds` are those of computing that it may take. The pixels of a page go
into memory that both processes see, where there is such.

    open   {path, or None and the file's bytes; password, limits, name, memory}   -> {pages}
    page   {number, layer}                                                        -> a DrawnPage, pickled
    close  {}                                                                     -> {}

An answer with `error` says what is wrong with the document instead.
"""

import contextlib
import ctypes
import errno
import json
import mmap
import os
import pickle
import signal
import stat
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from vision_agent.documents.pdf import PdfFile
    from vision_agent.documents.pdf_bounds import FileContent

_IDLE = 300.0  # seconds without a request after which this process ends; the next document starts another


def main(folders: list[str], shared: int | None) -> None:
    """Serve requests. `folders`: where numpy and pypdfium2 lie; `shared`: the descriptor of the memory for pixels."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
    requests = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whatever a library prints is no answer
    watch = _Watch()
    threading.Thread(target=watch.run, daemon=True).start()
    sys.path += folders
    _stand_in_for_packages()
    server = _Server(shared)
    _send(answers, {}, b"")
    while line := requests.readline():
        request = json.loads(line)
        data = requests.read(request["bytes"])
        with watch.busy():
            begun = time.process_time()
            _end_after(request["seconds"])
            try:
                answer, content = server.answer(request, data)
            except Exception as error:  # a broken document may break anything; the next one is read as before
                kind = "MemoryError" if getattr(error, "errno", None) == errno.ENOMEM else type(error).__name__
                answer, content = {"error": kind, "why": str(error)}, b""
            _end_after(0)
            _send(answers, answer | {"seconds": time.process_time() - begun}, content)


def _end_after(seconds: float) -> None:
    """Have this process ended after so many seconds of computing from now; 0 for never."""
    if hasattr(signal, "ITIMER_PROF"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _stand_in_for_packages() -> None:
    """Let the few modules needed here be imported without the package around them, which takes a second."""
    root = Path(__file__).parents[1]
    for name in ("vision_agent", "vision_agent.documents", "vision_agent.images"):
        package = ModuleType(name)
        package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = package


def _send(answers: BinaryIO, answer: dict[str, Any], content: bytes) -> None:
    answers.write(json.dumps(answer | {"bytes": len(content)}).encode() + b"\n" + content)
    answers.flush()


class _Watch:
    """Ends this process when its parent is gone, also in the middle of a page, or when nothing was asked for long."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = time.monotonic()

    def run(self) -> None:
        parent = os.getppid()
        while os.getppid() == parent:
            time.sleep(0.5)
            if self._lock.acquire(blocking=False):
                if time.monotonic() - self._last > _IDLE:
                    os._exit(0)
                self._lock.release()
        os._exit(1)

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        with self._lock:
            yield
            self._last = time.monotonic()


class _Server:
    def __init__(self, shared: int | None) -> None:
        import pypdfium2

        from vision_agent.documents import pdf, pdf_bounds
        from vision_agent.images.limits import ImageLimits

        self._new_bitmap: Any = pypdfium2.PdfBitmap.new_native
        self._open_pdf, self._large_images, self._limits = pdf.PdfFile, pdf_bounds.large_images, ImageLimits
        self._shared = shared
        self._pixels: mmap.mmap | None = None
        self._document: PdfFile | None = None
        self._at_start = _address_space()

    def answer(self, request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        if request["kind"] == "page" and self._document is not None:
            page = self._document.page(request["number"], with_layer=request["layer"], bitmap_maker=self._bitmap)
            pixels = self._pixels[:] if self._shared is None and self._pixels is not None else b""
            return {}, pickle.dumps(page, protocol=5) + pixels
        if self._document is not None:
            self._document.close()
            self._document = None
        if request["kind"] == "open":
            self._document = self._open(request, data)
            return {"pages": len(self._document)}, b""
        return {}, b""

    def _open(self, request: dict[str, Any], data: bytes) -> "PdfFile":
        _limit_memory(None)  # the one before may have had less
        content = data if request["path"] is None else _mapped(request["path"])
        _limit_memory(self._at_start + request["memory"] + 2 * len(content))
        limits, name = self._limits(**request["limits"]), request["name"]
        large = self._large_images(content, limits)
        # PDFium reads it in place, without another copy.
        whole = content if isinstance(content, bytes) else (ctypes.c_ubyte * len(content)).from_buffer(content)
        document = self._open_pdf(whole, password=request["password"], limits=limits, name=name)
        document.refuse_hidden(large)
        return document

    def _bitmap(self, width: int, height: int, **settings: Any) -> Any:
        """A bitmap in the memory that the parent sees too."""
        size = width * height * 3
        if self._shared is None:
            self._pixels = mmap.mmap(-1, size)
        elif self._pixels is None or not size <= len(self._pixels) == os.fstat(self._shared).st_size:
            os.ftruncate(self._shared, size)
            self._pixels = mmap.mmap(self._shared, size)
        return self._new_bitmap(width, height, buffer=(ctypes.c_ubyte * size).from_buffer(self._pixels), **settings)


def _mapped(path: str) -> "FileContent":
    """A file as memory. Private and writable, as ctypes wants it; a file that shrinks ends this process alone."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode) or not info.st_size:
            return b""
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)
    finally:
        os.close(descriptor)


def _address_space() -> int:
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[0]) * mmap.PAGESIZE
    except OSError:  # not Linux
        return 1 << 30


def _limit_memory(most: int | None) -> None:
    """Let what needs more memory than this fail, here, instead of taking it from everybody."""
    try:
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (hard if most is None else most, hard))
    except (ImportError, ValueError, OSError):  # a system without this limit: time and pixels are still bounded
        return


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
