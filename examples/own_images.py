"""Teach the default model names of your own: draws 30 images of three new things, trains on them, and asks for one.

python examples/own_images.py FOLDER [STEPS]
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from vision_agent import VisionAgent
from vision_agent.data.annotations.annotation_sets import read_annotations
from vision_agent.decoders.own_images.finetuning import finetune_boxes
from vision_agent.decoders.own_images.settings import OwnImagesTraining

NAMES = ("zorb", "plink", "trell")  # a striped disc, a star of six points, a ladder


def draw_thing(draw: ImageDraw.ImageDraw, name: str, box: tuple[int, ...], light: str, dark: str) -> None:
    x0, y0, x1, y1 = box
    if name == "zorb":
        draw.ellipse(box, fill=light, outline=dark, width=3)
        for x in np.linspace(x0, x1, 7)[2:-2]:
            draw.line((x, y0 + (y1 - y0) // 6, x, y1 - (y1 - y0) // 6), fill=dark, width=5)
    elif name == "plink":
        for top, bottom in ((y0, y1 - (y1 - y0) // 4), (y1, y0 + (y1 - y0) // 4)):
            draw.polygon([(x0, bottom), (x1, bottom), ((x0 + x1) // 2, top)], fill=dark)
    else:
        draw.rectangle(box, outline=dark, width=8)
        for y in np.linspace(y0, y1, 6)[1:-1]:
            draw.line((x0, y, x1, y), fill=light, width=6)


def draw_set(folder: Path, count: int = 30) -> Path:
    """Write images, and what is on them as COCO has it; return the JSON's path."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, images, annotations = np.random.default_rng(7), [], []
    for number in range(count):
        ground = Image.fromarray(rng.integers(40, 220, (6, 8, 3), dtype=np.uint8))
        image, file = ground.resize((448, 336), Image.Resampling.BICUBIC), f"{number:03}.jpg"
        for place in rng.permutation(3)[: rng.integers(1, 4)].tolist():
            kind, (width, height) = int(rng.integers(3)), rng.integers(60, 130, 2).tolist()
            x, y = 148 * place + int(rng.integers(2, 146 - width)), int(rng.integers(2, 334 - height))
            light, dark = (f"hsl({rng.integers(360)}, 60%, {percent}%)" for percent in (75, 25))
            draw_thing(ImageDraw.Draw(image), NAMES[kind], (x, y, x + width, y + height), light, dark)
            marked = {"image_id": number, "category_id": kind, "bbox": [x, y, width, height]}
            annotations.append({"id": len(annotations)} | marked)
        image.save(folder / file, quality=92)
        images.append({"id": number, "file_name": file, "width": 448, "height": 336})
    names = [{"id": place, "name": name} for place, name in enumerate(NAMES)]
    path = folder / "annotations.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": names}), "utf-8")
    return path


if __name__ == "__main__":
    folder, steps = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None
    agent, marked = VisionAgent(), read_annotations(draw_set(folder / "set"))
    report = finetune_boxes(agent, marked, folder / "run", OwnImagesTraining(steps=steps))
    print(f"AP50 {report.before.ap50:.2f} before, {report.after.ap50:.2f} after")
    for found in agent.detect("zorb", folder / "set" / "000.jpg"):
        print(found.label, round(found.score, 2), [round(side) for side in found.box.xyxy])
