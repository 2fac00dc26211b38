"""How well labels of forms are paired with what was filled in, on scanned forms (FUNSD).

    python -m vision_agent.evaluate.form_pairs FOLDER [--words true] [--limit N]

`FOLDER` has `documents.json` and the images it names. A pair is right where its label and its value each differ from
the true ones by at most one letter in five, without case and punctuation; each true pair counts once. Rows of tables
count as pairs there, too. `--words true` takes the annotated words instead of reading the images.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from vision_agent.documents.key_values import key_values_of
from vision_agent.documents.reader import DocumentReader
from vision_agent.documents.result import Block, Line, OcrResult, Page, Word, quad_of
from vision_agent.documents.text_match import folded, likeness
from vision_agent.errors import InputError
from vision_agent.evaluate.data_folders import listed_documents
from vision_agent.results.box import Box

_SAME = 0.8

Pair = tuple[str, str]


def matched(found: Sequence[Pair], true: Sequence[Pair]) -> int:
    """Return how many pairs that were found are true ones."""
    left = list(true)
    for pair in found:
        same = next((other for other in left if all(map(same_text, pair, other))), None)
        if same is not None:
            left.remove(same)
    return len(true) - len(left)


def same_text(one: str, other: str) -> bool:
    """Whether two texts differ by at most one letter in five, without case and punctuation."""
    one, other = folded(one), folded(other)
    return one == other or (bool(one and other) and likeness(one, other) >= _SAME)


def true_page(form: Any) -> Page:
    """Return the annotated words of a form as a page."""
    lines = []
    for word in (word for entity in form["entities"] for word in entity["words"]):
        text, box = "".join(word["text"].split()), word["box"]
        if text and box[2] > box[0] and box[3] > box[1]:
            quad = quad_of(box)
            lines.append(Line(words=(Word(text=text, quad=quad, score=1.0),), quad=quad, score=1.0))
    box = Box(x0=0, y0=0, x1=form["width"], y1=form["height"])
    block = Block(kind="text", box=box, lines=tuple(lines))
    return Page(number=1, width=form["width"], height=form["height"], blocks=(block,))


def image_of(folder: Path, form: Any) -> Image.Image:
    """Return the picture of a form."""
    with Image.open(folder / Path(form["file_name"]).name) as image:
        return image.convert("RGB")


def forms(folder: Path, limit: int | None, *, words: str) -> Iterator[tuple[list[Pair], list[Pair]]]:
    """Yield the pairs that were found in each form, and the true ones.

    Raises:
        InputError: the folder lists no forms.
    """
    reader = DocumentReader()
    for form in listed_documents(folder)[:limit]:
        true = [(key, value) for key, value in form["key_values"] if folded(key) and folded(value)]
        if words == "true":
            pairs = key_values_of(true_page(form), image=image_of(folder, form))
        else:
            read = reader.read(image_of(folder, form))
            assert isinstance(read, OcrResult)
            pairs = [pair for pair in read.key_values if pair.checked is None]
        yield [(pair.key, pair.value) for pair in pairs], true


def main() -> None:
    """Print the figures of a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--words", choices=("read", "true"), default="read")
    parser.add_argument("--limit", type=int)
    settings = parser.parse_args()
    right = read = true = 0
    try:
        for found, wanted in forms(settings.folder, settings.limit, words=settings.words):
            right, read, true = right + matched(found, wanted), read + len(found), true + len(wanted)
    except InputError as error:
        parser.error(str(error))
    print(
        f"pairs {true}  precision {right / max(1, read):.3f}  recall {right / max(1, true):.3f}  "
        f"F1 {2 * right / max(1, read + true):.3f}"
    )


if __name__ == "__main__":
    main()
