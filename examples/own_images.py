"""Teach the default names of your own, on 30 images that this draws: `python examples/own_images.py FOLDER`."""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from vision_agent import VisionAgent
from vision_agent.data.annotations.annotation_sets import read_annotations
from vision_agent.decoders.own_images.finetuning import OwnImagesTraining, Report, finetune_boxes

NAMES = ("zorb", "plink", "trell")  # a disc with a bar, a star of six points, a ladder


def draw_thing(draw: ImageDraw.ImageDraw, name: str, box: tuple[int, ...], hue: int) -> None:
    light, dark = f"hsl({hue}, 60%, 75%)", f"hsl({(hue + 90) % 360}, 60%, 25%)"
    (x0, y0, x1, y1), rim = box, (box[3] - box[1]) // 6
    if name == "zorb":
        draw.ellipse(box, fill=light, outline=dark, width=5)
        draw.line((x0 + rim, (y0 + y1) // 2, x1 - rim, (y0 + y1) // 2), fill=dark, width=9)
    elif name == "plink":
        for top, bottom in ((y0, y1 - rim), (y1, y0 + rim)):
            draw.polygon([(x0, bottom), (x1, bottom), ((x0 + x1) // 2, top)], fill=dark)
    else:
        draw.rectangle(box, outline=dark, width=8)
        for y in np.linspace(y0, y1, 6)[1:-1]:
            draw.line((x0, y, x1, y), fill=light, width=6)


def draw_set(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng, categories = np.random.default_rng(7), [{"id": place, "name": name} for place, name in enumerate(NAMES)]
    content = {"images": [], "annotations": [], "categories": categories}
    for number in range(count):
        image = Image.fromarray(rng.integers(40, 220, (6, 8, 3), dtype=np.uint8)).resize((448, 336))
        for place in rng.permutation(3)[: rng.integers(1, 4)].tolist():
            kind, (w, h) = int(rng.integers(3)), rng.integers(60, 130, 2).tolist()
            x, y = 148 * place + int(rng.integers(2, 146 - w)), int(rng.integers(2, 334 - h))
            draw_thing(ImageDraw.Draw(image), NAMES[kind], (x, y, x + w, y + h), int(rng.integers(360)))
            outline = [[x, y, x + w, y, x + w, y + h, x, y + h]] if kind == 2 else []  # of ladders alone
            marked = {"image_id": number, "category_id": kind, "bbox": [x, y, w, h], "segmentation": outline}
            content["annotations"].append({"id": len(content["annotations"])} | marked)
        image.save(folder / f"{number:03}.jpg", quality=92)
        content["images"].append({"id": number, "file_name": f"{number:03}.jpg", "width": 448, "height": 336})
    (path := folder / "annotations.json").write_text(json.dumps(content), "utf-8")
    return path


def teach(folder: Path, count: int = 30, settings: OwnImagesTraining | None = None) -> tuple[Report, VisionAgent]:
    agent, marked = VisionAgent(), read_annotations(draw_set(folder / "set", count))
    report = finetune_boxes(agent, marked, folder / "run", settings)
    found = agent.detect("zorb", folder / "set" / "000.jpg")
    print(f"AP50 {report.before.ap50:.2f} before, {report.after.ap50:.2f} after; {len(found)} found")
    return report, agent


if __name__ == "__main__":
    teach(Path(sys.argv[1]))
