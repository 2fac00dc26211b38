"""PDFs that were made to hold up the process: each is stopped, and nothing else is."""

import io
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import hostile_pdfs
import psutil
import pytest
from PIL import Image

from vision_agent import DocumentError, ImageError, ImageLimits
from vision_agent.documents import pdf_process
from vision_agent.documents.bounded_pdf import BoundedPdf
from vision_agent.documents.source import page_images

INVOICE = Path(__file__).parents[2] / "examples" / "invoice.pdf"
SHORT = ImageLimits(page_timeout=0.1)
SHORTEST = ImageLimits(page_timeout=0.01)  # for what a fast machine finishes soon


def pages_of(source: Any, limits: ImageLimits | None = None) -> list[Image.Image]:
    return [page.image for page in page_images(source, limits=limits)]


def children() -> list[int]:
    """The processes that draw, of this one."""
    found = []
    for each in psutil.Process().children():
        try:
            if any("pdf_renderer" in part for part in each.cmdline()):
                found.append(each.pid)
        except psutil.Error:  # ended in between
            continue
    return found


# --- time


@pytest.mark.parametrize("kind", [kind for kind in hostile_pdfs.SLOW if kind not in ("inflated", "pages of pages")])
def test_a_page_that_takes_too_long_is_stopped(kind: str) -> None:
    data = hostile_pdfs.SLOW[kind]()
    assert len(data) < 25_000
    with pytest.raises(DocumentError, match=r"drawing page 1 takes longer than .*limits.page_timeout"):
        pages_of(data, SHORT)


@pytest.mark.parametrize("kind", ["inflated", "pages of pages"])
def test_trees_and_streams_that_unfold_without_end_are_bounded(kind: str) -> None:
    with pytest.raises(DocumentError, match=r"page_timeout|broken|memory"):
        pages_of(hostile_pdfs.SLOW[kind](), SHORTEST)


def test_other_documents_go_on_while_one_is_stopped() -> None:
    """Also in the order of events: the other document is done before the hostile one is."""
    done: list[str] = []
    ready = threading.Event()

    def hostile() -> None:
        ready.set()
        with pytest.raises(DocumentError, match="takes longer"):
            pages_of(hostile_pdfs.SLOW["strokes"](), ImageLimits(page_timeout=1))
        done.append("hostile")

    pages_of(INVOICE)  # a process is warm
    thread = threading.Thread(target=hostile)
    thread.start()
    ready.wait()
    for _ in range(3):
        assert pages_of(INVOICE)[0].size == (1414, 2000)
    done.append("other")
    thread.join()
    assert done == ["other", "hostile"]


def test_a_whole_file_has_a_bound_too() -> None:
    """Hundreds of pages, of which each alone would be allowed."""
    limits = ImageLimits(page_timeout=0.04)
    with BoundedPdf(hostile_pdfs.many_pages(300, b"0 0 m 200 200 l S " * 200), limits=limits) as pdf:
        drawn = 0
        with pytest.raises(DocumentError, match="takes longer"):
            for number in range(1, 301):
                pdf.page(number)
                drawn += 1
    assert 3 < drawn < 290


def test_large_files_get_more_time() -> None:
    """What is padded to four megabytes may take longer than what is small; the padding is read as a comment."""
    data = hostile_pdfs.page_of(b"0 0 m 200 200 l S " * 800)
    limits = ImageLimits(page_timeout=0.03)
    with pytest.raises(DocumentError, match=r"takes longer than 0\.03"):
        pages_of(data, limits)
    padded = data.replace(b"%PDF-1.7\n", b"%PDF-1.7\n%" + b"x" * 4_000_000 + b"\n")
    assert len(pages_of(padded, limits)) == 1


# --- pixels and memory


@pytest.mark.parametrize("kind", hostile_pdfs.LARGE)
def test_images_obey_the_limits_wherever_they_are_used(kind: str) -> None:
    limits = ImageLimits(max_pixels=1_000_000)
    assert pages_of(hostile_pdfs.LARGE[kind](400), limits)[0].size == (476, 476)
    with pytest.raises(DocumentError, match=r"at most 1000000 pixels \(`limits.max_pixels`\), but one is 1200 x 1200"):
        pages_of(hostile_pdfs.LARGE[kind](1200), limits)


def test_pages_without_the_image_that_is_too_large_are_read() -> None:
    file = io.BytesIO()
    pages = [Image.new("L", (side, side), 200) for side in (300, 1200, 320)]
    pages[0].save(file, "PDF", save_all=True, append_images=pages[1:])  # Pillow's own writer
    with BoundedPdf(file.getvalue(), limits=ImageLimits(max_pixels=1_000_000)) as pdf:
        assert len(pdf) == 3 and pdf.page(1).image.width > 0
        with pytest.raises(DocumentError, match=r"page 2 of `source` must hold images .* but one is 1200 x 1200"):
            pdf.page(2)
        assert pdf.page(3).image.width > 0


@pytest.mark.parametrize("box", [b"0 0 14400 14400", b"0 0 1e30 1e30", b"0 0 nan inf"])
def test_pages_of_any_size_obey_the_limits(box: bytes) -> None:
    data = hostile_pdfs.page_of(b"0 0 m 9 9 l S", box=box)
    (small,) = pages_of(data, ImageLimits(max_pixels=10_000, max_side=90))
    assert small.width * small.height <= 10_000 and max(small.size) <= 90


@pytest.mark.parametrize("box", [b"0 0 1 14400", b"0 0 14400 1", b"0 0 0.001 0.001"])
def test_pages_of_a_shape_that_no_image_may_have_are_refused(box: bytes) -> None:
    with pytest.raises(DocumentError, match="page 1 of `source` must have sides from 8 to 50000 pixels"):
        pages_of(hostile_pdfs.page_of(b"0 0 m 9 9 l S", box=box))


def test_a_process_that_is_out_of_memory_costs_its_page_alone() -> None:
    with BoundedPdf(INVOICE) as pdf:
        pdf._opening["memory"] = 1 << 20  # less than any page takes
        with pdf_process.POOL.lent(pdf) as renderer:
            renderer.document = None
        with pytest.raises(DocumentError, match="needs more memory than it may take"):
            pdf.page(1)
    assert len(pages_of(INVOICE)) == 1


# --- processes


def test_a_process_is_kept_and_used_again() -> None:
    pages_of(INVOICE)
    before = children()
    for _ in range(3):
        pages_of(INVOICE)
        pages_of(INVOICE.read_bytes())
    assert children() == before and 1 <= len(before) <= 5


def test_documents_that_are_open_at_once_share_few_processes() -> None:
    """More than there are processes for: each is opened again where it has lost its own."""
    data = [hostile_pdfs.many_pages(3, b"", box=b"0 0 %d 100" % (100 + 10 * at)) for at in range(9)]
    opened = [page_images(each) for each in data]
    widths = [[next(pages).image.width for pages in opened] for _ in range(3)]
    assert widths[0] == widths[1] == widths[2] == sorted(set(widths[0])) and len(set(widths[0])) == 9
    assert len(children()) <= 5


def test_threads_read_side_by_side() -> None:
    found: list[tuple[int, int]] = []

    def read() -> None:
        for _ in range(3):
            found.extend(image.size for image in pages_of(INVOICE))

    threads = [threading.Thread(target=read) for _ in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert found == [(1414, 2000)] * 18 and len(children()) <= 4


def test_a_killed_process_is_replaced() -> None:
    with BoundedPdf(INVOICE) as pdf:
        for pid in children():
            os.kill(pid, signal.SIGKILL)
            psutil.Process(pid).wait()
        assert pdf.page(1).image.size == (1414, 2000)


def _in_fork(pipe: Any) -> None:
    pipe.send([image.size for image in pages_of(INVOICE)])


@pytest.mark.parametrize("how", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # that threads and fork do not go together
def test_processes_made_of_this_one_have_processes_of_their_own(how: str) -> None:
    context: Any = multiprocessing.get_context(how)
    with BoundedPdf(INVOICE) as pdf:
        pdf.page(1)
        here, there = context.Pipe()
        process = context.Process(target=_in_fork, args=(there,), daemon=True)
        process.start()
        assert here.recv() == [(1414, 2000)]
        process.join()
        assert process.exitcode == 0
        assert pdf.page(1).image.size == (1414, 2000)  # what was open here was left alone


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_processes_end_with_the_one_that_started_them(how: int, tmp_path: Path) -> None:
    """Also in the middle of a page."""
    (tmp_path / "slow.pdf").write_bytes(hostile_pdfs.SLOW["strokes"]())
    program = (
        "import sys; from vision_agent import ImageLimits; from vision_agent.documents.source import page_images\n"
        "print('ready', flush=True); list(page_images(sys.argv[1], limits=ImageLimits(page_timeout=500)))"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "slow.pdf")], stdout=subprocess.PIPE)
    assert parent.stdout is not None and parent.stdout.readline() == b"ready\n"
    while not (drawing := psutil.Process(parent.pid).children()):
        time.sleep(0.02)
    parent.send_signal(how)
    parent.wait()
    parent.stdout.close()
    gone, alive = psutil.wait_procs(drawing, timeout=60)
    assert len(gone) == 1 and not alive


def test_it_works_at_a_prompt(tmp_path: Path) -> None:
    """Without a `__main__` that could be imported again, in a folder that has a module of a known name."""
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')")
    program = (
        f"from vision_agent.documents.source import page_images\nprint(len(list(page_images({str(INVOICE)!r}))))\n"
    )
    command = [sys.executable, "-P", "-"]
    done = subprocess.run(command, input=program, capture_output=True, text=True, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_only_values_come_from_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle

    from vision_agent.documents import bounded_pdf

    with pytest.raises(DocumentError, match=r"posix\.system"):
        bounded_pdf._page(pdf_process.Renderer.__new__(pdf_process.Renderer), pickle.dumps(os.system))


def test_without_shared_memory_pixels_come_through_the_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = pages_of(INVOICE)[0]
    monkeypatch.delattr(os, "memfd_create")
    monkeypatch.setattr(pdf_process.POOL, "_waiting", [])
    assert pages_of(INVOICE)[0].tobytes() == expected.tobytes()


# --- what is no PDF, or none that can be read


def test_files_that_are_no_file_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pdf")
    for path in (tmp_path / "pipe.pdf", "/dev/zero", tmp_path):
        with pytest.raises(ImageError, match=r"which is (not a regular file|a folder)"):
            pages_of(path)
