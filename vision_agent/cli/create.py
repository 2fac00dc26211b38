"""Commands that make images: `generate` and `edit`."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image

from vision_agent.batch.image_batches import AnsweredImage
from vision_agent.cli.exits import told
from vision_agent.cli.image_answers import one_by_one, print_answers
from vision_agent.cli.image_arguments import GENERATED, ImageArguments, open_image
from vision_agent.cli.option_sets import ModelOptions, expanded
from vision_agent.cli.options import ImagesArgument, UrlOption, limits
from vision_agent.cli.saving import ImageOutput
from vision_agent.errors import InputError, bad_argument
from vision_agent.images.loading import load_image
from vision_agent.results.generated import GeneratedImage
from vision_agent.validation import check_prompts, check_request


@dataclass(frozen=True)
class DrawingOptions:
    """How an image is made."""

    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, the image in base64.")] = False
    seed: Annotated[int | None, typer.Option("--seed", help="The same seed gives the same image.")] = None
    steps: Annotated[int | None, typer.Option("--steps", help="Steps from noise to image.")] = None
    guidance: Annotated[
        float | None, typer.Option("--guidance", help="How strictly the words are followed, from 1.")
    ] = None

    def settings(self) -> dict[str, Any]:
        """Return what `generate` and `edit` take of them."""
        return {"seed": self.seed, "steps": self.steps, "guidance": self.guidance}


def register(app: typer.Typer) -> None:
    """Add the commands to `vision-agent`."""
    app.command()(expanded(generate))
    app.command()(expanded(edit))


def generate(
    prompt: Annotated[list[str], typer.Argument(help="What the image shows; of several prompts an image each.")],
    by: ModelOptions,
    drawing: DrawingOptions,
    save: Annotated[
        Path | None, typer.Option("--save", help="Write the image to this file, several to this folder.")
    ] = None,
    size: Annotated[str | None, typer.Option("--size", help="A side, or WIDTHxHEIGHT, in pixels.")] = None,
    negative_prompt: Annotated[
        str | None, typer.Option("--negative-prompt", help="What the image should not show.")
    ] = None,
) -> None:
    """Make an image from words."""
    prompts = list(check_prompts("prompt", prompt[0] if len(prompt) == 1 else prompt))
    wanted = None if size is None else _size(size)
    output = _output(save, drawing.as_json, several=len(prompts) > 1)
    made = by.load().generate(prompts, size=wanted, negative_prompt=negative_prompt, **drawing.settings())
    for image in made:
        if drawing.as_json:
            print(image.model_dump_json())
        _write(image, output, GENERATED)


def edit(
    prompt: Annotated[str, typer.Argument(help='The change, such as "make the car blue".')],
    images: ImagesArgument,
    by: ModelOptions,
    drawing: DrawingOptions,
    save: Annotated[
        Path | None,
        typer.Option("--save", help="Write the changed image to this file; of several images to this folder."),
    ] = None,
    mask: Annotated[
        Path | None, typer.Option("--mask", help="An image that is white where the image may change.")
    ] = None,
    allow_urls: UrlOption = False,
) -> None:
    """Change an image by words."""
    check_request("prompt", prompt, images[0])
    check_prompts("prompt", prompt)
    given = ImageArguments.of(images)
    output = _output(save, drawing.as_json, several=given.several)
    allowed = None if mask is None else load_image(mask, name="mask")
    load = cache(by.load)

    def change(image: Image.Image) -> GeneratedImage:
        return load().edit(prompt, image, mask=allowed, **drawing.settings())

    def write(answered: AnsweredImage) -> None:
        if isinstance(answered.result, GeneratedImage):
            _write(answered.result, output, answered.file)

    answers = one_by_one(given.files, lambda file: open_image(file, limits(allow_urls)), change)
    print_answers(answers, given, as_json=drawing.as_json, then=write)


def _output(save: Path | None, as_json: bool, *, several: bool) -> ImageOutput | None:
    """Where images go. Raises InputError where they would go nowhere."""
    if save is None and not as_json:
        raise InputError("`save` must be given, or `json`: there is nowhere to put the image")
    return None if save is None else ImageOutput(save, several=several)


def _write(image: GeneratedImage, output: ImageOutput | None, source: str) -> None:
    if output is not None:
        told(f"saved {output.write(image.image, source)} (seed {image.seed})")
    if image.unknown_words:
        told(f"the model does not know {', '.join(map(repr, image.unknown_words))}")


def _size(text: str) -> int | tuple[int, int]:
    """`"256"` or `"256x128"`."""
    sides = text.lower().split("x")
    if not 1 <= len(sides) <= 2 or not all(side.isascii() and side.isdigit() for side in sides):
        raise InputError(bad_argument("size", "a side, or WIDTHxHEIGHT, in pixels", text))
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))
