"""Reading against raw RapidOCR, within one run: words right, and pages a minute.

    python benchmarks/ocr.py [--receipts receipts_900.zip] [--documents 40] [--half 1] [--out FILE.json]
    python benchmarks/ocr.py --receipts receipts_900.zip --fit

Raw is `RapidOCR()(image)` as documented, its lines split at spaces. Ours is `DocumentReader().read(image)`.
Both get the same decoded images. Speed is of whole pages, in turns: a raw page, then ours; then all pages by two
workers. Peak memory is of a process of its own for either. Docling is measured where it is installed and finds its
models without a network. Without receipts, pages of text are drawn, and only the speed means something.

`--fit` prints the weights of `documents.spacing` as fitted on the half of the shops that is not reported on.
"""

import argparse
import io
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rapidocr import RapidOCR

from vision_agent.decoders.ocr import word_spacing as spacing
from vision_agent.decoders.ocr.rapidocr import RapidReader
from vision_agent.documents.options import OcrOptions
from vision_agent.documents.reader import DocumentReader
from vision_agent.documents.result import OcrResult
from vision_agent.evaluate.words import AnnotatedPage, PlacedText, receipts, word_figures

Lines = list[PlacedText]


def drawn_pages(count: int) -> list[AnnotatedPage]:
    """Draw pages of numbered lines in Pillow's own font."""
    pages = []
    for number in range(count):
        image = Image.new("RGB", (1000, 1400), "white")
        pen = ImageDraw.Draw(image)
        for row in range(40):
            text = f"Page {number} line {row}: {number * 7919 + row * 104729} items at {row}.{number % 90 + 10} each"
            pen.text((80, 60 + 32 * row), text, fill="black", font=ImageFont.load_default(20))
        pages.append(AnnotatedPage(f"{number}", image, (), "", {}))
    return pages


def raw_lines(engine: RapidOCR, page: AnnotatedPage) -> Lines:
    read: Any = engine(np.asarray(page.image)[:, :, ::-1])
    if read.boxes is None:
        return []
    return [
        PlacedText(text, (*quad.min(axis=0).tolist(), *quad.max(axis=0).tolist()))
        for text, quad in zip(read.txts, read.boxes, strict=True)
    ]


def our_lines(result: OcrResult) -> Lines:
    return [PlacedText(line.text, line.box.xyxy) for line in result.lines]


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.perf_counter()
    done = work()
    return time.perf_counter() - begin, done


def compare(pages: Sequence[AnnotatedPage], with_words: bool) -> dict[str, Any]:
    engine = RapidOCR(params={"Global.log_level": "critical"})
    document_reader = DocumentReader()
    document_reader.read(pages[0].image, OcrOptions(workers=1))  # models load on first use
    document_reader.read([pages[0].image] * 2, OcrOptions(workers=2))
    raw_lines(engine, pages[0])
    raw_seconds, our_seconds = [], []
    found_raw, found_ours = [], []
    for page in pages:
        seconds, lines = timed(lambda page=page: raw_lines(engine, page))
        raw_seconds.append(seconds)
        found_raw.append((lines, page.lines))
        seconds, result = timed(lambda page=page: document_reader.read(page.image))
        our_seconds.append(seconds)
        found_ours.append((our_lines(result), page.lines))
    memory = peaks(pages)
    together, _ = timed(lambda: document_reader.read([page.image for page in pages], OcrOptions(workers=2)))
    figures: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "pages": len(pages),
        "raw pages a minute": round(60 * len(pages) / sum(raw_seconds), 1),
        "ours pages a minute": round(60 * len(pages) / sum(our_seconds), 1),
        "ours, two workers, pages a minute": round(60 * len(pages) / together, 1),
        # Medians of each page's own ratio: a page and its twin run within seconds of each other.
        "ours / raw, time a page": round(float(np.median(np.divide(our_seconds, raw_seconds))), 2),
        "two workers / one, pages a minute": round(sum(our_seconds) / together, 2),
        **memory,
        "Docling, pages a minute": docling(pages),
    }
    if with_words:
        for name, found in (("raw", found_raw), ("ours", found_ours)):
            words = word_figures(found, ignore_case=True)
            figures[f"{name}: word recall"] = round(words.recall, 4)
            figures[f"{name}: word precision"] = round(words.precision, 4)
            figures[f"{name}: character error rate"] = round(words.character_errors, 4)
        figures["words"] = words.words
    return figures


def _peak(kind: str, images: Sequence[Image.Image]) -> int:
    """In a process of its own: the most memory, MiB, that reading these pages takes, libraries included."""
    if kind == "raw":
        engine = RapidOCR(params={"Global.log_level": "critical"})
        for image in images:
            engine(np.asarray(image)[:, :, ::-1])
    else:
        document_reader = DocumentReader()
        for image in images:
            document_reader.read(image)
    # Not `ru_maxrss`: a new process inherits that of the one that started it. Linux alone has this file.
    status = Path("/proc/self/status").read_text()
    return round(int(status.split("VmHWM:")[1].split()[0]) / 1024)


def peaks(pages: Sequence[AnnotatedPage]) -> dict[str, int]:
    """Measure the peak memory of either on the same few pages."""
    images = [page.image for page in pages[:5]]
    found = {}
    for kind in ("raw", "ours"):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            found[f"{kind}: peak memory MiB"] = pool.submit(_peak, kind, images).result()
    return found


def docling(pages: Sequence[AnnotatedPage]) -> str:
    """Return pages a minute of Docling's own pipeline, or why there is no figure. Nothing is downloaded."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        models, converting = import_module("docling.datamodel.base_models"), import_module("docling.document_converter")
    except ImportError:
        return "not measured: not installed"
    streams = []
    for page in pages:
        buffer = io.BytesIO()
        page.image.save(buffer, "PNG")
        streams.append(models.DocumentStream(name=f"{page.name}.png", stream=buffer))
    converter = converting.DocumentConverter()
    try:
        converter.convert(streams[0])
        seconds, _ = timed(lambda: [converter.convert(stream) for stream in streams[1:]])
    except Exception as error:  # whatever stops it, such as models that must come from a hub, is the answer
        return f"not measured: {type(error).__name__}: {str(error).splitlines()[0][:120]}"
    return f"{60 * (len(streams) - 1) / seconds:.1f}"


def fitted(pages: Sequence[AnnotatedPage]) -> tuple[float, ...]:
    """Fit the weights of spacing to receipts: gaps of lines whose characters were all read rightly."""
    reader = RapidReader()
    rows, spaces = [], []
    for page in pages:
        for quad, glyphs in reader.glyphs(page.image):
            middle = quad.mean(axis=0)
            for line in page.lines:
                x0, y0, x1, y1 = line.box
                inside = x0 <= middle[0] <= x1 and y0 <= middle[1] <= y1
                letters = [part for part in line.text.upper().split() if part]
                if inside and "".join(letters) == "".join(glyphs.characters).upper() and len(glyphs.characters) > 1:
                    ends = set(np.cumsum([len(part) for part in letters])[:-1].tolist())
                    rows.append(spacing.features(glyphs))
                    spaces += [index + 1 in ends for index in range(len(glyphs.characters) - 1)]
                    break
    return spacing.fit(np.concatenate(rows), np.array(spaces))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--receipts", type=Path)
    parser.add_argument("--documents", type=int, default=40)
    parser.add_argument("--half", type=int, choices=(0, 1), default=1)
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.fit:
        if args.receipts is None:
            parser.error("--fit needs --receipts")
        source = receipts(args.receipts, half=1 - args.half)
        print(fitted([page for page, _ in zip(source, range(args.documents), strict=False)]))
        return
    if args.receipts is None:
        pages = drawn_pages(args.documents)
    else:
        pages = [page for page, _ in zip(receipts(args.receipts, half=args.half), range(args.documents), strict=False)]
    figures = compare(pages, with_words=args.receipts is not None)
    print("| figure | value |\n|---|---|")
    for name, value in figures.items():
        print(f"| {name} | {value} |")
    if args.out:
        args.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
