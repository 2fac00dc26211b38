"""What fine-tuning on dialogues learns, and whether a killed run ends as one that was not.

    python benchmarks/finetuning.py overfit default out/             32 dialogues of each kind, until they are known
    python benchmarks/finetuning.py overfit CHECKPOINT out/ --kinds caption boxes
    python benchmarks/finetuning.py kill CHECKPOINT out/             kill -9 at five random moments

A line a kind: the loss of the first and of the last step, how many of the questions `agent.ask` then answers right,
the difference of merged and unmerged logits, and seconds.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "train"))

from made_dialogues import KINDS, write_dialogues

from vision_agent import GenerationOptions, VisionAgent
from vision_agent.data.dialogues.dialogue_sets import read_dialogues
from vision_agent.images.loading import load_image
from vision_agent.train.tuning.finetuning_dialogues import finetune_dialogues
from vision_agent.train.tuning.tuning_settings import Tuning

_MARKS = re.compile("</?(?:ref|box)>")  # not part of an answer's text


def main() -> None:
    """Read the arguments and run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["overfit", "kill"])
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--method", default="lora", choices=["lora", "full"])
    given = parser.parse_args()
    if given.what == "overfit":
        for kind in given.kinds:
            print(overfitted(given, kind), flush=True)
    else:
        print(killed(given), flush=True)


def overfitted(given: argparse.Namespace, kind: str) -> str:
    """Learn one kind by heart, and ask."""
    folder = given.out / kind
    shutil.rmtree(folder, ignore_errors=True)
    data = write_dialogues(folder / "data", kind, given.count)
    settings = Tuning(
        method=given.method, steps=given.steps, rate=given.rate, rank=given.rank, batch=8, micro=8, max_tiles=1,
        min_frames=2, max_frames=2,
        dropout=0.0, weight_decay=0.0, checkpointing=False,
    )  # fmt: skip
    began = time.monotonic()
    report = finetune_dialogues(given.model, read_dialogues(data), folder / "run", settings, tell=lambda _: None)
    assert report is not None
    seconds = time.monotonic() - began
    if report.checkpoint is None:
        agent = VisionAgent.from_pretrained(given.model, lora=report.written, dtype="fp32", device="cpu")
    else:
        agent = VisionAgent.from_pretrained(report.checkpoint, dtype="fp32", device="cpu")
    lines = [json.loads(line) for line in data.read_text().splitlines()]
    lines = [line for line in lines if line["conversations"][0]["from"] == "human"]  # `ask` takes no system message
    right = sum(
        _asked(agent, folder / "data", line) == _MARKS.sub("", line["conversations"][-1]["value"]) for line in lines
    )
    loss = f"loss {report.first_loss:.2f} -> {report.last_loss:.4f}"
    return f"{kind}: {loss}, {right} of {len(lines)} right, written apart {report.apart:.1e}, {seconds:.0f} s"


def _asked(agent: VisionAgent, folder: Path, line: dict[str, Any]) -> str:
    question, names = line["conversations"][0]["value"], line.get("image", [])
    images = [load_image(folder / name) for name in ([names] if isinstance(names, str) else names)]
    if "video" in line:
        images = [load_image(path) for path in sorted((folder / line["video"]).iterdir())]
        question = question.replace("<video>", "Frame-1: <image>\nFrame-2: <image>")
    most = 1 if images else None
    return agent.ask(question, images or None, max_tiles=most, options=GenerationOptions(max_new_tokens=60)).text


def killed(given: argparse.Namespace) -> str:
    """Run once without a stop; then kill five runs with SIGKILL at a random moment each, and start them again."""
    shutil.rmtree(given.out, ignore_errors=True)
    data = write_dialogues(given.out / "data", "question", given.count)
    whole = given.out / "whole"
    began = time.monotonic()
    subprocess.run(_command(given, data, whole), check=True, capture_output=True)
    seconds = time.monotonic() - began
    expected = _weights(whole)
    told = []
    for number in range(5):
        run, moment = given.out / f"killed-{number}", random.Random(number).uniform(0.3, 0.97) * seconds
        process = subprocess.Popen(_command(given, data, run), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(moment)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        steps = len((run / "log.jsonl").read_text().splitlines()) if (run / "log.jsonl").exists() else 0
        subprocess.run(_command(given, data, run), check=True, capture_output=True)
        found = _weights(run)
        same = all(torch.equal(found[key], each) for key, each in expected.items())
        same_log = (run / "log.jsonl").read_bytes() == (whole / "log.jsonl").read_bytes()
        told.append(
            f"killed after {moment:.1f} s, {steps} lines of log: {'equal' if same and same_log else 'DIFFERENT'}"
        )
    return "\n".join(told)


def _command(given: argparse.Namespace, data: Path, run: Path) -> list[str]:
    options = ["--steps", str(given.steps), "--batch", "8", "--micro", "4", "--max-tiles", "1", "--dropout", "0.1"]
    options += ["--rate", str(given.rate), "--save-minutes", "0.02", "--device", "cpu", "--validation", "0.1"]
    command = [sys.executable, "-m", "vision_agent", "finetune", given.model]
    return [*command, "--data", str(data), "--out", str(run), *options]


def _weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "adapters" / "lora" / "adapter_model.safetensors")


if __name__ == "__main__":
    main()
