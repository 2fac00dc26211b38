"""Visual inspection: a photo against a golden image. Which parts are missing, moved or extra, and where pixels differ.

    python examples/inspection.py GOLDEN PHOTO OUT.png [PART ...]

The photo is shifted onto the golden image first; it must not turn. Parts are looked for by name in both images; what
has no name shows as cells that differ. Writes the marked photo; the exit code is 1 where something is wrong.
"""

import sys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from vision_agent import Box, Detections, VisionAgent, load_image

MOVED = 0.7  # IoU of a part with its place, below which it has moved
CELL, DIFFERS = 16, 40  # pixels; grey levels, in the mean of a cell


def aligned(golden: Image.Image, photo: Image.Image) -> Image.Image:
    """Shift a photo onto the golden image by phase correlation."""
    spectra = [np.fft.fft2(np.asarray(each.convert("L"), dtype=float)) for each in (golden, photo)]
    cross = spectra[0] * spectra[1].conj()
    peak = np.fft.ifft2(cross / np.maximum(np.abs(cross), 1e-9)).real
    y, x = np.unravel_index(peak.argmax(), peak.shape)
    down, right = (int(step) - side * (step > side / 2) for step, side in ((y, golden.height), (x, golden.width)))
    return photo.transform(golden.size, Image.Transform.AFFINE, (1, 0, -right, 0, 1, -down))


def parts(agent: VisionAgent, golden: Image.Image, photo: Image.Image, names: Sequence[str]) -> list[tuple[str, Box]]:
    """Return what is wrong with named parts, and where."""
    meant, there = (agent.detect(list(names), each) for each in (golden, photo))

    def overlap(part: Box, others: Detections) -> float:
        return max((part.iou(other.box) for other in others), default=0.0)

    best = [(each, overlap(each.box, there.filter(label=each.label))) for each in meant]
    wrong = [(f"{'moved' if iou else 'missing'} {each.label}", each.box) for each, iou in best if iou < MOVED]
    extra = [each for each in there if not overlap(each.box, meant.filter(label=each.label))]
    return wrong + [(f"extra {each.label}", each.box) for each in extra]


def cells(golden: Image.Image, photo: Image.Image) -> list[Box]:
    """Return cells whose pixels differ; those at the edge are left out, since the shift may have emptied them."""
    gray = ImageChops.difference(*(each.convert("L").filter(ImageFilter.GaussianBlur(2)) for each in (golden, photo)))
    mean = np.asarray(gray.resize((golden.width // CELL, golden.height // CELL), Image.Resampling.BOX))[1:-1, 1:-1]
    return [Box.from_xyxy(np.array([x, y, x + 1, y + 1]) * CELL) for y, x in np.argwhere(mean > DIFFERS) + 1]


if __name__ == "__main__":
    golden, photo = (load_image(each) for each in sys.argv[1:3])
    photo = aligned(golden, photo.resize(golden.size))
    wrong, differ = parts(VisionAgent(), golden, photo, sys.argv[4:] or ["car", "person"]), cells(golden, photo)
    for box, colour in [*((each, "yellow") for each in differ), *((box, "red") for _, box in wrong)]:
        ImageDraw.Draw(photo).rectangle(box.xyxy, outline=colour, width=2)
    photo.save(sys.argv[3])
    print(*(what for what, _ in wrong), f"{len(differ)} cells differ", sep="\n")
    sys.exit(1 if wrong or differ else 0)
