"""The command that gives a checkpoint a route of its own: `vision-agent train-route`."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from vision_agent.cli.command_groups import command_group, with_arguments
from vision_agent.cli.options import AdapterOption, DeviceOption, DtypeOption, RunOption, agent

from .named_sets import read_set, share_or_set


def register(app: typer.Typer) -> None:
    """Add `det` and `seg` to the group of commands that train what reads a model."""
    group = command_group(app, "train-route", "Train what reads a model's states or features; the model is frozen.")
    for kind in ("det", "seg"):
        group.command(kind)(with_arguments(train_route_command, kind=kind))


def train_route_command(
    kind: Annotated[Literal["det", "seg"], typer.Argument(help="det for boxes, seg for masks.")],
    model: Annotated[str, typer.Argument(help="An InternVL checkpoint, or 'default'.")],
    data: Annotated[
        Path, typer.Option("--data", help="COCO or LVIS JSON, YOLO, VOC, LabelMe, or RefCOCO's refs(unc).p.")
    ],
    out: RunOption,
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder of the images, where they do not lie beside their file.")
    ] = None,
    validation: Annotated[
        str, typer.Option("--validation", help="Share that is kept back to measure by, or another set of the kind.")
    ] = "0.2",
    steps: Annotated[int, typer.Option("--steps", min=1)] = 1000,
    batch: Annotated[int, typer.Option("--batch", help="Images a step.", min=1)] = 8,
    rate: Annotated[float, typer.Option("--rate", help="Highest learning rate.")] = 1e-3,
    queries: Annotated[int, typer.Option("--queries", help="Of the route.", min=1)] = 4,
    writing: Annotated[
        int, typer.Option("--writing", help="Images on which the model learns to write the token; 0: none.", min=0)
    ] = 64,
    seen: Annotated[
        Path | None, typer.Option("--seen", help="Folder of features; runs on the same model may share it.")
    ] = None,
    keep_prompts: Annotated[
        bool, typer.Option("--keep-prompts", help="Keep read prompts there, too: faster steps, far more disk.")
    ] = False,
    token: Annotated[str | None, typer.Option("--token", help="Of the route, such as [FIND].")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of all that is drawn.")] = 0,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad/--strict", help="Leave faulty parts out and say which, or refuse the set.")
    ] = False,
    adapter: AdapterOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
) -> None:
    """Train boxes or masks for a checkpoint that has none, from annotated images; the model itself is frozen."""
    annotations = read_set(data, images, "auto", share_or_set(validation), skip_bad)
    from .route_training import RouteTraining, train_route

    settings = RouteTraining(
        steps=steps,
        batch=batch,
        rate=rate,
        queries=queries,
        writing=writing,
        prompts=keep_prompts,
        token=token,
        seed=seed,
    )
    loaded = agent(None if model == "default" else model, adapter, device, dtype)
    report = train_route(kind, loaded, annotations, out, settings, seen=seen)
    for name, value in report.model_dump(exclude={"figures"}).items():
        if value is not None:
            print(f"{name}\t{value}")
    if report.figures is not None:
        print(f"AP50\t{report.figures.ap50:.3f}")
        for name, value in report.figures.by_name.items():
            print(f"AP50 of {name}\t{value:.3f}")
    print(f'use it with --adapter {out}, or VisionAgent.from_pretrained(..., adapters=["{out}"])', file=sys.stderr)
