"""Commands that make and measure models: `train`, `calibrate` and `evaluate`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from vision_agent.cli.options import DataOption, DeviceOption, RunOption, agent, check_output


def register(app: typer.Typer) -> None:
    """Add the commands to `vision-agent`."""
    for command in (train, calibrate, evaluate):
        app.command()(command)


def train(
    recipe: Annotated[Path, typer.Argument(help="A TOML recipe, or 'default' for the embedded model's own.")],
    data: DataOption,
    out: RunOption,
    device: DeviceOption = "auto",
) -> None:
    """Train a small model from a recipe."""
    from vision_agent.train.config import DEFAULT_RECIPE, read_config
    from vision_agent.train.trainer import train as run_training

    config = read_config(DEFAULT_RECIPE if str(recipe) == "default" else recipe)
    print(run_training(config, data, out, device))


def calibrate(
    model: Annotated[Path, typer.Argument(help="A checkpoint folder with a [DET] adapter.")],
    data: DataOption,
    device: DeviceOption = "auto",
) -> None:
    """Fit the scores of a model's boxes to held-out images, and the thresholds for showing and counting boxes."""
    from vision_agent.evaluate.calibration import best_settings
    from vision_agent.routing.adapter import change_settings

    calibrated = agent(str(model), None, device, "auto")
    best = asdict(best_settings(calibrated, data))
    change_settings(model / "adapters" / "det", **best)
    for name, route in calibrated.routes.items():
        if changed := route.decoder.calibrated(best):
            change_settings(model / "adapters" / name, **changed)
    for name, least in best.items():
        print(f"{name}\t{least}")


def evaluate(
    model: Annotated[str, typer.Argument(help="'default', or a checkpoint folder.")],
    data: DataOption,
    split: Annotated[str, typer.Option("--split", help="val or test.")] = "val",
    limit: Annotated[int | None, typer.Option("--limit", help="At most this many images a suite.")] = None,
    suite: Annotated[
        str,
        typer.Option(
            "--suite",
            help="all, photos, scenes, colours, generated, routing, answers, captions, masks, drawing or documents.",
        ),
    ] = "all",
    out: Annotated[Path | None, typer.Option("--out", help="Write the figures as JSON to this file.")] = None,
    device: DeviceOption = "auto",
) -> None:
    """Measure a model on held-out images; print a Markdown table."""
    from vision_agent.evaluate.suite import check_evaluation, evaluate_agent

    check_output("out", out)
    check_evaluation(split, limit, suite)  # before a model is loaded
    figures = evaluate_agent(
        agent(None if model == "default" else model, None, device, "auto"), data, split, limit, suite
    )
    if out is not None:
        out.write_text(json.dumps(figures.model_dump(), indent=2) + "\n", "utf-8")
    print(figures.to_markdown())
