"""Arguments and options that several commands share, and what commands make of them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vision_agent.errors import InputError, bad_argument
from vision_agent.images.loading import ImageLimits

if TYPE_CHECKING:
    from vision_agent.agent import VisionAgent

_IMAGES_HELP = "Paths, folders, patterns such as 'photos/*.jpg', - for stdin, https addresses with --allow-urls."
_OUT_HELP = "Write records to this .jsonl, .csv or .parquet. Run the same command again to resume an unfinished one."

ImagesArgument = Annotated[list[str], typer.Argument(help=_IMAGES_HELP)]
ModelOption = Annotated[str | None, typer.Option("--model", help="Folder or hub name of an InternVL checkpoint.")]
AdapterOption = Annotated[list[Path] | None, typer.Option("--adapter", help="Adapter folder; may be repeated.")]
RemoteOption = Annotated[
    str | None,
    typer.Option(
        "--remote",
        metavar="URL",
        help="Ask the model that vLLM, SGLang, LMDeploy or `vision-agent serve` runs there; --model is its name. A key "
        "is read from VISION_AGENT_KEY.",
    ),
]
TokenizerOption = Annotated[
    str | None,
    typer.Option(
        "--tokenizer", help="With --remote: folder or hub name of the checkpoint that runs there, or default."
    ),
]
StatesOption = Annotated[
    str | None,
    typer.Option(
        "--states", metavar="URL", help="With --remote and --adapter: vLLM's engine that gives states, where another."
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps, xpu, npu.")]
DtypeOption = Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16, float16.")]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON and nothing else; of several images a record a line.")
]
UrlOption = Annotated[bool, typer.Option("--allow-urls", help="Allow https addresses of images.")]
DataOption = Annotated[Path, typer.Option("--data", help="Folder of the data archives.")]
RunOption = Annotated[Path, typer.Option("--out", help="Folder of the run. Run the same command again to resume it.")]
RecordsOption = Annotated[Path | None, typer.Option("--out", help=_OUT_HELP)]
RetryOption = Annotated[bool, typer.Option("--retry", help="Process files that failed before again.")]
ThresholdOption = Annotated[float | None, typer.Option("--threshold", help="Least score, 0 to 1.")]
UnknownOption = Annotated[
    bool, typer.Option("--unknown", help="Look for phrases of words that the model was never taught, too.")
]
TilesOption = Annotated[
    str,
    typer.Option(
        "--tiles",
        help="Look at overlapping tiles as well: auto (large images), always, never, or how many; multi-scale: the "
        "model's own tiles in two scales.",
    ),
]
DetailOption = Annotated[
    Literal["low", "auto", "high"] | None,
    typer.Option("--detail", help="low: look once; high: also on a larger canvas; auto: where it may show more."),
]
VerifyOption = Annotated[
    bool,
    typer.Option(
        "--verify",
        help="Look again at what is found: a box stays only where no common name fits it much better.",
    ),
]
EmbedderOption = Annotated[
    Path | None, typer.Option("--embedder", help="Folder of a CLIP, SigLIP or SigLIP 2: words are found by it.")
]
LabelsArgument = Annotated[str, typer.Argument(help="The labels to choose from, apart by semicolons.")]
TemplatesOption = Annotated[
    list[str] | None,
    typer.Option("--template", help="Text with {} for the label, such as 'a photo of a {}.'; may be repeated."),
]
DrawnOption = Annotated[
    Path | None,
    typer.Option("--save", help="Write the image with what was found to this file; of several images to this folder."),
]


def agent(model: str | None, adapters: list[Path] | None, device: str, dtype: str) -> "VisionAgent":
    """Load the agent that the options name: without a model the default one, quietly."""
    from vision_agent.batch.load_agent import load_agent

    return load_agent(model, adapters or (), device, dtype)


def read_tiles(text: str) -> bool | int | Literal["multi-scale"] | None:
    """Read `--tiles`. Raises InputError for what is neither a word that it knows nor a number."""
    named = {"auto": None, "always": True, "never": False}
    if text in named:
        return named[text]
    if text == "multi-scale":
        return "multi-scale"
    if not (text.isascii() and text.isdigit()):
        raise InputError(bad_argument("tiles", "auto, always, never, multi-scale or a number", text))
    return int(text)


def limits(allow_urls: bool) -> ImageLimits:
    """Return which images are accepted."""
    return ImageLimits(allow_urls=allow_urls)


def check_output(name: str, path: Path | None) -> None:
    """Raise InputError for a place that cannot be written, before any work is done."""
    if path is not None and not path.parent.is_dir():
        raise InputError(bad_argument(name, "a file in a folder that exists", str(path)))
