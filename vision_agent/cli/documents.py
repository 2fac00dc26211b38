"""The commands for documents: `vision-agent ocr invoice.pdf`, and of many `vision-agent ocr scans --out out.jsonl`."""

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from vision_agent.batch import ExtractJob, Job, OcrJob, find_files, process
from vision_agent.batch.records import Record, as_line, failed
from vision_agent.cli.exits import FAILED, run_to_end, told, with_bar
from vision_agent.cli.image_arguments import STDIN, read_stdin
from vision_agent.cli.options import DeviceOption, JsonOption, ModelOption, RecordsOption, RetryOption
from vision_agent.errors import InputError, MissingExtraError, VisionAgentError, bad_argument
from vision_agent.model.threads import available_cpus

_MOST_BYTES = 2 * 1024**3  # of a document on stdin
_PASSWORD_HELP = "Of encrypted PDFs. Better set the variable VISION_AGENT_PASSWORD, which no process list shows."

PathsArgument = Annotated[
    list[str], typer.Argument(help="Images, TIFFs, PDFs, folders of them, patterns such as 'scans/*.pdf', - for stdin.")
]
WorkersOption = Annotated[int, typer.Option("--workers", help="With --out, processes that work side by side.")]
PagesOption = Annotated[str | None, typer.Option("--pages", help='Pages from 1, such as "1-3,7"; all by default.')]
PasswordOption = Annotated[
    str | None,
    typer.Option("--password", envvar="VISION_AGENT_PASSWORD", help=_PASSWORD_HELP, show_envvar=False),
]
ReaderOption = Annotated[str, typer.Option("--engine", help="A reader's name, or model: --model reads.")]
TextLayerOption = Annotated[str, typer.Option("--text-layer", help="A PDF's own text: auto, never or only.")]
SchemaOption = Annotated[
    str | None,
    typer.Option(
        "--schema", help="package.module:Model, or a .json file with a JSON schema; without, pairs and tables."
    ),
]
EngineOption = Annotated[str, typer.Option("--engine", help="auto, layout or model.")]
DateOrderOption = Annotated[str | None, typer.Option("--date-order", help="dmy or mdy, for dates like 1/2/2024.")]
DecimalMarkOption = Annotated[str | None, typer.Option("--decimal-mark", help='"." or ",".')]
ConfidenceOption = Annotated[
    float, typer.Option("--min-confidence", help="What is less sure, 0 to 1, counts as not found.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to `vision-agent`."""
    for command in (ocr, extract):
        app.command()(command)


def ocr(
    paths: PathsArgument,
    out: RecordsOption = None,
    as_json: JsonOption = False,
    workers: WorkersOption = 1,
    retry: RetryOption = False,
    pages: PagesOption = None,
    password: PasswordOption = None,
    engine: ReaderOption = "rapidocr",
    text_layer: TextLayerOption = "auto",
    model: ModelOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Read documents: print their text, or write records of many with --out."""
    job = OcrJob(
        engine=engine,
        pages=pages,
        password=password,
        text_layer=text_layer,  # type: ignore[arg-type]  # the job checks it
        model=model,
        device=device,
    )
    _run(paths, job, out, as_json, workers, retry, lambda record: str(record["text"]))


def extract(
    paths: PathsArgument,
    schema: SchemaOption = None,
    out: RecordsOption = None,
    as_json: JsonOption = False,
    workers: WorkersOption = 1,
    retry: RetryOption = False,
    pages: PagesOption = None,
    password: PasswordOption = None,
    engine: EngineOption = "auto",
    date_order: DateOrderOption = None,
    decimal_mark: DecimalMarkOption = None,
    min_confidence: ConfidenceOption = 0.5,
    model: ModelOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Extract your own schema from documents, or what stands there: print JSON, or write records with --out."""
    choices: Any = {"engine": engine, "date_order": date_order, "decimal_mark": decimal_mark}  # the job checks them
    job = ExtractJob(
        schema, pages=pages, password=password, min_confidence=min_confidence, model=model, device=device, **choices
    )
    _run(paths, job, out, as_json, workers, retry, lambda record: json.dumps(record["value"], ensure_ascii=False))


def _run(
    paths: Sequence[str],
    job: Job,
    out: Path | None,
    as_json: bool,
    workers: int,
    retry: bool,
    shown: Callable[[Record], str],
) -> None:
    files = [file for path in paths for file in ([path] if path == STDIN else find_files([path]))]
    if out is None:
        if retry or workers != 1:
            raise InputError("`retry` and `workers` go with --out: they are about its records")
        _print(files, job, as_json, shown, several=files != list(paths) or len(files) > 1)
        return
    if as_json:
        raise InputError("`json` prints results, and --out writes them to a file: leave one out")
    if STDIN in files:
        raise InputError(bad_argument("paths", "files, folders and patterns where there is --out", STDIN))
    run_to_end(lambda: process(find_files(paths), job, out, workers=workers, retry=retry, progress=True))


def _print(files: Sequence[str], job: Job, as_json: bool, shown: Callable[[Record], str], *, several: bool) -> None:
    """Print what a job finds in each document, each under its name where there are several.

    Raises:
        typer.Exit: with 1 where some of several documents failed.
        VisionAgentError: what is wrong with the one document that was asked for.
    """
    work = job.start(available_cpus())
    failures = 0
    for file in with_bar(files, len(files), shown=several):
        try:
            record: Record = {"file": file, "error": None} | _worked(work, file)
        except MissingExtraError:
            raise
        except VisionAgentError as error:
            if not several:
                raise
            record = failed(file, error)
        if record["error"] is not None:
            failures += 1
            told(f"vision-agent: {file!r}: {' '.join(record['error']['message'].split())}")
        if as_json:
            print(as_line(record).decode(), end="")
        elif record["error"] is None:
            print(f"==> {file} <==\n{shown(record)}\n" if several else shown(record))
    if failures:
        raise typer.Exit(FAILED)


def _worked(work: Callable[[str], Record], file: str) -> Record:
    if file != STDIN:
        return work(file)
    with tempfile.TemporaryDirectory() as folder:
        # A document is told by its content; the name is for messages.
        spooled = Path(folder) / "stdin"
        spooled.write_bytes(read_stdin(_MOST_BYTES))
        return work(str(spooled))
