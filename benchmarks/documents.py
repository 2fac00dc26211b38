"""Memory of one process that reads a long PDF: whether anything grows with the number of pages that are past.

    python benchmarks/documents.py --pages 1000

The PDF is made here: letters, tables and forms with their own text, and every twentieth page as a scan. Pages are read
one by one (`DocumentReader.pages`) and dropped. Prints the memory that the process and those that it started hold,
after each of ten equal parts, and the growth from the second part to the last: the first fills what is kept on purpose.
"""

import argparse
import gc
import io
import random
import tempfile
import time
from pathlib import Path

import psutil
import pypdfium2
from PIL import Image
from reportlab.lib.pagesizes import A4
from reportlab.lib.utils import ImageReader
from reportlab.pdfgen.canvas import Canvas

from vision_agent.documents.reader import DocumentReader

_WORDS = Path(__file__).parents[1].joinpath("README.md").read_text("utf-8").split()
_SCANNED = 20  # every one of so many pages


def resident() -> int:
    """Return the bytes of memory that this process and those that it started hold now."""
    own = psutil.Process()
    held = 0
    for process in (own, *own.children(recursive=True)):
        try:
            held += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return held


def page(canvas: Canvas, number: int) -> None:
    """Draw a page; what is on it follows from its number."""
    draw = random.Random(number)
    canvas.setFont("Helvetica-Bold", 16)
    canvas.drawString(60, 780, f"Document {number}")
    canvas.setFont("Helvetica", 10)
    for row in range(draw.randrange(4, 10)):
        canvas.drawString(60, 750 - 14 * row, " ".join(draw.choices(_WORDS, k=8))[:95])
    for row, name in enumerate(("Number", "Date", "Name", "Reference")):
        canvas.drawString(60, 600 - 16 * row, f"{name}:")
        canvas.drawString(160, 600 - 16 * row, f"{draw.randrange(10**6)} {draw.choice(_WORDS)}"[:40])
    rows = draw.randrange(3, 12)
    canvas.grid([60, 260, 360, 480], [480 - 18 * row for row in range(rows + 1)])
    for row in range(rows):
        for column, at in enumerate((64, 264, 364)):
            text = draw.choice(_WORDS)[:20] if column == 0 else f"{draw.uniform(1, 900):.2f}"
            canvas.drawString(at, 467 - 18 * row, text)


def write(file: Path, pages: int) -> None:
    """Write the PDF."""
    canvas = Canvas(str(file), pagesize=A4)
    for number in range(1, pages + 1):
        if number % _SCANNED == 0:
            canvas.drawImage(ImageReader(_scan(number)), 0, 0, *A4)
        else:
            page(canvas, number)
        canvas.showPage()
    canvas.save()


def _scan(number: int) -> Image.Image:
    buffer = io.BytesIO()
    canvas = Canvas(buffer, pagesize=A4)
    page(canvas, number)
    canvas.showPage()
    canvas.save()
    opened = pypdfium2.PdfDocument(buffer.getvalue())
    picture: Image.Image = opened[0].render(scale=1.6).to_pil().convert("L")
    opened.close()
    return picture


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Watch the memory of reading a long PDF.")
    parser.add_argument("--pages", type=int, default=1000)
    given = parser.parse_args()
    part = max(1, given.pages // 10)
    held: list[int] = []
    begun, words = time.perf_counter(), 0
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "long.pdf"
        write(file, given.pages)
        for number, read in enumerate(DocumentReader().pages(file), 1):
            words += len(read.words)
            if number % part == 0:
                gc.collect()
                held.append(resident())
                print(
                    f"{number:5} pages  {held[-1] / 2**20:7.0f} MiB  {time.perf_counter() - begun:6.0f} s", flush=True
                )
    growth = held[-1] / held[min(1, len(held) - 1)] - 1
    print(f"{words} words; memory from the second part to the last: {growth:+.1%}")


if __name__ == "__main__":
    main()
