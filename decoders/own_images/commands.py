"""The command that teaches a model: `vision-agent finetune`, names of one's own, or dialogues in InternVL's format."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vision_agent.cli import tuning
from vision_agent.cli.options import AdapterOption, DeviceOption, RunOption, agent
from vision_agent.data.dialogues.dialogue_files import is_dialogue_data
from vision_agent.errors import InputError, bad_argument

from . import route_commands
from .named_sets import read_set, share_or_set, told

if TYPE_CHECKING:
    from .finetuning import Report

SetOption = Annotated[Path | None, typer.Option(help="The same, said to be of this kind.")]


def register(app: typer.Typer) -> None:
    """Add the command to `vision-agent`."""
    app.command()(finetune)
    route_commands.register(app)


def finetune(
    model: Annotated[str, typer.Argument(help="'default', or an InternVL checkpoint; for boxes one with [DET].")],
    out: RunOption,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="Boxes: COCO JSON, data.yaml, or a folder: YOLO, VOC, LabelMe, or train/ and valid/ of these. "
            "Dialogues: a .jsonl, or a meta file of several.",
        ),
    ] = None,
    coco: SetOption = None,
    yolo: SetOption = None,
    voc: SetOption = None,
    labelme: SetOption = None,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="A folder with train/ and valid/ of any kind.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder of the images, where they do not lie beside their file.")
    ] = None,
    validation: Annotated[
        str | None,
        typer.Option(
            "--validation",
            help="Share that is kept back to measure by, or another set of the kind; 0.2 of boxes, 0.05 of dialogues.",
        ),
    ] = None,
    keep: Annotated[
        Path | None, typer.Option("--keep", help="A set with old names, to measure before and after; not learned from.")
    ] = None,
    keep_images: Annotated[Path | None, typer.Option("--keep-images", help="Folder of its images.")] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", help="Of boxes: six rounds over the images by default; of dialogues: one.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", help="Images a step, 8 by default; of dialogues the recipe's.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of all that is drawn.")] = 0,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad/--strict", help="Leave faulty parts out and say which, or refuse the set.")
    ] = False,
    flip: Annotated[
        bool, typer.Option("--flip/--no-flip", help="Mirror images; not for names that mean a side.")
    ] = True,
    adapter: AdapterOption = None,
    recipe: tuning.RecipeOption = None,
    method: tuning.MethodOption = None,
    rank: tuning.RankOption = None,
    dropout: tuning.DropoutOption = None,
    tower: tuning.TowerOption = None,
    rate: tuning.RateOption = None,
    rounds: tuning.RoundsOption = None,
    micro: tuning.MicroOption = None,
    max_tiles: tuning.MaxTilesOption = None,
    max_length: tuning.MaxLengthOption = None,
    max_frames: tuning.MaxFramesOption = None,
    pack: tuning.PackOption = None,
    checkpointing: tuning.CheckpointingOption = None,
    quantization: tuning.QuantizationOption = None,
    dtype: tuning.PrecisionOption = None,
    workers: tuning.WorkersOption = None,
    save_minutes: tuning.SaveMinutesOption = None,
    export: tuning.ExportOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Teach a model names of your own, from annotated images, or to answer as your dialogues do.

    Boxes and masks: prints AP50 before and after. Dialogues in InternVL's own format (a .jsonl, or a meta file): LoRA,
    full or the projector alone; prints the loss before and after. All data are checked before the first step.
    """
    given = {"auto": data, "coco": coco, "yolo": yolo, "voc": voc, "labelme": labelme, "folder": folder}
    named = {kind: path for kind, path in given.items() if path is not None}
    if len(named) != 1:
        expected = "one of --data, --coco, --yolo, --voc, --labelme and --folder"
        raise InputError(bad_argument("data", expected, [f"--{kind}" for kind in named] or None))
    for name, value in (("steps", steps), ("batch", batch)):
        if value is not None and value < 1:
            raise InputError(bad_argument(name, "at least 1", value))
    ((kind, path),) = named.items()
    options = tuning.TuningOptions(
        recipe=recipe,
        method=method,
        rank=rank,
        dropout=dropout,
        tower=tower,
        rate=rate,
        rounds=rounds,
        micro=micro,
        max_tiles=max_tiles,
        max_length=max_length,
        max_frames=max_frames,
        pack=pack,
        checkpointing=checkpointing,
        quantization=quantization,
        dtype=dtype,
        workers=workers,
        save_minutes=save_minutes,
        export=export,
    )
    if kind == "auto" and is_dialogue_data(path):
        for name, given_up in (("adapter", adapter), ("keep", keep)):
            if given_up:
                raise InputError(bad_argument(name, "left out for dialogues", given_up))
        share = share_or_set("0.05" if validation is None else validation)
        tuning.finetune_on_dialogues(
            model,
            path,
            images,
            share,
            out,
            options,
            skip_bad=skip_bad,
            device=device,
            steps=steps,
            batch=batch,
            seed=seed,
        )
        return
    options.refuse()
    share = share_or_set("0.2" if validation is None else validation)
    annotations = read_set(path, images, "auto" if kind == "folder" else kind, share, skip_bad)
    if annotations.by_expressions:
        raise InputError(bad_argument("data", "names; expressions such as RefCOCO's are for `train-route`", str(path)))
    kept = None if keep is None else read_set(keep, keep_images, "auto", 0.5, skip_bad)
    from vision_agent.evaluate.average_precision import average_precision as _  # noqa: F401  told before a model loads

    from .finetuning import finetune_boxes
    from .settings import OwnImagesTraining

    settings = OwnImagesTraining(steps=steps, batch=batch or 8, seed=seed, flip=flip)
    loaded = agent(None if model == "default" else model, adapter, device, "auto")
    report = finetune_boxes(loaded, annotations, out, settings, keep=kept, tell=told)
    print(_table(report))
    told(f'use them with --adapter {out}, or VisionAgent.from_pretrained(..., adapters=["{out}"])')


def _table(report: "Report") -> str:
    lines = ["name\tAP50 before\tAP50 after"]
    for name in report.names:
        before, after = report.before.by_name.get(name), report.after.by_name.get(name)
        lines.append(f"{name}\t{_figure(before)}\t{_figure(after)}")
    lines.append(f"all new names\t{_figure(report.before.ap50)}\t{_figure(report.after.ap50)}")
    if report.keep_before is not None and report.keep_after is not None:
        lines.append(f"old names (--keep)\t{_figure(report.keep_before.ap50)}\t{_figure(report.keep_after.ap50)}")
    if report.agreement is not None:
        lines.append(f"old names, as found before\t1.000\t{_figure(report.agreement)}")
    if report.masks_after is not None:
        lines.append(f"mean IoU of masks\t{_figure(report.masks_before)}\t{_figure(report.masks_after)}")
    peak = "" if report.peak_bytes is None else f", {report.peak_bytes / 2**30:.1f} GiB at most"
    lines.append(f"{report.seconds:.0f} s{peak}")
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
