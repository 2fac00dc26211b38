"""The commands for many documents: `vision-agent ocr scans --out out.jsonl`.

Exit codes: 0 all done, 1 some files failed (their records say why), 2 bad input, 130 stopped by Ctrl-C.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vision_agent.cli.options import DeviceOption, ModelOption

if TYPE_CHECKING:
    from vision_agent.batch import Job

_FAILED, _INTERRUPTED = 1, 130

_OUT_HELP = "Output: .jsonl, .csv or .parquet. Run the same command again to resume an unfinished one."
_PASSWORD_HELP = "Of encrypted PDFs. Better set the variable VISION_AGENT_PASSWORD, which no process list shows."

PathsArgument = Annotated[list[Path], typer.Argument(help="Images, TIFFs, PDFs, and folders of them.")]
OutOption = Annotated[Path, typer.Option("--out", help=_OUT_HELP)]
WorkersOption = Annotated[int, typer.Option("--workers", help="Processes that work side by side.")]
RetryOption = Annotated[bool, typer.Option("--retry", help="Process files that failed before again.")]
PagesOption = Annotated[str | None, typer.Option("--pages", help='Pages from 1, such as "1-3,7"; all by default.')]
PasswordOption = Annotated[
    str | None,
    typer.Option("--password", envvar="VISION_AGENT_PASSWORD", help=_PASSWORD_HELP, show_envvar=False),
]


def register(app: typer.Typer) -> None:
    """Add the commands to `vision-agent`."""
    for command in (ocr, extract):
        app.command()(command)


def ocr(
    paths: PathsArgument,
    out: OutOption,
    workers: WorkersOption = 1,
    retry: RetryOption = False,
    pages: PagesOption = None,
    password: PasswordOption = None,
    engine: Annotated[str, typer.Option("--engine", help="A reader's name, or model: --model reads.")] = "rapidocr",
    text_layer: Annotated[str, typer.Option("--text-layer", help="A PDF's own text: auto or never.")] = "auto",
    model: ModelOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Read many documents. Run the same command again to resume."""
    from vision_agent.batch import OcrJob

    job = OcrJob(
        engine=engine,
        pages=pages,
        password=password,
        text_layer=text_layer,  # type: ignore[arg-type]  # the job checks it
        model=model,
        device=device,
    )
    _run(paths, job, out, workers, retry)


def extract(
    paths: PathsArgument,
    schema: Annotated[str, typer.Option("--schema", help="package.module:Model, or a .json file with a JSON schema.")],
    out: OutOption,
    workers: WorkersOption = 1,
    retry: RetryOption = False,
    pages: PagesOption = None,
    password: PasswordOption = None,
    engine: Annotated[str, typer.Option("--engine", help="auto, layout or model.")] = "auto",
    date_order: Annotated[str | None, typer.Option("--date-order", help="dmy or mdy, for dates like 1/2/2024.")] = None,
    decimal_mark: Annotated[str | None, typer.Option("--decimal-mark", help='"." or ",".')] = None,
    model: ModelOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Extract your own schema from many documents. Run the same command again to resume."""
    from vision_agent.batch import ExtractJob

    choices: Any = {"engine": engine, "date_order": date_order, "decimal_mark": decimal_mark}  # the job checks them
    job = ExtractJob(schema, pages=pages, password=password, model=model, device=device, **choices)
    _run(paths, job, out, workers, retry)


def _run(paths: list[Path], job: "Job", out: Path, workers: int, retry: bool) -> None:
    from vision_agent.batch import find_files, process

    try:
        summary = process(find_files(paths), job, out, workers=workers, retry=retry, progress=True)
    except KeyboardInterrupt:
        print("vision-agent: stopped; run the same command again to resume", file=sys.stderr)
        raise typer.Exit(_INTERRUPTED) from None
    counts = f"{summary.files} files: {summary.done} done, {summary.failed} failed"
    print(f"{counts}; {summary.before} of them before" if summary.before else counts, file=sys.stderr)
    if summary.failed:
        raise typer.Exit(_FAILED)
