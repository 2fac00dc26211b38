"""The commands of heads on a frozen tower: `vision-agent train-route classify|semseg`, and `probe` to ask one."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from PIL import Image

from vision_agent.cli.command_groups import command_group
from vision_agent.cli.exits import told
from vision_agent.cli.image_arguments import ImageArguments, open_image
from vision_agent.cli.option_sets import ModelOptions, expanded
from vision_agent.cli.options import (
    AdapterOption,
    DeviceOption,
    DtypeOption,
    ImagesArgument,
    JsonOption,
    RunOption,
    limits,
)
from vision_agent.cli.options import agent as load

if TYPE_CHECKING:
    from .fitting import ProbeTraining
    from .labelled_folders import LabelledSet

DataArgument = Annotated[Path, typer.Option("--data", help="Folder of the labelled images.")]
ModelArgument = Annotated[str, typer.Argument(help="An InternVL checkpoint, or 'default'.")]
TilesOption = Annotated[int, typer.Option("--tiles", help="Most tiles of an image; 1 sees it whole.", min=1, max=40)]
BackOption = Annotated[
    float, typer.Option("--validation", help="Share that is kept back to measure by, where there is no such folder.")
]
SeedOption = Annotated[int, typer.Option("--seed", help="Of all that is drawn.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `vision-agent`."""
    group = command_group(app, "train-route", "Train what reads a model's states or features; the model is frozen.")
    group.command()(classify)
    group.command()(semseg)
    app.command()(expanded(probe))


def classify(
    model: ModelArgument,
    data: DataArgument,
    out: RunOption,
    tiles: TilesOption = 1,
    validation: BackOption = 0.2,
    seed: SeedOption = 0,
    adapter: AdapterOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
) -> None:
    """Train a linear probe on the image tower, from a folder a class (or train/ and val/ of such folders)."""
    from .fitting import ProbeTraining
    from .labelled_folders import read_classes

    read = read_classes(data, validation)
    _train(read, model, adapter, device, dtype, out, ProbeTraining(tiles=tiles, seed=seed))


def semseg(
    model: ModelArgument,
    data: DataArgument,
    out: RunOption,
    head: Annotated[
        Literal["linear", "pyramid"],
        typer.Option("--head", help="linear: each cell alone; pyramid: with what is around."),
    ] = "linear",
    first: Annotated[
        int,
        typer.Option("--first", help="Value of the first class in index maps: 1 where 0 is unlabelled.", min=0, max=1),
    ] = 1,
    steps: Annotated[int, typer.Option("--steps", min=1)] = 600,
    batch: Annotated[int, typer.Option("--batch", help="Images a step.", min=1)] = 8,
    rate: Annotated[float, typer.Option("--rate", help="Highest learning rate.")] = 2e-3,
    tiles: TilesOption = 1,
    validation: BackOption = 0.2,
    seed: SeedOption = 0,
    adapter: AdapterOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
) -> None:
    """Train semantic segmentation on the image tower, from images/ and index maps in annotations/, as ADE20K has."""
    from .fitting import ProbeTraining
    from .labelled_folders import read_maps

    read = read_maps(data, validation, first)
    settings = ProbeTraining(tiles=tiles, head=head, steps=steps, batch=batch, rate=rate, seed=seed)
    _train(read, model, adapter, device, dtype, out, settings)


def probe(
    head: Annotated[Path, typer.Argument(help="Folder that train-route classify or semseg wrote.")],
    images: ImagesArgument,
    by: ModelOptions,
    as_json: JsonOption = False,
    save: Annotated[
        Path | None, typer.Option("--save", help="Folder for index maps of segmentation; values are classes from 0.")
    ] = None,
) -> None:
    """Ask a trained head about images: labels and scores, or classes with their share of the pixels."""
    from .heads import SemanticHead, load_head

    asked = load_head(head)
    given = ImageArguments.of(images)
    loaded = by.load()
    if save is not None:
        save.mkdir(parents=True, exist_ok=True)
    for file in given.files:
        image = open_image(file, limits(False))
        begin = f"{file}\t" if given.several else ""
        if isinstance(asked, SemanticHead):
            found = asked.segment(loaded, image)
            rows = [(each.label, each.mask.area / (image.width * image.height)) for each in found]
            if save is not None:
                classes = asked.scores(asked.features(loaded.backbone), image).argmax(0).numpy().astype("uint8")
                Image.fromarray(classes).save(save / f"{Path(file).stem}.png")
            dumped = found.model_dump_json()
        else:
            labels = asked.classify(loaded, image)
            rows = [(each.label, each.score) for each in labels]
            dumped = labels.model_dump_json()
        if as_json:
            print(f'{{"file":{json.dumps(file)},"result":{dumped}}}' if given.several else dumped)
        else:
            print("\n".join(f"{begin}{label}\t{share:.2f}" for label, share in rows[:5]))


def _train(
    read: "LabelledSet",
    model: str,
    adapter: list[Path] | None,
    device: str,
    dtype: str,
    out: Path,
    settings: "ProbeTraining",
) -> None:
    from tqdm import tqdm

    from .fitting import in_words, train_head

    told(in_words(read))
    loaded = load(None if model == "default" else model, adapter, device, dtype)
    with tqdm(total=len(read.training) + len(read.validation), unit=" image", disable=None) as bar:
        figures = train_head(loaded.backbone, read, out, settings, lambda done, total: bar.update(done - bar.n))
    for name, value in figures.model_dump(exclude={"by_name"}, exclude_none=True).items():
        print(f"{name}\t{value:.3f}" if isinstance(value, float) else f"{name}\t{value}")
    for name, value in figures.by_name.items():
        print(f"{name}\t{value:.3f}")
    print(f"use it with: vision-agent probe {out} IMAGE", file=sys.stderr)
