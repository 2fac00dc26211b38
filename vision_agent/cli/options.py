"""Arguments and options that several commands share, and what commands make of them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vision_agent.errors import InputError, bad_argument
from vision_agent.images.loading import ImageLimits

if TYPE_CHECKING:
    from vision_agent.agent import VisionAgent

ImageArgument = Annotated[str, typer.Argument(help="Path, data: URL, or https URL with --allow-urls.")]
ModelOption = Annotated[str | None, typer.Option("--model", help="Folder or hub name of an InternVL checkpoint.")]
AdapterOption = Annotated[list[Path] | None, typer.Option("--adapter", help="Adapter folder; may be repeated.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.")]
DtypeOption = Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16, float16.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else.")]
UrlOption = Annotated[bool, typer.Option("--allow-urls", help="Allow IMAGE to be an https address.")]
DataOption = Annotated[Path, typer.Option("--data", help="Folder of the data archives.")]
RunOption = Annotated[Path, typer.Option("--out", help="Folder of the run. Run the same command again to resume it.")]


def agent(model: str | None, adapters: list[Path] | None, device: str, dtype: str) -> "VisionAgent":
    """Load the agent that the options name: without a model the default one, quietly."""
    from transformers.utils import logging

    from vision_agent.agent import VisionAgent
    from vision_agent.model.checkpoint import DEFAULT_CHECKPOINT

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return VisionAgent.from_pretrained(
        DEFAULT_CHECKPOINT if model is None else model, adapters=adapters or (), device=device, dtype=dtype
    )


def limits(allow_urls: bool) -> ImageLimits:
    """Return which images are accepted."""
    return ImageLimits(allow_urls=allow_urls)


def check_output(name: str, path: Path | None) -> None:
    """Raise InputError for a place that cannot be written, before any work is done."""
    if path is not None and not path.parent.is_dir():
        raise InputError(bad_argument(name, "a file in a folder that exists", str(path)))
