"""A page of a textbook as it would be read aloud: text in reading order, formulas in words, figures described.

    python examples/read_aloud.py PAGE [OUT.txt]

Prints the script, a line for each thing; `| espeak-ng` speaks it where that is installed. Needs the extra `ocr`.
A formula is read sign by sign from what the OCR saw: fractions and roots that are drawn in two dimensions are not
understood, and the script says "formula" first so that a listener knows.
"""

import re
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from vision_agent import Page, VisionAgent
from vision_agent.documents.source import page_image

SIGNS = dict(
    sign.split(" ", 1)
    for sign in "= equals;+ plus;- minus;\u2212 minus;\u00d7 times;\u00b7 times;* times;/ divided by;\u00f7 divided by;"
    "< is less than;> is greater than;\u2264 is at most;\u2265 is at least;\u00b1 plus or minus;\u221a the root of;"
    "\u00b2 squared;\u00b3 cubed;^ to the power of;% percent;( open bracket;) close bracket".split(";")
)


def sign(part: str) -> str:
    """Return a number, a letter or a sign as it is said."""
    if part in SIGNS or part.isascii():
        return SIGNS.get(part, f"capital {part}" if len(part) == 1 and part.isupper() else part)
    return unicodedata.name(part[0], part).lower().removeprefix("greek small letter ").removeprefix("n-ary ")


def spoken(formula: str) -> str:
    """Return a formula in words: letters one by one, signs by name, names of functions and numbers whole."""
    return " ".join(map(sign, re.findall(r"\d+(?:[.,]\d+)?|sin|cos|tan|log|ln|max|min|\S", formula)))


def script(agent: VisionAgent, page: Page, file: Path) -> Iterator[str]:
    """Yield what is said, thing by thing; headers and footers are left out."""
    for block in page.blocks:
        text = " ".join(line.text for line in block.lines)
        if block.kind == "formula":
            yield f"Formula: {spoken(text)}."
        elif block.kind == "table" and block.table is not None:
            heads, *rows = block.table.grid()
            yield f"Table with {len(rows)} rows."
            yield from (", ".join(f"{name}: {cell}" for name, cell in zip(heads, row, strict=True)) for row in rows)
        elif block.kind == "figure":
            figure = page_image(file, page.number, (page.width, page.height)).crop(block.box.xyxy)
            yield f"Figure: {agent.caption(figure, length='short').text}" + (f" In it stands: {text}." if text else "")
        elif block.kind not in ("header", "footer"):
            yield {"title": "Heading: ", "list": "List: "}.get(block.kind, "") + text


if __name__ == "__main__":
    file, *out = map(Path, sys.argv[1:])
    agent = VisionAgent()
    said = "\n".join(line for page in agent.ocr(file).pages for line in script(agent, page, file))
    print(said, file=out[0].open("w", encoding="utf-8") if out else sys.stdout)
