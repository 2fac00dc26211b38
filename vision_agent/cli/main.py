"""The command line: `vision-agent detect "red car" street.jpg`.

Results go to stdout, everything else to stderr. Exit codes: 0 done, 2 bad input (one line on stderr).
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from PIL import Image

from vision_agent.cli import documents as cli_documents
from vision_agent.decoders.image import commands as cli_images
from vision_agent.errors import InputError, VisionAgentError, bad_argument
from vision_agent.images.loading import ImageLimits, load_image
from vision_agent.results.answers import Answer
from vision_agent.validation import check_length, check_phrases, check_request, check_threshold

if TYPE_CHECKING:
    from vision_agent.agent import VisionAgent

app = typer.Typer(
    name="vision-agent",
    help="Detect and ask with InternVL. Runs the embedded default model unless --model names another.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ModelOption = Annotated[str | None, typer.Option("--model", help="Folder or hub name of a native InternVL checkpoint.")]
AdapterOption = Annotated[list[Path] | None, typer.Option("--adapter", help="Adapter folder; may be repeated.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.")]
DtypeOption = Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16, float16.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result's JSON and nothing else.")]
UrlOption = Annotated[bool, typer.Option("--allow-urls", help="Let IMAGE be an https address.")]
ImageArgument = Annotated[str, typer.Argument(help="Path, data: URL, or https URL with --allow-urls.")]


@app.command()
def detect(
    phrase: Annotated[str, typer.Argument(help='What to find; several phrases are separated by "; ".')],
    image: ImageArgument,
    as_json: JsonOption = False,
    save: Annotated[Path | None, typer.Option("--save", help="Write the image with its boxes here.")] = None,
    threshold: Annotated[float | None, typer.Option("--threshold", help="Least score, 0 to 1.")] = None,
    model: ModelOption = None,
    adapter: AdapterOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    allow_urls: UrlOption = False,
) -> None:
    """Find things by phrase."""
    phrases = [part.strip() for part in phrase.split(";") if part.strip()] or [phrase]
    check_phrases(phrases, image)
    check_threshold(threshold)
    _check_output("save", save)
    # The image first: a typo in its name should not cost the loading of a model.
    picture = load_image(image, limits=_limits(allow_urls))
    agent = _agent(model, adapter, device, dtype)
    found = agent.detect(phrases if len(phrases) > 1 else phrases[0], picture, threshold=threshold)
    if save is not None:
        found.draw(picture).save(save)
    if as_json:
        print(found.model_dump_json())
        return
    for item in found:
        x0, y0, x1, y1 = item.box.xyxy
        print(f"{item.label}\t{item.score:.2f}\t{x0:.0f},{y0:.0f},{x1:.0f},{y1:.0f}")
    if not found:
        print(f"nothing found for {', '.join(map(repr, phrases))}", file=sys.stderr)


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="A question about the image.")],
    image: ImageArgument,
    as_json: JsonOption = False,
    model: ModelOption = None,
    adapter: AdapterOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    allow_urls: UrlOption = False,
) -> None:
    """Answer a question in words."""
    check_request("question", question, image)
    _answer(
        lambda agent, picture: agent.ask(question, picture), image, as_json, model, adapter, device, dtype, allow_urls
    )


@app.command()
def run(
    request: Annotated[str, typer.Argument(help="Anything; the model decides how it answers: words, boxes, images.")],
    image: Annotated[str | None, typer.Argument(help="An image: a path or an address. None to draw one.")] = None,
    as_json: JsonOption = False,
    save: Annotated[Path | None, typer.Option("--save", help="Write the images that are made here.")] = None,
    model: ModelOption = None,
    adapter: AdapterOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    allow_urls: UrlOption = False,
) -> None:
    """Let the model choose its route."""
    if image is not None:
        check_request("request", request, image)
    _check_output("save", save)
    picture = None if image is None else load_image(image, limits=_limits(allow_urls))
    result = _agent(model, adapter, device, dtype).run(request, picture)
    print(result.model_dump_json() if as_json else result.summary)
    for number, made in enumerate(result.created_images, start=1):
        if save is not None:
            path = save if number == 1 else save.with_stem(f"{save.stem}-{number}")
            made.save(path)
            print(f"saved {path}", file=sys.stderr)


@app.command()
def decoders() -> None:
    """List the decoders that are installed."""
    from vision_agent.plugins.registry import load_all_decoders

    for name, decoder in load_all_decoders().items():
        print(f"{name}\t{decoder.__module__}.{decoder.__qualname__}")


@app.command()
def caption(
    image: ImageArgument,
    length: Annotated[str, typer.Option("--length", help="short, normal or long.")] = "normal",
    as_json: JsonOption = False,
    model: ModelOption = None,
    adapter: AdapterOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    allow_urls: UrlOption = False,
) -> None:
    """Describe an image."""
    check_length(length)
    _answer(
        lambda agent, picture: agent.caption(picture, length=length),  # type: ignore[arg-type]  # checked above
        image,
        as_json,
        model,
        adapter,
        device,
        dtype,
        allow_urls,
    )


@app.command()
def info(
    model: Annotated[str, typer.Argument(help="'default', a checkpoint folder or a hub name.")] = "default",
    as_json: JsonOption = False,
) -> None:
    """Print a model's size, memory, context, tiles, routes and card, without loading its weights."""
    from vision_agent.cli.describe import describe

    description = describe(model)
    print(description.model_dump_json() if as_json else description.to_text(), end="\n" if as_json else "")


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="A checkpoint folder in InternVL's original format.")],
    target: Annotated[Path, typer.Argument(help="The native folder to write; must not exist.")],
) -> None:
    """Write an original-format checkpoint as a native one, once; transformers alone can load it then."""
    from vision_agent.model.original import convert as write_native

    write_native(source, target)
    print(target)


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="A TOML recipe, or 'default' for the embedded model's own.")],
    data: Annotated[Path, typer.Option("--data", help="Folder of the training archives.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the run; an unfinished run there goes on.")],
    device: DeviceOption = "auto",
) -> None:
    """Train a small model from a recipe."""
    from vision_agent.train.config import DEFAULT_RECIPE, read_config
    from vision_agent.train.trainer import train as run_training

    config = read_config(DEFAULT_RECIPE if str(recipe) == "default" else recipe)
    print(run_training(config, data, out, device))


@app.command()
def train_masks(
    model: Annotated[Path, typer.Argument(help="A checkpoint folder with a [DET] adapter.")],
    data: Annotated[Path, typer.Option("--data", help="Folder of the training archives.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the run; the [SEG] adapter is written to its seg/.")],
    only: Annotated[str | None, typer.Option("--only", help="One stage: states or masks.")] = None,
    start: Annotated[Path | None, typer.Option("--start", help="A [SEG] adapter whose mask network to take.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Of the stage that learns masks.")] = None,
    device: DeviceOption = "auto",
) -> None:
    """Train a [SEG] adapter for a finished model, which itself stays as it is."""
    from vision_agent.decoders.mask.training import MaskTraining
    from vision_agent.decoders.mask.training import train_masks as run_training

    if only not in (None, "states", "masks"):
        raise InputError(bad_argument("only", "states or masks", only))
    if steps is not None and steps < 1:
        raise InputError(bad_argument("steps", "at least 1", steps))
    settings = MaskTraining() if steps is None else MaskTraining(mask_steps=steps)
    print(run_training(model, data, out, settings, only=only, start=start, device=device))  # type: ignore[arg-type]


@app.command()
def calibrate(
    model: Annotated[Path, typer.Argument(help="A checkpoint folder with a [DET] adapter.")],
    data: Annotated[Path, typer.Option("--data", help="Folder of the evaluation archives.")],
    device: DeviceOption = "auto",
) -> None:
    """Set how sure a model's boxes say they are, and the scores from which they are shown, believed and counted."""
    from dataclasses import asdict

    from vision_agent.evaluate.calibration import best_settings
    from vision_agent.routing.adapter import change_settings

    agent = _agent(str(model), None, device, "auto")
    best = asdict(best_settings(agent, data))
    change_settings(model / "adapters" / "det", **best)
    masks = agent.routes.get("seg")
    if masks is not None and "finder" in masks.decoder.settings:  # it finds things by a copy of the box decoder
        change_settings(model / "adapters" / "seg", finder=masks.decoder.settings["finder"] | best)
    for name, least in best.items():
        print(f"{name}\t{least}")


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="'default', or a checkpoint folder.")],
    data: Annotated[Path, typer.Option("--data", help="Folder of the evaluation archives.")],
    split: Annotated[str, typer.Option("--split", help="val or test.")] = "val",
    limit: Annotated[int | None, typer.Option("--limit", help="At most this many images a suite.")] = None,
    suite: Annotated[
        str,
        typer.Option(
            "--suite",
            help="all, photos, scenes, colours, generated, routing, answers, captions, masks, drawing or documents.",
        ),
    ] = "all",
    out: Annotated[Path | None, typer.Option("--out", help="Write the figures as JSON here.")] = None,
    device: DeviceOption = "auto",
) -> None:
    """Measure a model on held-out images; prints a Markdown table."""
    from vision_agent.evaluate.suite import check_evaluation, evaluate_agent

    _check_output("out", out)
    check_evaluation(split, limit, suite)  # before a model is loaded
    agent = _agent(None if model == "default" else model, None, device, "auto")
    figures = evaluate_agent(agent, data, split, limit, suite)
    if out is not None:
        out.write_text(json.dumps(figures.model_dump(), indent=2) + "\n", "utf-8")
    print(figures.to_markdown())


@app.command()
def mcp(
    root: Annotated[
        list[Path] | None, typer.Option("--root", help="Folder that clients may read from; may be repeated.")
    ] = None,
    http: Annotated[
        str | None, typer.Option("--http", help="Serve at HOST:PORT (or a port of this machine) and not over stdio.")
    ] = None,
    images: Annotated[
        str, typer.Option("--images", help="New images as links, or inline for the model to see.")
    ] = "links",
    tool: Annotated[list[str] | None, typer.Option("--tool", help="Offer this tool; may be repeated.")] = None,
    model: ModelOption = None,
    adapter: AdapterOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    allow_urls: Annotated[bool, typer.Option("--allow-urls", help="Let clients name https addresses.")] = False,
) -> None:
    """Serve the tools to MCP clients: desktop assistants, editors, agents."""
    from vision_agent.images.store import ImageStore
    from vision_agent.plugins.registry import load_toolkit

    form = load_toolkit("mcp")
    if images not in ("links", "inline"):
        raise InputError(bad_argument("images", "links or inline", images))
    roots = ImageStore(root or ()).roots
    listening = None if http is None else form.listen(http)
    # Before anything heavy is imported: from here on stdout carries the protocol alone.
    output = form.claim_stdout() if listening is None else None
    server = form(
        _agent(model, adapter, device, dtype), tool or None, roots=roots, limits=_limits(allow_urls), images=images
    )
    if listening is None:
        server.run_stdio(output)
    else:
        server.run_http(listening)


cli_documents.register(app)
cli_images.register(app)


def main() -> None:
    """Entry point: our own errors become one line and exit code 2."""
    try:
        app()
    except VisionAgentError as error:
        print(f"vision-agent: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


def _answer(
    verb: "Callable[[VisionAgent, Image.Image], Answer]",
    image: str,
    as_json: bool,
    model: str | None,
    adapter: list[Path] | None,
    device: str,
    dtype: str,
    allow_urls: bool,
) -> None:
    picture = load_image(image, limits=_limits(allow_urls))
    answer = verb(_agent(model, adapter, device, dtype), picture)
    if as_json:
        print(answer.model_dump_json())
        return
    print(answer.text)
    for route in answer.routes:
        print(f"{route.token} {route.phrase}: {route.result!r}")


def _agent(model: str | None, adapters: list[Path] | None, device: str, dtype: str) -> "VisionAgent":
    from transformers.utils import logging

    from vision_agent.agent import VisionAgent
    from vision_agent.model.checkpoint import DEFAULT_CHECKPOINT

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return VisionAgent.from_pretrained(
        DEFAULT_CHECKPOINT if model is None else model, adapters=adapters or (), device=device, dtype=dtype
    )


def _limits(allow_urls: bool) -> ImageLimits:
    return ImageLimits(allow_urls=allow_urls)


def _check_output(name: str, path: Path | None) -> None:
    """A place that cannot be written is an error before any work."""
    if path is not None and not path.parent.is_dir():
        raise InputError(bad_argument(name, "a file in a folder that exists", str(path)))
