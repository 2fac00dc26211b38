"""Commands that answer about one image: `detect`, `ask`, `run` and `caption`."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from vision_agent.cli.options import (
    AdapterOption,
    DeviceOption,
    DtypeOption,
    ImageArgument,
    JsonOption,
    ModelOption,
    UrlOption,
    agent,
    check_output,
    limits,
)
from vision_agent.images.loading import load_image
from vision_agent.results.answers import Answer
from vision_agent.validation import check_length, check_phrases, check_request, check_threshold


def register(app: typer.Typer) -> None:
    """Add the commands to `vision-agent`."""
    for command in (detect, ask, run, caption):
        app.command()(command)


# In each command the image is loaded before the model: a typo in its name should not cost the loading of a model.


def detect(
    phrase: Annotated[str, typer.Argument(help="What to find. A semicolon separates phrases.")],
    image: ImageArgument,
    as_json: JsonOption = False,
    save: Annotated[Path | None, typer.Option("--save", help="Write the image with its boxes to this file.")] = None,
    threshold: Annotated[float | None, typer.Option("--threshold", help="Least score, 0 to 1.")] = None,
    unknown: Annotated[
        bool, typer.Option("--unknown", help="Look for phrases of words that the model was never taught, too.")
    ] = False,
    model: ModelOption = None,
    adapter: AdapterOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    allow_urls: UrlOption = False,
) -> None:
    """Find objects by phrase."""
    phrases = check_phrases(phrase, image)
    check_threshold(threshold)
    check_output("save", save)
    loaded = load_image(image, limits=limits(allow_urls))
    found = agent(model, adapter, device, dtype).detect(phrases, loaded, threshold=threshold, only_known=not unknown)
    if save is not None:
        found.draw(loaded).save(save)
    if as_json:
        print(found.model_dump_json())
        return
    for item in found:
        x0, y0, x1, y1 = item.box.xyxy
        print(f"{item.label}\t{item.score:.2f}\t{x0:.0f},{y0:.0f},{x1:.0f},{y1:.0f}")
    if found.unknown_words:
        print(f"the model does not know {', '.join(map(repr, found.unknown_words))}", file=sys.stderr)
    if not found:
        print(f"nothing found for {', '.join(map(repr, phrases))}", file=sys.stderr)


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
    """Answer a question about an image."""
    check_request("question", question, image)
    loaded = load_image(image, limits=limits(allow_urls))
    _print_answer(agent(model, adapter, device, dtype).ask(question, loaded), as_json)


def run(
    request: Annotated[
        str, typer.Argument(help="Any request; the model decides how it answers: text, boxes or images.")
    ],
    image: Annotated[
        str | None, typer.Argument(help="Path or address of an image. Leave it out to generate one.")
    ] = None,
    as_json: JsonOption = False,
    save: Annotated[Path | None, typer.Option("--save", help="Write the images that are created to this file.")] = None,
    model: ModelOption = None,
    adapter: AdapterOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    allow_urls: UrlOption = False,
) -> None:
    """Let the model choose its route."""
    if image is not None:
        check_request("request", request, image)
    check_output("save", save)
    loaded = None if image is None else load_image(image, limits=limits(allow_urls))
    result = agent(model, adapter, device, dtype).run(request, loaded)
    print(result.model_dump_json() if as_json else result.summary)
    for number, created in enumerate(result.created_images, start=1):
        if save is not None:
            path = save if number == 1 else save.with_stem(f"{save.stem}-{number}")
            created.save(path)
            print(f"saved {path}", file=sys.stderr)


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
    checked: Any = length
    loaded = load_image(image, limits=limits(allow_urls))
    _print_answer(agent(model, adapter, device, dtype).caption(loaded, length=checked), as_json)


def _print_answer(answer: Answer, as_json: bool) -> None:
    if as_json:
        print(answer.model_dump_json())
        return
    print(answer.text)
    for route in answer.routes:
        print(f"{route.token} {route.phrase}: {route.result!r}")
