"""Whether fine-tuning learns: a few drawn dialogues of each kind by heart, then asked as anybody asks.

    python -m vision_agent.evaluate.overfitting MODEL OUT [--count 32] [--kinds caption question ...] [--method full]

For each kind a checkpoint is fine-tuned on so many dialogues alone; what was written is loaded by
`VisionAgent.from_pretrained`, and every question of the set is put to `ask`. Prints a Markdown table: the loss of an
answer's token in the first and the last step, and how many answers are the taught ones, letter by letter. `OUT` has a
run's folder of each kind; the same command resumes. Says nothing about what a model is good for.
"""

import argparse
import json
import platform
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from vision_agent.agent import VisionAgent
from vision_agent.data.dialogues.dialogue_lines import DialogueLine
from vision_agent.data.dialogues.dialogue_sets import frame_files, read_dialogues
from vision_agent.data.dialogues.drawn_dialogues import KINDS, write_dialogues
from vision_agent.images.loading import load_image
from vision_agent.train.tuning.finetuning_dialogues import TuningReport, finetune_dialogues
from vision_agent.train.tuning.tuning_settings import Tuning

_MARKS = re.compile("</?(?:ref|box)>")  # of boxes; they are no part of an answer's text
_FRAMES = 2
_MOST_TOKENS = 60


@dataclass(frozen=True)
class Learned:
    """What came of one kind.

    Attributes:
        report: of the fine-tuning.
        right, asked: answers that are the taught ones, of so many; dialogues with a system turn cannot be asked.
        wrong: of those that are not, the taught text and the one that came.
    """

    kind: str
    report: TuningReport
    right: int
    asked: int
    wrong: tuple[tuple[str, str], ...]


def by_heart(**changes: object) -> Tuning:
    """Return settings for few dialogues: nothing is dropped or decays, and one tile shows an image."""
    usual: dict[str, object] = {"rate": 3e-3, "steps": 160, "dropout": 0.0, "weight_decay": 0.0, "max_tiles": 1}
    usual |= {
        "batch": 8,
        "micro": 8,
        "evaluations": 0,
        "checkpointing": False,
        "min_frames": _FRAMES,
        "max_frames": _FRAMES,
    }
    return Tuning.of(None, **(usual | changes))


def learn_kind(model: str | Path, folder: Path, kind: str, count: int, settings: Tuning) -> Learned:
    """Draw so many dialogues of a kind, fine-tune a checkpoint on them, and ask it all of them.

    Args:
        folder: where the images and the run go.
        kind: one of `KINDS`.
    """
    data = read_dialogues(write_dialogues(folder / "data", kind, count, frames=_FRAMES))
    report = finetune_dialogues(model, data, folder / "run", settings)
    assert report is not None, "one process"
    if report.checkpoint is None:
        agent = VisionAgent.from_pretrained(model, lora=report.written)
    else:
        agent = VisionAgent.from_pretrained(report.checkpoint)
    told = [line for line in data.train if line.system is None]
    pairs = [(_MARKS.sub("", line.turns[-1][1]), ask_line(agent, line)) for line in told]
    wrong = tuple(pair for pair in pairs if pair[0] != pair[1])
    return Learned(kind, report, len(pairs) - len(wrong), len(pairs), wrong)


def ask_line(agent: VisionAgent, line: DialogueLine) -> str:
    """Ask the first question of a dialogue through the public verb, and return what is said."""
    images: Sequence[Image.Image] = [load_image(path) for path in line.images]
    if line.video is not None:
        images = [load_image(path) for path in frame_files(line.video)]
        line = line.with_frames(len(images))
    tiles = 1 if images else None
    answer = agent.ask(line.turns[0][0], list(images) or None, max_tiles=tiles, max_new_tokens=_MOST_TOKENS)
    return answer.text


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help='a checkpoint, or "default"')
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--method", choices=("lora", "full"), default="lora")
    parser.add_argument("--steps", type=int, default=160, help=f"of {by_heart().batch} dialogues")
    parser.add_argument("--rate", type=float, default=3e-3)
    options = parser.parse_args()
    settings = by_heart(method=options.method, steps=options.steps, rate=options.rate)
    print(f"{platform.machine()}, {options.count} dialogues of each kind, {options.steps} steps of {settings.batch}\n")
    print("| kind | loss | right | seconds |\n| --- | --- | --- | --- |")
    for kind in options.kinds:
        found = learn_kind(options.model, options.out / kind, kind, options.count, settings)
        loss = f"{found.report.first_loss:.2f} to {found.report.last_loss:.4f}"
        print(f"| {kind} | {loss} | {found.right} of {found.asked} | {found.report.seconds:.0f} |", flush=True)
        for taught, said in found.wrong[:3]:
            print(f"{kind}: taught {json.dumps(taught)}, said {json.dumps(said)}", file=sys.stderr)


if __name__ == "__main__":
    main()
