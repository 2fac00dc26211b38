"""Teach a checkpoint to answer about pictures that this draws: `python examples/finetune_answers.py MODEL FOLDER`."""

import json
import sys
from pathlib import Path

from PIL import Image, ImageDraw

from vision_agent import VisionAgent
from vision_agent.data.dialogues.dialogue_sets import read_dialogues
from vision_agent.train.tuning.finetuning_dialogues import TuningReport, finetune_dialogues
from vision_agent.train.tuning.tuning_settings import Tuning

PARTS = {"valve": "red", "flange": "blue", "gasket": "green", "bolt": "black"}  # a shop's own names, by colour


def draw_part(name: str, number: int) -> Image.Image:
    image = Image.new("RGB", (112, 112), "white")
    place = 10 + 6 * number
    ImageDraw.Draw(image).rectangle((place, place, place + 50, place + 50), fill=PARTS[name])
    return image


def write_set(folder: Path, each: int = 2) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for name in PARTS:
        for number in range(each):
            draw_part(name, number).save(folder / f"{name}-{number}.png")
            turns = [{"from": "human", "value": "<image>\nWhich part is it?"}, {"from": "gpt", "value": f"a {name}"}]
            lines.append({"image": f"{name}-{number}.png", "conversations": turns})
    (path := folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


def teach(model: str, folder: Path, settings: Tuning | None = None) -> TuningReport:
    data = read_dialogues(write_set(folder / "set"))
    settings = settings or Tuning(steps=60, batch=8, micro=8, rate=2e-3, dropout=0.0, max_tiles=1)
    report = finetune_dialogues(model, data, folder / "run", settings)
    assert report is not None  # this is the only process
    agent = VisionAgent.from_pretrained(report.checkpoint or model, lora=() if report.checkpoint else report.written)
    for name in PARTS:
        answer = agent.ask("Which part is it?", folder / "set" / f"{name}-0.png", max_tiles=1)
        print(f"a {name}: {answer.text}")
    return report


if __name__ == "__main__":
    teach(sys.argv[1], Path(sys.argv[2]))
