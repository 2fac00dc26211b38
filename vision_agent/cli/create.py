"""Commands that make images: `generate` and `edit`."""

from functools import cache
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image

from vision_agent.batch.image_batches import AnsweredImage
from vision_agent.cli.exits import told
from vision_agent.cli.image_answers import one_by_one, print_answers
from vision_agent.cli.image_arguments import GENERATED, ImageArguments, open_image
from vision_agent.cli.options import (
    AdapterOption,
    DeviceOption,
    DtypeOption,
    ImagesArgument,
    ModelOption,
    UrlOption,
    agent,
    limits,
)
from vision_agent.cli.saving import ImageOutput
from vision_agent.errors import InputError, bad_argument
from vision_agent.images.loading import load_image
from vision_agent.results.generated import GeneratedImage
from vision_agent.validation import check_prompts, check_request

SeedOption = Annotated[int | None, typer.Option("--seed", help="The same seed gives the same image.")]
StepsOption = Annotated[int | None, typer.Option("--steps", help="Steps from noise to image.")]
GuidanceOption = Annotated[
    float | None, typer.Option("--guidance", help="How strictly the words are followed, from 1.")
]
CreatedJsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON, the image in base64.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `vision-agent`."""
    app.command()(generate)
    app.command()(edit)


def generate(
    prompt: Annotated[list[str], typer.Argument(help="What the image shows; of several prompts an image each.")],
    save: Annotated[
        Path | None, typer.Option("--save", help="Write the image to this file, several to this folder.")
    ] = None,
    as_json: CreatedJsonOption = False,
    seed: SeedOption = None,
    steps: StepsOption = None,
    size: Annotated[str | None, typer.Option("--size", help="A side, or WIDTHxHEIGHT, in pixels.")] = None,
    guidance: GuidanceOption = None,
    negative_prompt: Annotated[
        str | None, typer.Option("--negative-prompt", help="What the image should not show.")
    ] = None,
    model: ModelOption = None,
    adapter: AdapterOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
) -> None:
    """Make an image from words."""
    prompts = list(check_prompts("prompt", prompt[0] if len(prompt) == 1 else prompt))
    wanted = None if size is None else _size(size)
    output = _output(save, as_json, several=len(prompts) > 1)
    made = agent(model, adapter, device, dtype).generate(
        prompts, seed=seed, steps=steps, size=wanted, guidance=guidance, negative_prompt=negative_prompt
    )
    for image in made:
        if as_json:
            print(image.model_dump_json())
        _write(image, output, GENERATED)


def edit(
    prompt: Annotated[str, typer.Argument(help='The change, such as "make the car blue".')],
    images: ImagesArgument,
    save: Annotated[
        Path | None,
        typer.Option("--save", help="Write the changed image to this file; of several images to this folder."),
    ] = None,
    mask: Annotated[
        Path | None, typer.Option("--mask", help="An image that is white where the image may change.")
    ] = None,
    as_json: CreatedJsonOption = False,
    seed: SeedOption = None,
    steps: StepsOption = None,
    guidance: GuidanceOption = None,
    model: ModelOption = None,
    adapter: AdapterOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    allow_urls: UrlOption = False,
) -> None:
    """Change an image by words."""
    check_request("prompt", prompt, images[0])
    check_prompts("prompt", prompt)
    given = ImageArguments.of(images)
    output = _output(save, as_json, several=given.several)
    allowed = None if mask is None else load_image(mask, name="mask")
    load = cache(lambda: agent(model, adapter, device, dtype))

    def change(image: Image.Image) -> GeneratedImage:
        return load().edit(prompt, image, mask=allowed, seed=seed, steps=steps, guidance=guidance)

    def write(answered: AnsweredImage) -> None:
        if isinstance(answered.result, GeneratedImage):
            _write(answered.result, output, answered.file)

    answers = one_by_one(given.files, lambda file: open_image(file, limits(allow_urls)), change)
    print_answers(answers, given, as_json=as_json, then=write)


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
