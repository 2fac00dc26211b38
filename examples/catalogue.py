"""A shop's catalogue from product photos: attributes by a schema, objects cut out of their ground, copies left out.

    python examples/catalogue.py PHOTOS OUT [CATEGORY ...]

writes OUT/catalogue.json, a cut-out for each product, and OUT/check.json for a person. `Product` is yours to change.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from PIL import Image
from pydantic import BaseModel, Field

from vision_agent import Index, VisionAgent

Colour = Literal["red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "gray"]


class Product(BaseModel):
    file: str
    category: str
    colour: Colour
    cutout: str
    confidence: float = Field(ge=0, le=1)


def product(agent: VisionAgent, photo: Path, out: Path, categories: Sequence[str]) -> Product | None:
    """Look at one photo; None where it shows none of the categories, or not clearly enough to be cut out."""
    kind = agent.classify(photo, categories)
    if not kind.label or not (shapes := agent.segment(kind.label, photo)):
        return None
    best = max(range(len(shapes)), key=lambda number: shapes[number].mask.area)
    alone, name = shapes.cutout(photo, best), f"{photo.stem}.png"
    alone.save(out / name)
    ground = Image.new("RGB", [max(side, 64) for side in alone.size], "white")
    ground.paste(alone, mask=alone)  # other things in the photo have colours of their own
    colour = agent.ask(f"what colour is the {kind.label}?", ground, choices=get_args(Colour)).value
    return Product(file=photo.name, category=kind.label, colour=colour, cutout=name, confidence=shapes[best].score)


def catalogue(agent: VisionAgent, photos: Path, out: Path, categories: Sequence[str], sure: float) -> list[Product]:
    """Write the catalogue of a folder, and return the products that need no person."""
    out.mkdir(parents=True, exist_ok=True)
    index = Index.build(photos, agent, out=out / "photos.index")
    copies = index.duplicates().extra_files
    found = {file: product(agent, Path(file), out, categories) for file in index.files if file not in copies}
    rows = [each for each in found.values() if each is not None and each.confidence >= sure]
    doubtful = [file for file, each in found.items() if each not in rows]
    (out / "catalogue.json").write_text(json.dumps([each.model_dump() for each in rows], indent=2), "utf-8")
    (out / "check.json").write_text(json.dumps({"look": doubtful, "copies": copies, "broken": index.errors}), "utf-8")
    return rows


if __name__ == "__main__":
    folder, target, *asked = sys.argv[1:]
    print(*catalogue(VisionAgent(), Path(folder), Path(target), asked or ["bottle", "car", "umbrella"], 0.6), sep="\n")
