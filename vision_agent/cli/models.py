"""Commands about checkpoints and plug-ins: `info`, `decoders`, `convert` and `export`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from vision_agent.cli.options import JsonOption


def register(app: typer.Typer) -> None:
    """Add the commands to `vision-agent`."""
    for command in (info, decoders, convert, export):
        app.command()(command)


def info(
    model: Annotated[str, typer.Argument(help="'default', a checkpoint folder or a hub name.")] = "default",
    as_json: JsonOption = False,
) -> None:
    """Print a model's size, memory, context, tiles, routes and card, without loading its weights."""
    from vision_agent.cli.describe import describe

    description = describe(model)
    print(description.model_dump_json() if as_json else description.to_text(), end="\n" if as_json else "")


def decoders() -> None:
    """List the decoders that are installed."""
    from vision_agent.plugins.registry import load_all_decoders

    for name, decoder in load_all_decoders().items():
        print(f"{name}\t{decoder.__module__}.{decoder.__qualname__}")


def convert(
    source: Annotated[Path, typer.Argument(help="A checkpoint folder in InternVL's original format.")],
    target: Annotated[Path, typer.Argument(help="The native folder to write; must not exist.")],
) -> None:
    """Convert an original-format checkpoint to a native one, which transformers alone can load."""
    from vision_agent.model.original import convert as write_native

    write_native(source, target)
    print(target)


def export(
    model: Annotated[str, typer.Argument(help="A checkpoint folder or a hub name.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write; new or empty.")],
    adapters: Annotated[
        list[Path] | None, typer.Option("--adapters", help="Folder of LoRA or of a route; may be repeated.")
    ] = None,
    format: Annotated[
        Literal["native", "original"],
        typer.Option("--format", help="transformers' own InternVL format, or that of the official releases."),
    ] = "native",
) -> None:
    """Merge a checkpoint with adapters into one folder that vLLM, SGLang, LMDeploy or transformers load."""
    from vision_agent.checkpoint_export import export_checkpoint
    from vision_agent.model.checkpoint import DEFAULT_CHECKPOINT

    source = DEFAULT_CHECKPOINT if model == "default" else model
    print(export_checkpoint(source, target, adapters=adapters or (), format=format))
