"""Commands that make and measure models: `train`, `calibrate`, `known-words` and `evaluate`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from vision_agent.cli.options import DataOption, DeviceOption, RunOption, agent, check_output
from vision_agent.errors import InputError, bad_argument, require_extra


def register(app: typer.Typer) -> None:
    """Add the commands to `vision-agent`."""
    for command in (train, calibrate, known_words, evaluate):
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
    """Fit the scores of a model's boxes to held-out images, and the thresholds for showing, counting and describing."""
    from vision_agent.evaluate.calibration import best_settings, held_out_photos
    from vision_agent.evaluate.captions import best_captions
    from vision_agent.inference.abilities import Abilities, write_captions
    from vision_agent.routing.adapter import change_settings

    calibrated = agent(str(model), None, device, "auto")
    best = asdict(best_settings(calibrated, data))
    change_settings(model / "adapters" / "det", **best)
    for name, route in calibrated.routes.items():
        if changed := route.decoder.calibrated(best):
            change_settings(model / "adapters" / name, **changed)
    captions = Abilities.of(calibrated.backbone.model, calibrated.model).captions
    if captions is not None:
        captions = best_captions(calibrated, captions, held_out_photos(data))
        write_captions(model, captions)
        best["captions"] = captions.least
    for name, least in best.items():
        print(f"{name}\t{least}")


def known_words(
    model: Annotated[Path, typer.Argument(help="A checkpoint folder with a [DET] adapter.")],
    data: DataOption,
    taught: Annotated[bool, typer.Option("--taught", help="Only words of the training; try no others.")] = False,
    limit: Annotated[int | None, typer.Option("--limit", help="At most this many photos.")] = None,
    device: DeviceOption = "auto",
) -> None:
    """Write the words that a model's [DET] and [SEG] routes know; print how often nonsense still gets a box."""
    from vision_agent.data.dataset import ImageSources
    from vision_agent.evaluate.taught_words import NONSENSE, share_with_boxes, tried_words, with_words
    from vision_agent.evaluate.taught_words import taught_words as words_of_training
    from vision_agent.routing.adapter import write_words

    if limit is not None and limit < 1:
        raise InputError(bad_argument("limit", "at least 1", limit))
    words, measured = words_of_training(data), agent(str(model), None, device, "auto")
    if not taught:
        words = with_words(words, tried_words(measured, data, words, limit))
    for name in sorted({"det", "seg"} & set(measured.routes)):
        write_words(model / "adapters" / name, words)
    images = ImageSources(data, "test", cutouts="val")
    photos = [images.photos.scene(record, colours=False) for record in images.photo_records[: limit or 50]]
    share = share_with_boxes(agent(str(model), None, device, "auto"), photos, NONSENSE)
    print(
        f"names\t{len(words.names)}\nnonsense with a box\t{share:.3f} of {len(photos)} photos x {len(NONSENSE)} words"
    )


def evaluate(
    model: Annotated[str, typer.Argument(help="'default', or a checkpoint folder.")],
    data: DataOption,
    split: Annotated[str, typer.Option("--split", help="val or test.")] = "val",
    limit: Annotated[int | None, typer.Option("--limit", help="At most this many images a suite.")] = None,
    suite: Annotated[
        str,
        typer.Option(
            "--suite",
            help="all, photos, scenes, colours, generated, routing, answers, choices, captions, masks, clicks, "
            "drawing or documents.",
        ),
    ] = "all",
    out: Annotated[Path | None, typer.Option("--out", help="Write the figures as JSON to this file.")] = None,
    device: DeviceOption = "auto",
) -> None:
    """Measure a model on held-out images; print a Markdown table."""
    # The suites import it when they are imported.
    require_extra("sacrebleu", "train", "comparing captions is")
    from vision_agent.evaluate.suite import check_evaluation, evaluate_agent

    check_output("out", out)
    check_evaluation(split, limit, suite)  # before a model is loaded
    figures = evaluate_agent(
        agent(None if model == "default" else model, None, device, "auto"), data, split, limit, suite
    )
    if out is not None:
        out.write_text(json.dumps(figures.model_dump(), indent=2) + "\n", "utf-8")
    print(figures.to_markdown())
