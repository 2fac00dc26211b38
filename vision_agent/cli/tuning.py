"""Fine-tuning on dialogues from the command line: the options that `vision-agent finetune` takes for it."""

import json
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vision_agent.errors import AnnotationError, InputError, bad_argument

if TYPE_CHECKING:
    from vision_agent.train.tuning.finetuning_dialogues import TuningReport

RecipeOption = Annotated[
    str | None,
    typer.Option("--recipe", help="Of InternVL's scripts: internvl2-lora, internvl2_5-8b-full, ... Dialogues only."),
]
MethodOption = Annotated[
    Literal["lora", "full", "projector"] | None, typer.Option("--method", help="What learns. Dialogues only.")
]
RankOption = Annotated[int | None, typer.Option("--rank", help="Of LoRA. Dialogues only.")]
TowerOption = Annotated[
    bool | None, typer.Option("--tower/--no-tower", help="Learn the vision tower, too. Dialogues only.")
]
RateOption = Annotated[float | None, typer.Option("--rate", help="Highest learning rate. Dialogues only.")]
RoundsOption = Annotated[float | None, typer.Option("--rounds", help="Over the data. Dialogues only.")]
MicroOption = Annotated[int | None, typer.Option("--micro", help="Dialogues at once in a process. Dialogues only.")]
MaxTilesOption = Annotated[
    int | None, typer.Option("--max-tiles", help="Of an image, shared by several of a dialogue. Dialogues only.")
]
MaxLengthOption = Annotated[int | None, typer.Option("--max-length", help="Tokens of a dialogue. Dialogues only.")]
MaxFramesOption = Annotated[int | None, typer.Option("--max-frames", help="Of a video. Dialogues only.")]
PackOption = Annotated[
    bool | None, typer.Option("--pack/--no-pack", help="Several dialogues in one row. Dialogues only.")
]
CheckpointingOption = Annotated[
    bool | None,
    typer.Option("--checkpointing/--no-checkpointing", help="Less memory, a third more time. Dialogues only."),
]
QuantizationOption = Annotated[
    Literal["4bit"] | None, typer.Option("--quantization", help="QLoRA, on CUDA. Dialogues only.")
]
PrecisionOption = Annotated[
    Literal["float32", "bfloat16"] | None, typer.Option("--dtype", help="What is multiplied in. Dialogues only.")
]
DropoutOption = Annotated[float | None, typer.Option("--dropout", help="Of LoRA. Dialogues only.")]
WorkersOption = Annotated[int | None, typer.Option("--workers", help="Processes that read images. Dialogues only.")]
SaveMinutesOption = Annotated[
    float | None, typer.Option("--save-minutes", help="How often the run is saved. Dialogues only.")
]
ExportOption = Annotated[
    Literal["native", "original"] | None,
    typer.Option("--export", help="Also write a whole checkpoint with what was learned. Dialogues only."),
]


@dataclass(frozen=True)
class TuningOptions:
    """What was said on the command line of a fine-tuning on dialogues; None for the recipe's.

    The names are those of `Tuning`, but for `recipe` and `export`.
    """

    recipe: str | None = None
    method: str | None = None
    rank: int | None = None
    tower: bool | None = None
    rate: float | None = None
    rounds: float | None = None
    micro: int | None = None
    max_tiles: int | None = None
    max_length: int | None = None
    max_frames: int | None = None
    pack: bool | None = None
    checkpointing: bool | None = None
    quantization: str | None = None
    dtype: str | None = None
    dropout: float | None = None
    workers: int | None = None
    save_minutes: float | None = None
    export: Literal["native", "original"] | None = None

    def refuse(self) -> None:
        """Raise for the first that was said, for a training that has no such setting."""
        for each in fields(self):
            if (value := getattr(self, each.name)) is not None:
                expected = "left out for boxes: it is for dialogues (a .jsonl or a meta file)"
                raise InputError(bad_argument(each.name.replace("_", "-"), expected, value))

    def changes(self) -> dict[str, Any]:
        """Return the settings that were said."""
        said = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in said.items() if name not in ("recipe", "export")}


def finetune_on_dialogues(
    model: str,
    data: Path,
    images: Path | None,
    validation: float | str,
    out: Path,
    options: TuningOptions,
    *,
    skip_bad: bool,
    device: str,
    **changes: int | None,
) -> None:
    """Read, check, fine-tune, and print what came of it; every bad line is told on stderr first."""
    from transformers.utils import logging

    from vision_agent.data.dialogues.dialogue_sets import read_dialogues
    from vision_agent.train.tuning.tuning_settings import Tuning

    settings = Tuning.of(options.recipe, **options.changes(), **changes)
    try:
        read = read_dialogues(data, images=images, validation=validation, skip_bad=skip_bad)
        from vision_agent.train.tuning.finetuning_dialogues import finetune_dialogues

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        report = finetune_dialogues(
            model, read, out, settings, device=device, export=options.export, skip_bad=skip_bad, tell=_told
        )
    except AnnotationError as error:
        for line in str(error).splitlines()[1:]:
            _told(line)
        raise
    if report is not None:
        for line in report.left_out[:20]:
            _told(f"left out: {line}")
        print(_table(report))
        _told(_use(model, report))


def _table(report: "TuningReport") -> str:
    rows: dict[str, Any] = {"steps": report.steps, "loss": f"{report.first_loss:.4f} -> {report.last_loss:.4f}"}
    if report.validation is not None:
        rows["loss of lines kept back"] = f"{report.validation[0]:.4f} -> {report.validation[1]:.4f}"
    rows["written"] = report.written
    if report.checkpoint not in (None, report.written):
        rows["checkpoint"] = report.checkpoint
    rows["logits apart once loaded"] = f"{report.apart:.1e}"
    rows["seconds"] = report.seconds
    if report.peak_bytes is not None:
        rows["GiB at most"] = f"{report.peak_bytes / 2**30:.1f}"
    return "\n".join(f"{name}\t{value}" for name, value in rows.items())


def _use(model: str, report: "TuningReport") -> str:
    if report.checkpoint is not None:
        return f"use it with --model {report.checkpoint}"
    return (
        f"use it with VisionAgent.from_pretrained({json.dumps(model)}, lora={json.dumps(report.written)}), or merge it "
        f"with `vision-agent export {model} NEW --adapters {report.written}`"
    )


def _told(text: str) -> None:
    print(text, file=sys.stderr)
