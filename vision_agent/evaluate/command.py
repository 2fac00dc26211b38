"""The command line of the modules here that draw an image of a model: `FOLDER OUT [--model MODEL] [--split test]`."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from vision_agent.agent import VisionAgent


@dataclass(frozen=True)
class ImageCommand:
    """What was asked for.

    Attributes:
        agent: the model.
        folder: the training data.
        out: where the image goes.
        split: the photos that are looked at, "val" or "test".
    """

    agent: VisionAgent
    folder: Path
    out: Path
    split: str


def read_command(description: str) -> ImageCommand:
    """Read the arguments of the command that runs, and load the model."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="default")
    parser.add_argument("--split", choices=("val", "test"), default="test")
    options = parser.parse_args()
    agent = VisionAgent() if options.model == "default" else VisionAgent.from_pretrained(options.model)
    return ImageCommand(agent, options.folder, options.out, options.split)
