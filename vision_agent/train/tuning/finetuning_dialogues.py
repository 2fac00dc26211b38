"""Fine-tunes a checkpoint on dialogues: from files to an adapter, or a checkpoint, that was loaded again and compared.

A run is a folder: `adapters/lora` as PEFT writes it, or `checkpoint` where whole weights were learned; `report.json`,
`curve.png`; and what resumes it exactly: `recipe.json`, `state.pt`, `log.jsonl`.
"""

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from vision_agent.checkpoint_export import Format, export_checkpoint, write_changed
from vision_agent.data.annotations.faults import Faults
from vision_agent.data.dialogues.dialogue_sets import DialogueSet
from vision_agent.errors import CheckpointError, InputError, bad_argument, require_extra
from vision_agent.model.backbone import Backbone
from vision_agent.model.checkpoint import DEFAULT_CHECKPOINT, load_backbone, save_backbone
from vision_agent.model.load_options import LoadSettings
from vision_agent.model.machine_memory import peak_memory
from vision_agent.model.tower import LiteTowerConfig
from vision_agent.model.weight_files import stored_dtype
from vision_agent.train.loop import claim_folder, draw_curve
from vision_agent.train.tuning.dialogue_encoding import DialogueEncoder, Extent, check_lengths
from vision_agent.train.tuning.processes import Processes
from vision_agent.train.tuning.step_batches import Batch, StepPlan, collate
from vision_agent.train.tuning.tuned_model import TunedModel, answer_logits, largest_difference
from vision_agent.train.tuning.tuning_loop import OnTuningStep, TuningLoop, read_log
from vision_agent.train.tuning.tuning_memory import check_tuning_memory
from vision_agent.train.tuning.tuning_settings import Tuning

_COMPARED = 2  # dialogues whose logits are compared once the adapter is loaded
_STRIPPING = "internlm2-chat"  # the template whose official loader leaves out white space around what is said
_PACKAGES = ("accelerate", "matplotlib", "peft")


class TuningReport(BaseModel):
    """What a run gave.

    Attributes:
        steps: carried out; dialogues: learned from, and measured.
        left_out: what was faulty in the data; cut: how many dialogues lost the end of an answer to `max_length`.
        first_loss, last_loss: of an answer's token, in the first and in the last step.
        validation: that loss on lines that were kept back, before and after; None without any.
        apart: how much the logits of what was written differ from those of what was learned, as a share of the largest.
        written: the adapter's folder, or the checkpoint's.
        checkpoint: a whole checkpoint, where one was written.
        seconds: of this call. peak_bytes: the most memory of its process.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int
    dialogues: tuple[int, int]
    left_out: tuple[str, ...] = ()
    cut: int = 0
    first_loss: float
    last_loss: float
    validation: tuple[float, float] | None = None
    apart: float
    written: str
    checkpoint: str | None = None
    seconds: float
    peak_bytes: int | None = None


def finetune_dialogues(
    model: str | Path,
    data: DialogueSet,
    out: str | Path,
    settings: Tuning | None = None,
    *,
    device: str = "auto",
    export: Format | None = None,
    skip_bad: bool = False,
    on_step: OnTuningStep | None = None,
    tell: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
) -> TuningReport | None:
    """Fine-tune a checkpoint on dialogues. The same call resumes a run that was stopped, exactly.

    Under `accelerate launch` the processes share every step, and end with the weights of one.

    Args:
        model: a checkpoint, native or in the original format: a folder or a hub name; "default" for the package's own.
        data: see `read_dialogues`.
        out: folder of the run.
        settings: None for those of InternVL's LoRA scripts.
        export: also write a whole checkpoint in this format; what was learned whole is always written, natively.
        skip_bad: leave out dialogues that do not fit into `max_length`, where False raises.
        on_step: called as `on_step(step, loss)` after every step.
        tell: takes what goes on, a sentence at a time.

    Returns:
        what was learned and written; None in processes that are not the first.

    Raises:
        AnnotationError: dialogues that do not fit; names all of them.
        ConfigError: `out` holds a run of other data, settings or weights; a device that is not there.
        InputError: `out` is a file; more memory is needed than there is, with what to change.
        CheckpointError: the model cannot be loaded, or what was written does not say what was learned.
        MissingExtraError: a package of the extra "finetune" is missing.
        FloatingPointError: a loss that is not finite.
    """
    began, folder, settings = time.monotonic(), Path(out), settings or Tuning()
    for package in _PACKAGES:
        require_extra(package, "finetune", "fine-tuning is")
    if folder.exists() and not folder.is_dir():
        raise InputError(bad_argument("out", "a folder, or a path to make one", str(out)))
    source = DEFAULT_CHECKPOINT if str(model) == "default" else model
    processes = Processes.joined(device)
    with torch.random.fork_rng():
        run = _Run(source, data, folder, settings, processes, skip_bad, tell if processes.is_main else _say_nothing)
        if export == "original" and run.is_small:
            raise InputError(bad_argument("export", "'native': the original format has no place for its tower", export))
        run.learn(on_step)
        if not processes.is_main:
            return None
        apart, written, checkpoint = run.write(export)
    report = run.report(apart, written, checkpoint, time.monotonic() - began)
    (folder / "report.json").write_text(report.model_dump_json(indent=2) + "\n", "utf-8")
    draw_curve(folder)
    return report


class _Run:
    def __init__(
        self,
        source: str | Path,
        data: DialogueSet,
        folder: Path,
        settings: Tuning,
        processes: Processes,
        skip_bad: bool,
        tell: Callable[[str], None],
    ) -> None:
        self.source, self.folder, self.settings, self.tell = source, folder, settings, tell
        self.processes = processes
        self.backbone = _loaded(source, settings, processes.device)
        encoder = DialogueEncoder(self.backbone, settings, strips=_template_of(source) == _STRIPPING)
        self.encoder = encoder
        faults = Faults()
        lines, extents = _fitting(data.train, encoder, faults)
        kept, kept_extents = _fitting(data.validation, encoder, faults)
        if not lines:
            faults.add("empty set", folder, "", "no dialogue fits", fatal=True)
        self.left_out = (*data.left_out, *faults.settle(skip_bad, "the data"))
        self.lines, self.kept = lines, kept
        self.cut = sum(extent.cut > 0 for extent in [*extents, *kept_extents])
        if self.cut:
            tell(f"{self.cut} dialogues are longer than {settings.max_length} tokens: their ends are cut off")
        self.plan = StepPlan(extents, settings)
        if processes.is_main:
            recipe = {
                "settings": settings.model_dump(mode="json", exclude={"save_minutes", "workers"}),
                "data": data.digest,
                "model": self.backbone.fingerprint,
            }
            claim_folder(folder, recipe)
        processes.wait()
        torch.manual_seed(settings.seed)
        self.tuned = TunedModel(self.backbone, settings, str(source))
        tokens = sum(extent.tokens for extent in extents)
        tell(f"{len(lines)} dialogues of {tokens} tokens to learn from, {len(kept)} to measure by; {self._numbers()}")
        tell(check_tuning_memory(self.tuned, self.plan, extents, settings))

    @property
    def is_small(self) -> bool:
        """Whether it is of the package's own kind, whose tower no other engine has."""
        return isinstance(self.backbone.model.config.vision_config, LiteTowerConfig)

    def learn(self, on_step: OnTuningStep | None) -> None:
        pad = self.backbone.tokenizer.pad_token_id
        loop = TuningLoop(
            self.folder,
            self.tuned,
            self.plan,
            self.lines,
            self.kept,
            self.encoder,
            self.settings,
            self.processes,
            pad=0 if pad is None else int(pad),
            on_step=on_step,
        )
        if loop.done:
            self.tell(f"resumed after step {loop.done} of {self.plan.steps}")
        loop.run()
        self.tuned.eval()

    def write(self, export: Format | None) -> tuple[float, Path, Path | None]:
        """Write what was learned, load it again and compare; return how far it is apart, and where it is."""
        probes = [collate([[self.encoder.encode(line, (0, 0, 0))]]) for line in self.lines[:_COMPARED]]
        if self.settings.method != "lora":
            return self._write_whole(export, probes)
        adapter = self.folder / "adapters" / "lora"
        adapter.parent.mkdir(exist_ok=True)
        self.tuned.save_lora(adapter)
        apart = self.tuned.check_saved(adapter, probes)
        self.tell(f"{adapter}: loaded again, its logits differ by {apart:.1e} of the largest")
        if export is None and not self._answers_are_bounded():
            return apart, adapter, None
        target = self.folder / "checkpoint"
        shutil.rmtree(target, ignore_errors=True)
        if self.settings.quantization is not None:
            self.tell("the adapter is merged into the weights as they were published, not into the 4-bit ones")
        if self.is_small:
            merged = load_backbone(self.source, device="cpu", dtype="float32", local_files_only=True, lora=[adapter])
            _save_small(merged, target)
        else:
            export_checkpoint(self.source, target, adapters=[adapter], format=export or "native")
        return apart, adapter, target

    def report(self, apart: float, written: Path, checkpoint: Path | None, seconds: float) -> TuningReport:
        log = read_log(self.folder)
        losses = [line["loss"] for line in log if "loss" in line]
        measured = [line["validation"] for line in log if "validation" in line]
        return TuningReport(
            steps=len(losses),
            dialogues=(len(self.lines), len(self.kept)),
            left_out=self.left_out,
            cut=self.cut,
            first_loss=losses[0],
            last_loss=losses[-1],
            validation=(measured[0], measured[-1]) if measured else None,
            apart=apart,
            written=str(written),
            checkpoint=None if checkpoint is None else str(checkpoint),
            seconds=round(seconds, 1),
            peak_bytes=peak_memory(),
        )

    def _write_whole(self, export: Format | None, probes: list[Batch]) -> tuple[float, Path, Path]:
        target = self.folder / "checkpoint"
        shutil.rmtree(target, ignore_errors=True)
        stored = stored_dtype(_folder_of(self.source), exact=False)
        self.backbone.model.to(stored)
        if self.is_small:
            _save_small(self.backbone, target, stored)
        else:
            write_changed(self.backbone, self.source, target, export or "native")
        self.backbone.model.to(torch.float32 if self.tuned.dtype == torch.float32 else torch.bfloat16)
        live = [answer_logits(self.backbone, batch, self.tuned.dtype) for batch in probes]
        settings = _load_settings(self.settings, self.processes.device)
        loaded = load_backbone(target, local_files_only=True, **settings)
        again = [answer_logits(loaded, batch, self.tuned.dtype) for batch in probes]
        apart = largest_difference(live, again)
        if apart > 1e-3:
            raise CheckpointError(
                f"the checkpoint {str(target)!r} does not say what was trained: its logits differ by {apart:.2g} of "
                "the largest; what was learned is in the run's state.pt"
            )
        self.tell(f"{target}: loaded again, its logits differ by {apart:.1e} of the largest")
        return apart, target, target

    def _answers_are_bounded(self) -> bool:
        """Whether the checkpoint says what it can answer, which it was now taught more of."""
        return getattr(self.backbone.model.generation_config, "answers", None) is not None

    def _numbers(self) -> str:
        learned = sum(each.numel() for each in self.tuned.learned.values())
        return f"{learned:,} numbers learn; {self.plan.steps} steps of {self.settings.batch}"


def _loaded(source: str | Path, settings: Tuning, device: torch.device) -> Backbone:
    return load_backbone(source, **_load_settings(settings, device))


def _load_settings(settings: Tuning, device: torch.device) -> LoadSettings:
    dtype = settings.dtype or ("float32" if device.type == "cpu" else "bfloat16")
    chosen: LoadSettings = {"device": device, "dtype": dtype}
    if settings.quantization is not None:
        chosen["quantization"] = settings.quantization
    return chosen


def _fitting(lines: Any, encoder: DialogueEncoder, faults: Faults) -> tuple[list[Any], list[Extent]]:
    """The dialogues that fit, and how much each takes."""
    pairs = [
        (line, extent)
        for line, extent in zip(lines, check_lengths(lines, encoder, faults), strict=True)
        if extent is not None
    ]
    return [line for line, _ in pairs], [extent for _, extent in pairs]


def _template_of(source: str | Path) -> str | None:
    """The name of a checkpoint's template, where its folder says it."""
    path = Path(source) / "config.json"
    content = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    extras = content.get("vision_agent")
    named = extras.get("template") if isinstance(extras, dict) else content.get("template")
    return named if isinstance(named, str) else None


def _folder_of(source: str | Path) -> Path:
    folder = Path(source)
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(str(source), local_files_only=True))


def _save_small(backbone: Backbone, target: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write a checkpoint of the package's kind, which now answers whatever it is asked."""
    settings = backbone.model.generation_config
    if hasattr(settings, "answers"):
        del settings.answers
    save_backbone(backbone, target, dtype)


def _say_nothing(text: str) -> None:
    """Take what the first process tells."""
