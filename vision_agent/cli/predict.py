"""Commands that answer about images: `detect`, `segment`, `count`, `point`, `ask`, `caption` and `run`.

Images are opened before the model is loaded: a typo in a name should not cost the loading of a model.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image

from vision_agent.batch import ImageJob
from vision_agent.batch.image_batches import AnsweredImage
from vision_agent.cli.exits import told
from vision_agent.cli.image_answers import AnswerOutput, answer_images, one_by_one, print_answers
from vision_agent.cli.image_arguments import GENERATED, ImageArguments, open_image
from vision_agent.cli.options import (
    AdapterOption,
    DetailOption,
    DeviceOption,
    DrawnOption,
    DtypeOption,
    ImagesArgument,
    JsonOption,
    ModelOption,
    RecordsOption,
    RetryOption,
    ThresholdOption,
    TilesOption,
    UnknownOption,
    UrlOption,
    agent,
    limits,
    read_tiles,
)
from vision_agent.cli.saving import ImageOutput
from vision_agent.planning.result import AgentResult
from vision_agent.validation import check_length, check_phrase, check_phrases, check_request

PhraseArgument = Annotated[str, typer.Argument(help="What to find. A semicolon separates phrases.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `vision-agent`."""
    for command in (detect, segment, count, point, ask, caption, run):
        app.command()(command)


def detect(
    phrase: PhraseArgument,
    images: ImagesArgument,
    as_json: JsonOption = False,
    save: DrawnOption = None,
    out: RecordsOption = None,
    retry: RetryOption = False,
    threshold: ThresholdOption = None,
    unknown: UnknownOption = False,
    tiles: TilesOption = "auto",
    detail: DetailOption = "auto",
    model: ModelOption = None,
    adapter: AdapterOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    allow_urls: UrlOption = False,
) -> None:
    """Find objects by phrase: label, score and box (x0,y0,x1,y1 in pixels), one a line."""
    check_phrases(phrase, images[0])
    job = ImageJob(
        "detect", phrase, threshold, not unknown, read_tiles(tiles), detail, model, _paths(adapter), device, dtype
    )
    answer_images(job, images, AnswerOutput(as_json, save, out, retry), limits(allow_urls))


def segment(
    phrase: PhraseArgument,
    images: ImagesArgument,
    as_json: JsonOption = False,
    save: DrawnOption = None,
    out: RecordsOption = None,
    retry: RetryOption = False,
    threshold: ThresholdOption = None,
    unknown: UnknownOption = False,
    tiles: TilesOption = "auto",
    detail: DetailOption = "auto",
    model: ModelOption = None,
    adapter: AdapterOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    allow_urls: UrlOption = False,
) -> None:
    """Find the exact shapes of objects: label, score, box and number of pixels, one a line; masks with --json."""
    check_phrases(phrase, images[0])
    job = ImageJob(
        "segment", phrase, threshold, not unknown, read_tiles(tiles), detail, model, _paths(adapter), device, dtype
    )
    answer_images(job, images, AnswerOutput(as_json, save, out, retry), limits(allow_urls))


def count(
    phrase: Annotated[str, typer.Argument(help="What to count.")],
    images: ImagesArgument,
    as_json: JsonOption = False,
    save: DrawnOption = None,
    out: RecordsOption = None,
    retry: RetryOption = False,
    threshold: ThresholdOption = None,
    unknown: UnknownOption = False,
    tiles: TilesOption = "auto",
    detail: DetailOption = "auto",
    model: ModelOption = None,
    adapter: AdapterOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    allow_urls: UrlOption = False,
) -> None:
    """Count objects."""
    check_phrase(phrase, images[0])
    job = ImageJob(
        "count", phrase, threshold, not unknown, read_tiles(tiles), detail, model, _paths(adapter), device, dtype
    )
    answer_images(job, images, AnswerOutput(as_json, save, out, retry), limits(allow_urls))


def point(
    phrase: PhraseArgument,
    images: ImagesArgument,
    as_json: JsonOption = False,
    out: RecordsOption = None,
    retry: RetryOption = False,
    threshold: ThresholdOption = None,
    unknown: UnknownOption = False,
    tiles: TilesOption = "auto",
    detail: DetailOption = "auto",
    model: ModelOption = None,
    adapter: AdapterOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    allow_urls: UrlOption = False,
) -> None:
    """Point at objects: label, score and place (x,y in pixels), one a line."""
    check_phrases(phrase, images[0])
    job = ImageJob(
        "point", phrase, threshold, not unknown, read_tiles(tiles), detail, model, _paths(adapter), device, dtype
    )
    answer_images(job, images, AnswerOutput(as_json, None, out, retry), limits(allow_urls))


def ask(
    question: Annotated[str, typer.Argument(help="A question, which is asked about each image.")],
    images: ImagesArgument,
    as_json: JsonOption = False,
    out: RecordsOption = None,
    retry: RetryOption = False,
    model: ModelOption = None,
    adapter: AdapterOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    allow_urls: UrlOption = False,
) -> None:
    """Answer a question about an image."""
    check_request("question", question, images[0])
    job = ImageJob("ask", question, model=model, adapters=_paths(adapter), device=device, dtype=dtype)
    answer_images(job, images, AnswerOutput(as_json, None, out, retry), limits(allow_urls))


def caption(
    images: ImagesArgument,
    length: Annotated[str, typer.Option("--length", help="short, normal or long.")] = "normal",
    as_json: JsonOption = False,
    out: RecordsOption = None,
    retry: RetryOption = False,
    model: ModelOption = None,
    adapter: AdapterOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    allow_urls: UrlOption = False,
) -> None:
    """Describe an image."""
    check_length(length)
    job = ImageJob("caption", length, model=model, adapters=_paths(adapter), device=device, dtype=dtype)
    answer_images(job, images, AnswerOutput(as_json, None, out, retry), limits(allow_urls))


def run(
    request: Annotated[
        str, typer.Argument(help="Any request; the model decides how it answers: text, boxes or images.")
    ],
    images: Annotated[
        list[str] | None, typer.Argument(help="Images, each of which the request is about. None: one is generated.")
    ] = None,
    together: Annotated[bool, typer.Option("--together", help="One request about all images at once.")] = False,
    as_json: JsonOption = False,
    save: Annotated[
        Path | None, typer.Option("--save", help="Write the images that are created to this file or folder.")
    ] = None,
    model: ModelOption = None,
    adapter: AdapterOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    allow_urls: UrlOption = False,
) -> None:
    """Let the model choose its route."""
    check_request("request", request, images[0] if images else None)
    given = ImageArguments.of(images) if images else ImageArguments([GENERATED], False)
    several = given.several and not together
    output = None if save is None else ImageOutput(save, several=several)
    load = cache(lambda: agent(model, adapter, device, dtype))

    def open_all(file: str) -> list[Image.Image]:
        files = given.files if together else [file]
        return [open_image(each, limits(allow_urls)) for each in files if each != GENERATED]

    def ask_about(shown: list[Image.Image]) -> AgentResult:
        return load().run(request, shown or None)

    def write(answered: AnsweredImage) -> None:
        created = answered.result.created_images if isinstance(answered.result, AgentResult) else ()
        for number, image in enumerate(created, start=1):
            if output is not None:
                told(f"saved {output.write(image, answered.file, number)}")

    answers = one_by_one(given.files[:1] if together else given.files, open_all, ask_about)
    print_answers(answers, replace(given, several=several), as_json=as_json, then=write)


def _paths(adapters: list[Path] | None) -> tuple[str, ...]:
    return tuple(map(str, adapters or ()))
