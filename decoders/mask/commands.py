"""The command that trains masks: `vision-agent train-masks`."""

from pathlib import Path
from typing import Annotated

import typer

from vision_agent.cli.options import DataOption, DeviceOption
from vision_agent.errors import InputError, bad_argument


def register(app: typer.Typer) -> None:
    """Add the command to `vision-agent`."""
    app.command()(train_masks)


def train_masks(
    model: Annotated[Path, typer.Argument(help="A checkpoint folder with a [DET] adapter.")],
    data: DataOption,
    out: Annotated[Path, typer.Option("--out", help="Folder of the run; the [SEG] adapter is written to its seg/.")],
    only: Annotated[str | None, typer.Option("--only", help="One stage: states or masks.")] = None,
    start: Annotated[Path | None, typer.Option("--start", help="A [SEG] adapter whose mask network to take.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Of the stage that learns masks.")] = None,
    device: DeviceOption = "auto",
) -> None:
    """Train a [SEG] adapter for a finished model, whose own weights are frozen."""
    from .training import MaskTraining
    from .training import train_masks as run_training

    if only not in (None, "states", "masks"):
        raise InputError(bad_argument("only", "states or masks", only))
    if steps is not None and steps < 1:
        raise InputError(bad_argument("steps", "at least 1", steps))
    settings = MaskTraining() if steps is None else MaskTraining(mask_steps=steps)
    print(run_training(model, data, out, settings, only=only, start=start, device=device))  # type: ignore[arg-type]
