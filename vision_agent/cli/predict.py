"""Commands that answer about images: `detect`, `segment`, `count`, `point`, `ask`, `caption`, `classify` and `run`.

Images are opened before the model is loaded: a typo in a name should not cost the loading of a model.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image

from vision_agent.batch.image_batches import AnsweredImage
from vision_agent.cli.exits import told
from vision_agent.cli.image_answers import answer_images, one_by_one, print_answers
from vision_agent.cli.image_arguments import GENERATED, ImageArguments, open_image
from vision_agent.cli.option_sets import (
    DrawnResultOptions,
    EngineOptions,
    FindingOptions,
    ModelOptions,
    ResultOptions,
    expanded,
)
from vision_agent.cli.options import (
    EmbedderOption,
    ImagesArgument,
    JsonOption,
    LabelsArgument,
    TemplatesOption,
    UrlOption,
    VerifyOption,
    limits,
)
from vision_agent.cli.saving import ImageOutput
from vision_agent.planning.result import AgentResult
from vision_agent.validation import check_length, check_phrase, check_phrases, check_request

PhraseArgument = Annotated[str, typer.Argument(help="What to find. A semicolon separates phrases.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `vision-agent`."""
    for command in (detect, segment, count, point, ask, caption, classify, run):
        app.command()(expanded(command))


def detect(
    phrase: PhraseArgument,
    images: ImagesArgument,
    result: DrawnResultOptions,
    finding: FindingOptions,
    by: EngineOptions,
    verify: VerifyOption = False,
    allow_urls: UrlOption = False,
) -> None:
    """Find objects by phrase: label, score and box (x0,y0,x1,y1 in pixels), one a line."""
    check_phrases(phrase, images[0])
    answer_images(finding.job("detect", phrase, by, verify=verify), images, result.output(), limits(allow_urls))


def segment(
    phrase: PhraseArgument,
    images: ImagesArgument,
    result: DrawnResultOptions,
    finding: FindingOptions,
    by: EngineOptions,
    allow_urls: UrlOption = False,
) -> None:
    """Find the exact shapes of objects: label, score, box and number of pixels, one a line; masks with --json."""
    check_phrases(phrase, images[0])
    answer_images(finding.job("segment", phrase, by), images, result.output(), limits(allow_urls))


def count(
    phrase: Annotated[str, typer.Argument(help="What to count.")],
    images: ImagesArgument,
    result: DrawnResultOptions,
    finding: FindingOptions,
    by: EngineOptions,
    allow_urls: UrlOption = False,
) -> None:
    """Count objects."""
    check_phrase(phrase, images[0])
    answer_images(finding.job("count", phrase, by), images, result.output(), limits(allow_urls))


def point(
    phrase: PhraseArgument,
    images: ImagesArgument,
    result: ResultOptions,
    finding: FindingOptions,
    by: EngineOptions,
    allow_urls: UrlOption = False,
) -> None:
    """Point at objects: label, score and place (x,y in pixels), one a line."""
    check_phrases(phrase, images[0])
    answer_images(finding.job("point", phrase, by), images, result.output(), limits(allow_urls))


def ask(
    question: Annotated[str, typer.Argument(help="A question, which is asked about each image.")],
    images: ImagesArgument,
    result: ResultOptions,
    by: EngineOptions,
    allow_urls: UrlOption = False,
) -> None:
    """Answer a question about an image."""
    check_request("question", question, images[0])
    answer_images(by.job("ask", question), images, result.output(), limits(allow_urls))


def caption(
    images: ImagesArgument,
    result: ResultOptions,
    by: EngineOptions,
    length: Annotated[str, typer.Option("--length", help="short, normal or long.")] = "normal",
    allow_urls: UrlOption = False,
) -> None:
    """Describe an image."""
    check_length(length)
    answer_images(by.job("caption", length), images, result.output(), limits(allow_urls))


def classify(
    labels: LabelsArgument,
    images: ImagesArgument,
    result: ResultOptions,
    by: ModelOptions,
    template: TemplatesOption = None,
    embedder: EmbedderOption = None,
    allow_urls: UrlOption = False,
) -> None:
    """Say which of some labels an image shows: label and score, best first, or that none of them fits."""
    reads = None if embedder is None else str(embedder)
    job = by.job("classify", labels, templates=tuple(template or ()), embedder=reads)
    answer_images(job, images, result.output(), limits(allow_urls))


def run(
    request: Annotated[
        str, typer.Argument(help="Any request; the model decides how it answers: text, boxes or images.")
    ],
    by: EngineOptions,
    images: Annotated[
        list[str] | None, typer.Argument(help="Images, each of which the request is about. None: one is generated.")
    ] = None,
    verify: VerifyOption = False,
    together: Annotated[bool, typer.Option("--together", help="One request about all images at once.")] = False,
    as_json: JsonOption = False,
    save: Annotated[
        Path | None, typer.Option("--save", help="Write the images that are created to this file or folder.")
    ] = None,
    allow_urls: UrlOption = False,
) -> None:
    """Let the model choose its route."""
    check_request("request", request, images[0] if images else None)
    given = ImageArguments.of(images) if images else ImageArguments([GENERATED], False)
    several = given.several and not together
    output = None if save is None else ImageOutput(save, several=several)
    load = cache(by.load)

    def open_all(file: str) -> list[Image.Image]:
        files = given.files if together else [file]
        return [open_image(each, limits(allow_urls)) for each in files if each != GENERATED]

    def ask_about(shown: list[Image.Image]) -> AgentResult:
        return load().run(request, shown or None, verify=verify)

    def write(answered: AnsweredImage) -> None:
        created = answered.result.created_images if isinstance(answered.result, AgentResult) else ()
        for number, image in enumerate(created, start=1):
            if output is not None:
                told(f"saved {output.write(image, answered.file, number)}")

    answers = one_by_one(given.files[:1] if together else given.files, open_all, ask_about)
    print_answers(answers, replace(given, several=several), as_json=as_json, then=write)
