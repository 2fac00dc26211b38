"""Teaches `[DET]` and `[SEG]` names of a user's own images, from the adapters that a checkpoint has, and measures it.

A run is a folder: `adapters/` for `VisionAgent.from_pretrained(adapters=[folder])`, `CARD.md`, `report.json`, and
what resumes it exactly: `recipe.json`, `state.pt`, `best.pt`, `log.jsonl`.
"""

import copy
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from vision_agent.agent import VisionAgent
from vision_agent.data.annotations.annotated import AnnotationSet
from vision_agent.errors import InputError, RouteError, bad_argument, require_extra
from vision_agent.model.machine_memory import free_memory, peak_memory
from vision_agent.results.detections import Detections
from vision_agent.routing.adapter import Route, save_adapter, share_tensors
from vision_agent.routing.known_words import KnownWords
from vision_agent.train.loop import OnStep, TrainingLoop, claim_folder

from ..box import BoxDecoder
from ..mask.decoder import MaskDecoder
from .card import card_text
from .free_memory import check_memory
from .measuring import LEAST_SCORE, NameFigures, Watch, agreed, mask_iou, measure
from .outlines import OutlineStages
from .remembering import old_names
from .settings import OwnImagesTraining as OwnImagesTraining
from .stages import BoxStages

_AGREED_SCORE = 0.4  # what the starting adapter finds with at least this score stands for old names
_AGREED_IMAGES = 20
_AGREED_NAMES = 60


class Report(BaseModel):
    """What a run gave. Figures are of images that were not learned from.

    Attributes:
        names: that were learned, with how many objects of each the training and the validation images have.
        images: of training and of validation.
        before, after: new names, by the adapters that were started from, and by the new ones as they load.
        keep_before, keep_after: names of the set that was given to be kept; None without one.
        agreement: AP50 of old names against what the starting adapters found on the validation images (theirs is 1);
            None where they found nothing.
        masks_before, masks_after: mean IoU of masks of marked boxes; None without outlines.
        left_out: what was faulty in the set, and left out.
        best_step: whose weights were kept.
        seconds: of this call. peak_bytes: the most memory of its process.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: dict[str, tuple[int, int]]
    images: tuple[int, int]
    before: NameFigures
    after: NameFigures
    keep_before: NameFigures | None = None
    keep_after: NameFigures | None = None
    agreement: float | None = None
    masks_before: float | None = None
    masks_after: float | None = None
    left_out: tuple[str, ...] = ()
    best_step: int
    seconds: float
    peak_bytes: int | None = None


def finetune_boxes(
    agent: VisionAgent,
    annotations: AnnotationSet,
    out: str | Path,
    settings: OwnImagesTraining | None = None,
    *,
    keep: AnnotationSet | None = None,
    on_step: OnStep | None = None,
    tell: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
) -> Report:
    """Teach an agent's `[DET]`, and `[SEG]` if it has one, the names of a set. The same call resumes a stopped run.

    Args:
        agent: loaded with the adapters to start from. Afterwards it has the new ones.
        annotations: see `read_annotations`.
        out: folder of the run.
        settings: None for the usual ones.
        keep: images with old names, to measure before and after; nothing is learned from them.
        on_step: called as `on_step(stage, step, loss)` after every step.
        tell: takes what goes on, a sentence at a time.

    Returns:
        figures before and after. `out` then loads as adapters.

    Raises:
        ConfigError: `out` holds a run of other data, settings or adapters.
        InputError: `out` is a file; more memory is needed than there is.
        RouteError: no `[DET]` route that learns by this.
        FloatingPointError: a loss that is not finite.
    """
    began, folder, settings = time.monotonic(), Path(out), settings or OwnImagesTraining()
    require_extra("faster_coco_eval", "train", "measuring boxes is")
    if folder.exists() and not folder.is_dir():
        raise InputError(bad_argument("out", "a folder, or a path to make one", str(out)))
    route = agent.routes.get("det")
    if route is None or not isinstance(route.decoder, BoxDecoder):
        raise RouteError(f"{agent.model!r} has no [DET] route of the box decoder to train on")
    with torch.random.fork_rng():
        run = _Run(agent, annotations, folder, settings, keep, tell)
        claim_folder(folder, run.recipe)
        tell(run.forecast())
        before = run.before()
        best_step = run.learn(on_step)
        run.write(before)
    report = run.report(before, best_step, time.monotonic() - began)
    _write_text(folder / "report.json", report.model_dump_json(indent=2) + "\n")
    _write_text(
        folder / "CARD.md", card_text(report.model_dump(), agent.model, annotations.kind, settings.model_dump())
    )
    return report


class _Run:
    def __init__(
        self,
        agent: VisionAgent,
        annotations: AnnotationSet,
        folder: Path,
        settings: OwnImagesTraining,
        keep: AnnotationSet | None,
        tell: Callable[[str], None],
    ) -> None:
        self.agent, self.backbone, self.annotations = agent, agent.backbone, annotations
        self.folder, self.settings, self.keep, self.tell = folder, settings, keep, tell
        self.detect = _learning(agent.routes["det"])
        segment = agent.routes.get("seg")
        self.segment = _learning(segment) if segment and isinstance(segment.decoder, MaskDecoder) else None
        self.validation = list(annotations.validation)
        parts = {"det": self.detect.decoder} | ({} if self.segment is None else {"seg": self.segment.decoder})
        self.learned = nn.ModuleDict(parts)
        self.recipe: dict[str, Any] = {
            "settings": settings.model_dump(mode="json", exclude={"save_minutes"}),
            "data": _digest_of_set(annotations),
            "start": _digest_of_weights(self.learned),
            "model": self.backbone.fingerprint,
        }

    def forecast(self) -> str:
        """Say what memory the steps will take, before the first one."""
        encoded = self.backbone.encode_image(self.annotations.train[0].load())
        features = sum(each.numel() for each in encoded.features.maps)
        weights = sum(each.numel() for each in self.learned.parameters())
        watched = min(100, len(self.validation))
        free = free_memory() if self.backbone.device.type == "cpu" else None
        held = self.detect.decoder.settings
        regions = len(self.annotations.train) * (1 + self.settings.flip) * held["proposals"] * held["embedding"]
        return check_memory(weights, features, self.settings.batch, watched, free, regions)

    def before(self) -> dict[str, Any]:
        """Return the figures of the starting adapters; a run that is resumed has them already."""
        path = self.folder / "before.json"
        if path.is_file():
            held: dict[str, Any] = json.loads(path.read_text("utf-8"))
            return held
        self.tell(f"measuring {len(self.validation)} validation images before")
        held = self._figures() | {"agreed": [each.model_dump(mode="json") for each in self._agreed_truth()]}
        _write_text(path, json.dumps(held) + "\n")
        return held

    def learn(self, on_step: OnStep | None) -> int:
        """Carry out the stages that are left; return the step of the best weights."""
        train, names = self.annotations.train, self.annotations.names
        self.tell(f"reading {len(train)} training images")
        boxes = BoxStages(self.backbone, self.detect, train, names, self.settings)
        watch = Watch(self.backbone, self.detect, self.validation, names)
        loop = TrainingLoop(self.folder, self.learned, save_minutes=self.settings.save_minutes, on_step=on_step)
        best = _Best(self.folder / "best.pt", cast(BoxDecoder, self.detect.decoder), watch, self.tell)
        steps = self.settings.box_steps(len(train))
        every = max(1, steps // self.settings.evaluations)
        loop.run(boxes.names())

        def before_step(step: int) -> None:
            if step % every == 0:
                value = best.consider(step, loop.average)
                loop.log({"stage": "boxes", "step": step, "ap50": round(value, 4)})

        loop.run(boxes.boxes(before_step))
        best.consider(steps, {f"det.{name}": part for name, part in self.detect.decoder.state_dict().items()})
        best_step = best.take()
        if self.segment is not None:
            outlines = OutlineStages(self.backbone, self.detect, self.segment, train, names, self.settings, boxes)
            outlines.follow_boxes()
            for stage in outlines.stages():
                loop.run(stage())
        return best_step

    def write(self, before: dict[str, Any]) -> None:
        """Write the adapters, and load them in place of those that the agent has."""
        for route in (self.detect, self.segment):
            if route is None:
                continue
            taught = {" ".join(each.replace("_", " ").lower().split()) for each in self.annotations.names}
            if route.words is not None:
                names = tuple(sorted({*route.words.names, *taught}))
                route.words = KnownWords(names=names, modifiers=route.words.modifiers)
            target = self.folder / "adapters" / route.spec.name
            save_adapter(target, route.eval(), self.backbone)
            if route.spec.name == "seg":
                share_tensors(target, "det", "decoder.finder.", "decoder.")
            self.agent.load_adapter(target)

    def report(self, before: dict[str, Any], best_step: int, seconds: float) -> Report:
        """Measure the adapters as they were written, through the agent that loaded them."""
        self.tell(f"measuring {len(self.validation)} validation images after")
        after = self._figures()
        start = [Detections.model_validate(each) for each in before["agreed"]]
        images = self.validation[: len(start)]
        return Report(
            names={name: self.annotations.count(name) for name in self.annotations.names},
            images=(len(self.annotations.train), len(self.validation)),
            before=NameFigures.model_validate(before["new"]),
            after=NameFigures.model_validate(after["new"]),
            keep_before=_figures_or_none(before["keep"]),
            keep_after=_figures_or_none(after["keep"]),
            agreement=agreed(self._find, start, images, _names_found(start)),
            masks_before=before["masks"],
            masks_after=after["masks"],
            left_out=self.annotations.left_out,
            best_step=best_step,
            seconds=round(seconds, 1),
            peak_bytes=peak_memory(),
        )

    def _find(self, image: Any, phrases: list[str]) -> Detections:
        found: Detections = self.agent.detect(phrases, image, threshold=LEAST_SCORE, only_known=False, tiles=False)
        return found

    def _figures(self) -> dict[str, Any]:
        usual = float(self.detect.decoder.settings["threshold"])
        new = measure(self._find, self.validation, self.annotations.names, usual)
        kept = None
        if self.keep is not None:
            images = [*self.keep.train, *self.keep.validation]
            kept = measure(self._find, images, self.keep.names, usual).model_dump()
        masks = None if self.segment is None else mask_iou(self.agent, self.validation)
        return {"new": new.model_dump(), "keep": kept, "masks": masks}

    def _agreed_truth(self) -> list[Detections]:
        """What the starting adapters find of old names, surely, beside what is marked."""
        names = list(old_names(self.detect.words, self.annotations.names, min(_AGREED_NAMES, self.settings.kept_names)))
        found = []
        for annotated in self.validation[:_AGREED_IMAGES]:
            found.append(self.agent.detect(names, annotated.load(), threshold=_AGREED_SCORE, tiles=False))
        return found


class _Best:
    """Keeps the best weights of the boxes in a file, so that a run that was stopped finds the same."""

    def __init__(self, path: Path, decoder: BoxDecoder, watch: Watch, tell: Callable[[str], None]) -> None:
        self._path, self._decoder, self._watch, self._tell = path, decoder, watch, tell

    def consider(self, step: int, weights: dict[str, Tensor]) -> float:
        """Measure averaged weights, and keep them if they are better than all before."""
        prefix = "det."
        averaged = {name.removeprefix(prefix): each for name, each in weights.items() if name.startswith(prefix)}
        live = {name: each.clone() for name, each in self._decoder.state_dict().items()}
        self._decoder.load_state_dict(averaged)
        try:
            value = self._watch.ap50(self._decoder)
        finally:
            self._decoder.load_state_dict(live)
        held = self._held()
        if held is None or value > held["ap50"]:
            _save(self._path, {"step": step, "ap50": value, "weights": averaged})
        best = value if held is None else max(value, held["ap50"])
        self._tell(f"step {step}: AP50 of the new names {value:.3f}, the best {best:.3f}")
        return value

    def take(self) -> int:
        """Give the decoder the best weights; return their step."""
        held = self._held()
        assert held is not None  # the last weights were considered
        self._decoder.load_state_dict(held["weights"])
        return int(held["step"])

    def _held(self) -> dict[str, Any] | None:
        if not self._path.is_file():
            return None
        held: dict[str, Any] = torch.load(self._path, map_location="cpu", weights_only=True)
        return held


def _learning(route: Route) -> Route:
    """A copy of a route whose decoder learns, in fp32; the agent's own goes on answering as it did."""
    decoder = copy.deepcopy(route.decoder).float().train()
    return Route(route.spec, route.token_id, route.queries, decoder, route.words)


def _digest_of_set(annotations: AnnotationSet) -> str:
    digest = hashlib.sha256()
    for part in (annotations.train, annotations.validation):
        for image in part:
            marked = [
                (each.name, each.xyxy, each.polygons, each.crowd, None if each.runs is None else each.runs.text)
                for each in image.objects
            ]
            digest.update(repr((image.file, image.size, marked)).encode())
        digest.update(b"|")
    return digest.hexdigest()


def _digest_of_weights(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, each in module.state_dict().items():
        digest.update(name.encode() + each.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _figures_or_none(held: Any) -> NameFigures | None:
    return None if held is None else NameFigures.model_validate(held)


def _names_found(start: Sequence[Detections]) -> list[str]:
    return sorted({label for each in start for label in each.labels})


def _save(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    torch.save(content, partial)
    os.replace(partial, path)


def _write_text(path: Path, text: str) -> None:
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_text(text, "utf-8")
    os.replace(partial, path)
