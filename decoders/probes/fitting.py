"""Trains heads on a frozen image tower, and measures them on images that were kept back.

Shape suffixes: N images, D width, K classes, B images of a step, C channels, H and W cells or pixels.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional

from vision_agent.errors import InputError
from vision_agent.model.backbone import Backbone
from vision_agent.train.loop import claim_folder, warm_up_cosine

from .heads import ClassifyHead, HeadKind, SemanticHead
from .labelled_folders import UNKNOWN, LabelledSet
from .tower_features import TowerFeatures

Progress = Callable[[int, int], object]
_DECAYS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # of the probe's weights, of which the best is taken
_ROUNDS = 60  # of L-BFGS
_TRIED = 5  # one image in five of those that are learned from chooses the decay


class ProbeTraining(BaseModel):
    """How heads are trained.

    Attributes:
        tiles: most tiles of an image; 1 sees it whole. More show finer parts, and take longer.
        head: of segmentation, "linear" or "pyramid".
        steps, batch, rate: of segmentation; the probe for labels is solved.
        seed: of the first weights and of the order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tiles: int = Field(default=1, ge=1, le=40)
    head: HeadKind = "linear"
    steps: int = Field(default=600, ge=1)
    batch: int = Field(default=8, ge=1)
    rate: float = Field(default=2e-3, gt=0)
    seed: int = 0


class ProbeFigures(BaseModel):
    """What a head reaches on images that were kept back.

    Attributes:
        images: that it was measured on.
        accuracy: share of images, or of pixels, whose best class is right.
        accuracy_5: share of images whose class is among the best five; None of segmentation.
        mean_iou: intersection over union, averaged over the classes that there are; None of labels.
        majority: the accuracy of always saying the commonest class.
        by_name: accuracy of each class, or its intersection over union.
    """

    model_config = ConfigDict(frozen=True)

    images: int
    accuracy: float
    accuracy_5: float | None = None
    mean_iou: float | None = None
    majority: float
    by_name: dict[str, float]


def train_head(
    backbone: Backbone, data: LabelledSet, out: Path, settings: ProbeTraining, progress: Progress | None = None
) -> ProbeFigures:
    """Train a head and write it into a folder with its figures. What was seen of images is kept in its `features/`.

    A run that is stopped goes on with what it has seen when it is called again, and ends with the same weights.

    Raises:
        ConfigError: the folder holds a run of another recipe.
        InputError: a file where the folder should be.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"`out` must be a folder, but got the file {str(out)!r}")
    recipe = {"kind": data.kind, "model": backbone.fingerprint, "names": list(data.names), **settings.model_dump()}
    claim_folder(out, recipe | {"images": [len(data.training), len(data.validation)]})
    seen = TowerFeatures(backbone, settings.tiles, out / "features")
    told = progress or (lambda done, total: None)
    examples = [*data.training, *data.validation]
    for number, example in enumerate(examples, start=1):
        seen.map_of(example.file) if data.kind == "semseg" else seen.vectors_of([example.file])
        told(number, len(examples))
    torch.manual_seed(settings.seed)
    head: ClassifyHead | SemanticHead
    if data.kind == "classify":
        head = ClassifyHead(data.names, backbone.fingerprint, settings.tiles, seen.width)
        figures = _fit_classes(head, data, seen)
    else:
        head = SemanticHead(data.names, backbone.fingerprint, settings.tiles, seen.width, settings.head)
        _fit_maps(head, data, seen, settings)
        figures = _measure_maps(head, data, seen)
    head.save(out)
    (out / "figures.json").write_text(figures.model_dump_json(indent=1) + "\n", "utf-8")
    return figures


def _fit_classes(head: ClassifyHead, data: LabelledSet, seen: TowerFeatures) -> ProbeFigures:
    vectors_ND = seen.vectors_of([each.file for each in data.training])
    labels_N = torch.tensor([each.label for each in data.training])
    head.get_buffer("mean_D").copy_(vectors_ND.mean(0))
    head.get_buffer("scale_D").copy_(1 / vectors_ND.std(0).clamp_min(1e-6))
    chooses = torch.arange(len(labels_N)) % _TRIED == 0
    right = {}
    for decay in _DECAYS:
        _solve(head, vectors_ND[~chooses], labels_N[~chooses], decay)
        with torch.no_grad():
            right[decay] = int((head(vectors_ND[chooses]).argmax(-1) == labels_N[chooses]).sum())
    _solve(head, vectors_ND, labels_N, max(_DECAYS, key=lambda decay: (right[decay], decay)))
    truth_N = torch.tensor([each.label for each in data.validation])
    with torch.no_grad():
        logits_NK = head(seen.vectors_of([each.file for each in data.validation]))
    good_N = logits_NK.argmax(-1) == truth_N
    good_5 = (logits_NK.topk(min(5, len(data.names)), dim=-1).indices == truth_N[:, None]).any(-1)
    return ProbeFigures(
        images=len(truth_N),
        accuracy=float(good_N.float().mean()),
        accuracy_5=float(good_5.float().mean()),
        majority=float(truth_N.bincount().max() / len(truth_N)),
        by_name={
            name: float(good_N[truth_N == label].float().mean())
            for label, name in enumerate(data.names)
            if bool((truth_N == label).any())
        },
    )


def _solve(head: ClassifyHead, vectors_ND: Tensor, labels_N: Tensor, decay: float) -> None:
    """Logistic regression from zero weights: convex, so that it ends at the same place whatever the order."""
    for parameter in head.linear.parameters():
        torch.nn.init.zeros_(parameter)
    optimiser = torch.optim.LBFGS(head.linear.parameters(), max_iter=_ROUNDS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = functional.cross_entropy(head(vectors_ND), labels_N) + decay * head.linear.weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]


def _fit_maps(head: SemanticHead, data: LabelledSet, seen: TowerFeatures, settings: ProbeTraining) -> None:
    optimiser = torch.optim.AdamW(head.parameters(), lr=settings.rate, weight_decay=1e-2)
    generator = torch.Generator().manual_seed(settings.seed)
    order: list[int] = []
    head.train()
    for step in range(settings.steps):
        for group in optimiser.param_groups:
            group["lr"] = settings.rate * warm_up_cosine(step, settings.steps, min(20, settings.steps // 10))
        while len(order) < settings.batch:
            order += torch.randperm(len(data.training), generator=generator).tolist()
        chosen, order = [data.training[place] for place in order[: settings.batch]], order[settings.batch :]
        by_shape: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
        for example in chosen:
            map_CHW = seen.map_of(example.file)
            # Twice as fine as the map: what lies between cells is learned, and a step stays cheap.
            size = (2 * map_CHW.shape[1], 2 * map_CHW.shape[2])
            classes = torch.from_numpy(data.classes_of(example))[None, None].float()
            truth = functional.interpolate(classes, size, mode="nearest-exact")[0, 0].long()
            by_shape.setdefault(tuple(map_CHW.shape), []).append((map_CHW, truth))
        loss = torch.zeros(())
        for group_ in by_shape.values():
            logits = head(torch.stack([map_CHW for map_CHW, _ in group_]))
            truth_BHW = torch.stack([truth for _, truth in group_])
            fine = functional.interpolate(logits, truth_BHW.shape[1:], mode="bilinear", align_corners=False)
            known = int((truth_BHW != UNKNOWN).sum())
            if known:
                part = functional.cross_entropy(fine, truth_BHW, ignore_index=UNKNOWN)
                loss = loss + part * len(group_) / len(chosen)
        optimiser.zero_grad()
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()


@torch.inference_mode()
def _measure_maps(head: SemanticHead, data: LabelledSet, seen: TowerFeatures) -> ProbeFigures:
    count = len(data.names)
    confusion = np.zeros((count, count), dtype=np.int64)
    head.eval()
    for example in data.validation:
        truth = data.classes_of(example)
        logits = functional.interpolate(
            head(seen.map_of(example.file)[None]), truth.shape, mode="bilinear", align_corners=False
        )
        said = logits.argmax(1)[0].numpy()
        known = truth != UNKNOWN
        confusion += np.bincount(truth[known].astype(np.int64) * count + said[known], minlength=count**2).reshape(
            count, count
        )
    right, true, claimed = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    there = np.flatnonzero(true)
    ious = {data.names[each]: float(right[each] / (true[each] + claimed[each] - right[each])) for each in there}
    total = max(1, int(confusion.sum()))
    return ProbeFigures(
        images=len(data.validation),
        accuracy=float(right.sum() / total),
        mean_iou=float(np.mean(list(ious.values()))) if ious else 0.0,
        majority=float(true.max() / total),
        by_name=ious,
    )


def in_words(data: LabelledSet) -> str:
    """Return a set in words."""
    return f"{len(data.names)} classes, {len(data.training)} images to learn from, {len(data.validation)} to measure by"
