"""The images inside a PDF's page as blocks of their own, with what was read from them."""

from collections.abc import Sequence

from vision_agent.documents.result import Block, Line, Page
from vision_agent.documents.source import PageImage
from vision_agent.results.box import Box

_SMALLEST, _LARGEST = 0.006, 0.85  # of the page's area: smaller ones are bullets and rules, larger ones its ground


def figures_of(image: PageImage, lines: Sequence[Line]) -> list[Block]:
    """Return the images that a page shows as figures; lines that were read from an image belong to its figure.

    An image that the page's own text is written on is its ground, and no figure.
    """
    width, height = image.image.size
    found: list[Block] = []
    for x0, y0, x1, y1 in _whole(image.figures):
        box = Box(x0=max(0.0, x0), y0=max(0.0, y0), x1=min(float(width), x1), y1=min(float(height), y1))
        share = (box.x1 - box.x0) * (box.y1 - box.y0) / (width * height)
        if box.x1 <= box.x0 or box.y1 <= box.y0 or not _SMALLEST <= share <= _LARGEST:
            continue
        inside = [line for line in lines if _holds(box, line.box)]
        written = [line for line in inside if line.size is not None]
        if len(written) < 3:
            taken = tuple(line for line in inside if line.size is None)
            found.append(Block(kind="figure", box=box, lines=taken))
    return found


def with_figures(page: Page, figures: Sequence[Block]) -> Page:
    """Return the page with figures among its blocks: each after the last block that stands above it."""
    blocks = list(page.blocks)
    for figure in sorted(figures, key=lambda each: each.box.y0):
        if any(block.table is not None and _holds(block.box, figure.box) for block in blocks):
            continue
        middle = (figure.box.y0 + figure.box.y1) / 2
        above = [
            index
            for index, block in enumerate(blocks)
            if block.box.y1 <= middle and min(block.box.x1, figure.box.x1) > max(block.box.x0, figure.box.x0)
        ]
        blocks.insert(max(above) + 1 if above else 0, figure)
    return page.model_copy(update={"blocks": tuple(blocks)})


def _whole(boxes: Sequence[Sequence[float]]) -> list[tuple[float, float, float, float]]:
    """Boxes of images, those that touch as one: programs cut large images into strips."""
    whole: list[tuple[float, float, float, float]] = []
    for x0, y0, x1, y1 in sorted((tuple(box) for box in boxes), key=lambda box: (box[1], box[0])):
        for index, (a0, b0, a1, b1) in enumerate(whole):
            level = abs(a0 - x0) <= 2 and abs(a1 - x1) <= 2 and -2 <= y0 - b1 <= 2
            beside = abs(b0 - y0) <= 2 and abs(b1 - y1) <= 2 and -2 <= x0 - a1 <= 2
            if level or beside:
                whole[index] = (min(a0, x0), min(b0, y0), max(a1, x1), max(b1, y1))
                break
        else:
            whole.append((x0, y0, x1, y1))
    return whole


def _holds(outer: Box, inner: Box) -> bool:
    x, y = (inner.x0 + inner.x1) / 2, (inner.y0 + inner.y1) / 2
    return outer.x0 <= x <= outer.x1 and outer.y0 <= y <= outer.y1
