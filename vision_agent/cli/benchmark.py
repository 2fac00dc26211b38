"""The command `benchmark`: published benchmarks, from their published files."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from vision_agent.cli.exits import FAILED, StoppedByUser, told
from vision_agent.cli.options import AdapterOption, DeviceOption, DtypeOption, RetryOption
from vision_agent.errors import InputError, bad_argument


def register(app: typer.Typer) -> None:
    """Add the command to `vision-agent`."""
    app.command()(benchmark)


def benchmark(
    model: Annotated[str, typer.Argument(help="'default', a checkpoint folder or a hub name.")],
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME[:SPLIT][=PATH]...",
            help="refcoco, refcoco+, refcocog (and the same with -masks), grefcoco, coco, lvis, odinw, pope, mmbench, "
            "textvqa, docvqa, infovqa, chartqa, ocrbench, gqa, tallyqa or countbenchqa, and its folder or file.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", help="Folder of records, figures and predictions. Run again to resume.")
    ],
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder with a folder NAME for each benchmark without a path.")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option("--images", help="Folder of the images, where publishers put them elsewhere."),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="At most so many questions of each.")] = None,
    prompts: Annotated[
        Literal["official", "plain"],
        typer.Option("--prompts", help="official: as InternVL's evaluation asks; plain: the question alone."),
    ] = "official",
    adapter: AdapterOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    retry: RetryOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON and nothing else.")] = False,
) -> None:
    """Measure a model on published benchmarks; print a table with 95 % intervals."""
    if out.exists() and not out.is_dir():
        raise InputError(bad_argument("out", "a folder", str(out)))
    from vision_agent.benchmark.catalog import read_benchmarks, read_target

    targets = [read_target(name, data) for name in names]
    read = read_benchmarks(targets, images=images, limit=limit, prompts=prompts)
    # torch is imported after the data are known to be good.
    from vision_agent.batch.load_agent import load_agent
    from vision_agent.benchmark.measuring_run import run_benchmarks

    settings = {"model": model, "adapters": [str(each) for each in adapter or ()], "device": device, "dtype": dtype}
    try:
        report = run_benchmarks(
            lambda: load_agent(None if model == "default" else model, adapter or (), device, dtype),
            read,
            out,
            settings=settings,
            retry=retry,
            progress=not as_json,
        )
    except KeyboardInterrupt:
        raise StoppedByUser("stopped; run the same command again to resume") from None
    print(report.model_dump_json() if as_json else report.to_markdown())
    if report.failed:
        told(f"{sum(report.failed.values())} questions failed, and count as wrong")
        raise typer.Exit(FAILED)
