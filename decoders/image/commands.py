"""The commands that make the default's image generator: `vision-agent train-generator`, then `train-drawing`."""

from pathlib import Path
from typing import Annotated

import typer

from vision_agent.cli.options import DataOption, DeviceOption, RunOption
from vision_agent.errors import InputError, bad_argument

_RECIPE_HELP = "The generator's TOML recipe, or 'default' for the embedded model's own."


def register(app: typer.Typer) -> None:
    """Add the commands to `vision-agent`."""
    app.command()(train_generator)
    app.command()(train_drawing)


def train_generator(
    recipe: Annotated[Path, typer.Argument(help=_RECIPE_HELP)],
    data: DataOption,
    out: RunOption,
    device: DeviceOption = "auto",
) -> None:
    """Train the small image generator; prints the folder that `train-drawing` takes."""
    from .training import read_generator_config
    from .training import train_generator as run_training

    print(run_training(read_generator_config(None if str(recipe) == "default" else recipe), data, out, device))


def train_drawing(
    model: Annotated[Path, typer.Argument(help="A checkpoint folder; its own weights are frozen.")],
    generator: Annotated[Path, typer.Argument(help="The folder that train-generator printed.")],
    data: DataOption,
    out: Annotated[Path, typer.Option("--out", help="The adapters are written to its gen/ and edit/.")],
    recipe: Annotated[Path, typer.Option("--recipe", help=_RECIPE_HELP)] = Path("default"),
    only: Annotated[str | None, typer.Option("--only", help="One route: gen or edit.")] = None,
    prompts: Annotated[int | None, typer.Option("--prompts", help="How many prompts to learn from.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Of each route.")] = None,
    device: DeviceOption = "auto",
) -> None:
    """Train a model's [GEN] and [EDIT] adapters, which draw with a trained generator."""
    from vision_agent.model.checkpoint import load_backbone

    from .mapper_training import EDIT, GENERATE, DrawingTraining, train_drawing
    from .training import read_generator_config

    routes = {"gen": (GENERATE,), "edit": (EDIT,), None: (GENERATE, EDIT)}
    if only not in routes:
        raise InputError(bad_argument("only", "gen or edit", only))
    given = {name: value for name, value in (("prompts", prompts), ("steps", steps)) if value is not None}
    for name, value in given.items():
        if value < 1:
            raise InputError(bad_argument(name, "at least 1", value))
    config = read_generator_config(None if str(recipe) == "default" else recipe)
    backbone = load_backbone(model, device=device, local_files_only=True)
    training = DrawingTraining().model_copy(update=given)
    for folder in train_drawing(backbone, generator, data, out, config, training, routes=routes[only]):
        print(folder)
