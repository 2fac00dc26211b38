"""The command `bench`: how fast a model is on this machine."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from vision_agent.cli.options import AdapterOption, DeviceOption, DtypeOption, check_output
from vision_agent.errors import InputError, bad_argument


def register(app: typer.Typer) -> None:
    """Add the command to `vision-agent`."""
    app.command()(bench)


def bench(
    model: Annotated[str, typer.Argument(help="'default', a checkpoint folder or a hub name.")] = "default",
    adapter: AdapterOption = None,
    requests: Annotated[int, typer.Option("--requests", help="How many are answered together, 2 to 256.")] = 8,
    tokens: Annotated[int, typer.Option("--tokens", help="Tokens of each answer, 2 to 4096.")] = 32,
    image_size: Annotated[str, typer.Option("--image-size", help="Of the images, in pixels.")] = "896x672",
    repeats: Annotated[int, typer.Option("--repeats", help="Medians are of so many, 1 to 100.")] = 3,
    threads: Annotated[int | None, typer.Option("--threads", help="Of torch; its own choice by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON and nothing else.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Write the figures as JSON to this file.")] = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    quantization: Annotated[
        Literal["int8", "4bit"] | None, typer.Option("--quantization", help="Of the language model: int8 or 4bit.")
    ] = None,
) -> None:
    """Measure a model's speed and memory on this machine, beside transformers with the same weights."""
    _check("requests", requests, 2, 256)
    _check("tokens", tokens, 2, 4096)
    _check("repeats", repeats, 1, 100)
    size = _size(image_size)
    if threads is not None:
        _check("threads", threads, 1, 1024)
    check_output("out", out)
    # torch is imported after the arguments are known to be good.
    import torch

    from vision_agent.batch.load_agent import load_agent
    from vision_agent.evaluate.speed import SpeedOptions, measure_speed

    options = SpeedOptions(requests=requests, tokens=tokens, image_size=size, repeats=repeats)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads or before)
        report = measure_speed(
            lambda: load_agent(None if model == "default" else model, adapter or (), device, dtype, quantization),
            options,
        )
    finally:
        torch.set_num_threads(before)
    if out is not None:
        out.write_text(report.model_dump_json(indent=2) + "\n", "utf-8")
    print(report.model_dump_json() if as_json else report.to_markdown())


def _check(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise InputError(bad_argument(name, f"from {least} to {most}", value))


def _size(text: str) -> tuple[int, int]:
    width, cross, height = text.partition("x")
    numbers = [int(side) if side.isascii() and side.isdigit() and len(side) < 6 else 0 for side in (width, height)]
    if not cross or not all(28 <= side <= 8192 for side in numbers):
        raise InputError(bad_argument("image_size", "WIDTHxHEIGHT with sides of 28 to 8192 pixels", text))
    return numbers[0], numbers[1]
