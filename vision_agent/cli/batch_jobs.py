"""`vision-agent batch VERB ...`: a verb over many files, by workers, a Ray cluster or servers; see docs/batch.md."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from vision_agent.batch import ExtractJob, ImageJob, Job, OcrJob
from vision_agent.batch import merge as merge_shards
from vision_agent.batch.files import IMAGE_SUFFIXES
from vision_agent.cli.documents import (
    ConfidenceOption,
    DateOrderOption,
    DecimalMarkOption,
    EngineOption,
    PagesOption,
    PasswordOption,
    ReaderOption,
    SchemaOption,
    TextLayerOption,
)
from vision_agent.cli.executor_options import ExecutorOptions, ItemsArgument
from vision_agent.cli.exits import run_to_end
from vision_agent.cli.option_sets import EngineOptions, FindingOptions, ModelOptions, expanded
from vision_agent.cli.options import (
    DeviceOption,
    EmbedderOption,
    LabelsArgument,
    ModelOption,
    TemplatesOption,
    UrlOption,
    VerifyOption,
)
from vision_agent.documents.source import SUFFIXES
from vision_agent.errors import InputError
from vision_agent.model.threads import available_cpus

PhraseArgument = Annotated[str, typer.Argument(help="What to find. A semicolon separates phrases.")]
_MOST_WORKERS = 8
_PDF = frozenset({".pdf"})


def register(app: typer.Typer) -> None:
    """Add the group of commands to `vision-agent`."""
    group = typer.Typer(
        help="Do a verb for many files, by worker processes, a Ray cluster or servers, and write records.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    for command in (detect, segment, count, point, ask, caption, run, classify, embed, edit, ocr, extract, merge):
        group.command()(expanded(command))
    app.add_typer(group, name="batch")


@dataclass(frozen=True)
class ImageRunOptions(ExecutorOptions):
    """How a run over images is done."""

    threads: Annotated[
        int, typer.Option("--threads", help="Threads that each worker computes with on the CPU; results depend on it.")
    ] = 1
    allow_urls: UrlOption = False


def detect(
    phrase: PhraseArgument,
    paths: ItemsArgument,
    how: ImageRunOptions,
    finding: FindingOptions,
    by: EngineOptions,
    verify: VerifyOption = False,
) -> None:
    """Find objects by phrase in many images: a record for each image, in tables a row for each object."""
    _run(finding.job("detect", phrase, by, verify=verify), paths, how, by)


def segment(
    phrase: PhraseArgument,
    paths: ItemsArgument,
    how: ImageRunOptions,
    finding: FindingOptions,
    by: EngineOptions,
) -> None:
    """Find the exact shapes of objects in many images."""
    _run(finding.job("segment", phrase, by), paths, how, by)


def count(
    phrase: Annotated[str, typer.Argument(help="What to count.")],
    paths: ItemsArgument,
    how: ImageRunOptions,
    finding: FindingOptions,
    by: EngineOptions,
) -> None:
    """Count objects in many images."""
    _run(finding.job("count", phrase, by), paths, how, by)


def point(
    phrase: PhraseArgument,
    paths: ItemsArgument,
    how: ImageRunOptions,
    finding: FindingOptions,
    by: EngineOptions,
) -> None:
    """Point at objects in many images."""
    _run(finding.job("point", phrase, by), paths, how, by)


def ask(
    question: Annotated[str, typer.Argument(help="A question, which is asked about each image or PDF.")],
    paths: ItemsArgument,
    how: ImageRunOptions,
    by: EngineOptions,
) -> None:
    """Answer a question about many images or PDFs."""
    _run(by.job("ask", question), paths, how, by, suffixes=IMAGE_SUFFIXES | _PDF)


def caption(
    paths: ItemsArgument,
    how: ImageRunOptions,
    by: EngineOptions,
    length: Annotated[str, typer.Option("--length", help="short, normal or long.")] = "normal",
) -> None:
    """Describe many images."""
    _run(by.job("caption", length), paths, how, by)


def run(
    request: Annotated[str, typer.Argument(help="Any request, which is made about each image.")],
    paths: ItemsArgument,
    how: ImageRunOptions,
    by: EngineOptions,
    verify: VerifyOption = False,
) -> None:
    """Let the model choose its route, for each of many images."""
    _run(by.job("run", request, verify=verify), paths, how, by)


def classify(
    labels: LabelsArgument,
    paths: ItemsArgument,
    how: ImageRunOptions,
    by: ModelOptions,
    template: TemplatesOption = None,
    embedder: EmbedderOption = None,
) -> None:
    """Say which of some labels each of many images shows: in tables a row for each label, best first."""
    reads = None if embedder is None else str(embedder)
    _run(by.job("classify", labels, templates=tuple(template or ()), embedder=reads), paths, how, by)


def embed(
    paths: ItemsArgument,
    how: ImageRunOptions,
    by: ModelOptions,
    embedder: EmbedderOption = None,
) -> None:
    """Write the vectors of many images."""
    _run(by.job("embed", "", embedder=None if embedder is None else str(embedder)), paths, how, by)


def edit(
    prompt: Annotated[str, typer.Argument(help="The change, such as 'make the car blue'.")],
    paths: ItemsArgument,
    how: ImageRunOptions,
    by: ModelOptions,
) -> None:
    """Change many images by words: records have the new images as PNG."""
    _run(by.job("edit", prompt), paths, how, by)


def ocr(
    paths: ItemsArgument,
    how: ExecutorOptions,
    pages: PagesOption = None,
    password: PasswordOption = None,
    engine: ReaderOption = "rapidocr",
    text_layer: TextLayerOption = "auto",
    model: ModelOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Read many documents."""
    layer: Any = text_layer  # the job checks it
    job = OcrJob(engine, pages, password, layer, model, device)
    how.run(paths, SUFFIXES, "documents", lambda served: replace(job, model=served or job.model))


def extract(
    paths: ItemsArgument,
    how: ExecutorOptions,
    schema: SchemaOption = None,
    pages: PagesOption = None,
    password: PasswordOption = None,
    engine: EngineOption = "auto",
    date_order: DateOrderOption = None,
    decimal_mark: DecimalMarkOption = None,
    min_confidence: ConfidenceOption = 0.5,
    model: ModelOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Extract your own schema from many documents, or what stands there."""
    choices: Any = {"engine": engine, "date_order": date_order, "decimal_mark": decimal_mark}  # the job checks them
    job = ExtractJob(
        schema, pages=pages, password=password, min_confidence=min_confidence, model=model, device=device, **choices
    )
    how.run(paths, SUFFIXES, "documents", lambda served: replace(job, model=served or job.model))


def merge(
    out: Annotated[Path, typer.Argument(help="What the runs with --shard named in --out.")],
) -> None:
    """Make one output of the shards of a run, when all of them have come to their end."""
    run_to_end(lambda: merge_shards(out))


def _run(
    job: ImageJob,
    paths: Sequence[str],
    how: ImageRunOptions,
    by: ModelOptions,
    suffixes: Collection[str] = IMAGE_SUFFIXES,
) -> None:
    if how.servers and by.given:
        raise InputError(
            "`model`, `adapter`, `device`, `dtype` and `remote` go without --servers, which have loaded theirs"
        )
    whole = replace(job, threads=how.threads, allow_urls=how.allow_urls)

    def made(served: str | None) -> Job:
        return whole if served is None else replace(whole, model=served)

    # The default model is small enough for one a processor; a large one shall not fill the memory unasked.
    usual = 1 if by.given else min(_MOST_WORKERS, max(1, available_cpus() // how.threads))
    how.run(paths, suffixes, "images", made, usual)
