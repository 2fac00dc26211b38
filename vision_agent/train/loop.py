"""The one loop under every training: rates, averaged weights, the log, saves, and exact resumption.

A training gives its batches and its losses as a `Stage`; everything else is here. All that a step draws follows from
its number, and weights, optimiser and average are saved together, so that a run that was stopped and started again
ends with the same weights as one that never stopped.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from vision_agent.errors import ConfigError, require_extra
from vision_agent.model.devices import bfloat16_pays, computing_in

OnStep = Callable[[str, int, float], None]  # told the stage, the step from 0 and its loss


class Stateful(Protocol):
    """Something beside the weights that a resumed stage needs as it was."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Stage:
    """One stage of a training: what is learned, from what, and how fast.

    Attributes:
        name: names it in the log and in the saved state.
        optimiser: its groups hold the highest rates.
        parameters: what the optimiser changes.
        clip: greatest norm of their gradients together.
        schedule: step -> share of the highest rate.
        seed: step -> seed of what the step draws from torch.
        batches: first step -> the batches of that step and of all later ones.
        losses: batch -> losses by name; their sum is minimised.
        ema: decay of the average of the weights; 0 keeps the last weights.
        more: see `Stateful`.
        deadline: when it ends, whatever steps are left; None for after its steps.
        extendable: once done, it may be given more steps, and goes on with the same optimiser. It has no average.
    """

    name: str
    steps: int
    optimiser: torch.optim.Optimizer
    parameters: Sequence[nn.Parameter]
    clip: float
    schedule: Callable[[int], float]
    seed: Callable[[int], int]
    batches: Callable[[int], Iterable[Any]]
    losses: Callable[[Any], Mapping[str, Tensor]]
    ema: float = 0.0
    more: Stateful | None = None
    deadline: "Deadline | None" = None
    share: float = 0.0
    extendable: bool = False


@dataclass(frozen=True)
class Deadline:
    """When a stage ends by the clock; a stage that was stopped goes on with the minutes that are left.

    Attributes:
        minutes: how long it may take. It has a step at least.
        schedule: share of the minutes that is over -> greatest share of the highest rate.
    """

    minutes: float
    schedule: Callable[[float], float]


class TrainingLoop:
    """Runs stages one after the other in a folder: `state.pt`, `log.jsonl`, and `recipe.json` from `claim_folder`.

    A folder that holds a state is resumed: `module` gets its weights.

    Args:
        folder: exists.
        module: everything that any stage changes.
        stages_start_averaged: each stage leaves `module` with its averaged weights, and averages its own steps alone.
            If False, one average follows all stages and `module` keeps its last weights.

    Attributes:
        average: averaged weights, by the names of `module.state_dict()`.
        ends: mean of the weights at the ends of the stages that have a share in it; None until the first of them ended.
        resumed: whether the folder held a state.
    """

    def __init__(
        self,
        folder: Path,
        module: nn.Module,
        *,
        save_minutes: float,
        on_step: OnStep | None = None,
        stages_start_averaged: bool = True,
    ) -> None:
        self._folder, self._module, self._save_minutes, self._on_step = folder, module, save_minutes, on_step
        self._stages_start_averaged = stages_start_averaged
        self.average = _copied(module)
        self.ends: dict[str, Tensor] | None = None
        self._shares = 0.0
        self._finished: list[str] = []
        self._state: dict[str, Any] = {"stage": "", "step": 0}
        self.resumed = (folder / "state.pt").exists()
        if self.resumed:
            device = next(module.parameters()).device
            self._state = torch.load(folder / "state.pt", map_location=device, weights_only=True)
            module.load_state_dict(self._state["parts"])
            self.average, self._finished = self._state["average"], self._state["finished"]
            self.ends, self._shares = self._state.get("ends"), self._state.get("shares", 0.0)
        self._drop_unsaved_lines()

    def run(self, stage: Stage) -> None:
        """Carry out the steps of a stage that are left.

        Raises:
            FloatingPointError: a loss that is not finite.
            ConfigError: it has done more steps already.
        """
        if stage.name in self._finished:
            return
        if self._state["stage"] == stage.name and self._state["step"] > stage.steps:
            done = f"has done {self._state['step']} steps already, more than {stage.steps}"
            raise ConfigError(f"the run in {str(self._folder)!r} {done}; choose another `out`")
        start, earlier = 0, 0.0
        if self._state["stage"] == stage.name:
            start, earlier = self._state["step"], self._state.get("seconds", 0.0)
            stage.optimiser.load_state_dict(self._state["optimiser"])
            if stage.more is not None:
                stage.more.load_state_dict(self._state["more"])
        elif self._stages_start_averaged:
            self.average = _copied(self._module)
        live = self._module.state_dict()
        began = saved = time.monotonic()
        bar = tqdm(stage.batches(start), desc=stage.name, initial=start, total=stage.steps, mininterval=5)
        for step, batch in enumerate(bar, start):
            torch.manual_seed(stage.seed(step))
            seconds = earlier + time.monotonic() - began
            rate = stage.schedule(step)
            if stage.deadline is not None:
                rate = min(rate, stage.deadline.schedule(min(1.0, seconds / (stage.deadline.minutes * 60))))
            losses = stage.losses(batch)
            place = f"step {step} of stage {stage.name!r}"
            total = descend(stage.optimiser, stage.parameters, losses, rate, stage.clip, place)
            self._follow(live, stage.ema, step)
            parts = torch.stack([loss.detach() for loss in losses.values()]).tolist()
            values = {name: round(loss, 4) for name, loss in zip(losses, parts, strict=True)}
            bar.set_postfix(values, refresh=False)
            self.log({"stage": stage.name, "step": step, **values})
            if time.monotonic() - saved > self._save_minutes * 60:
                self._save(stage.name, step + 1, stage, earlier + time.monotonic() - began)
                saved = time.monotonic()
            if self._on_step is not None:
                self._on_step(stage.name, step, total)
            if stage.deadline is not None and seconds > stage.deadline.minutes * 60:
                break
        if stage.extendable:
            self._save(stage.name, stage.steps, stage, earlier + time.monotonic() - began)
            return
        if self._stages_start_averaged:
            self._module.load_state_dict(self.average)
        self._keep_end(stage.share)
        self._finished.append(stage.name)
        self._save("", 0, None)

    def log(self, line: Mapping[str, Any]) -> None:
        """Append a line to `log.jsonl`."""
        with (self._folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    @torch.no_grad()
    def _follow(self, live: Mapping[str, Tensor], decay: float, step: int) -> None:
        """Move the average towards the weights; faster in the first steps."""
        decay = min(decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.average.values()), [live[name] for name in self.average], 1 - decay)

    @torch.no_grad()
    def _keep_end(self, share: float) -> None:
        """Give the weights at a stage's end their share in the mean of such weights."""
        if not share:
            return
        self._shares += share
        if self.ends is None:
            self.ends = _copied(self._module)
        live = self._module.state_dict()
        for name, mean in self.ends.items():
            if mean.is_floating_point():
                mean.lerp_(live[name], share / self._shares)
            else:
                mean.copy_(live[name])

    def _save(self, name: str, step: int, stage: Stage | None, seconds: float = 0.0) -> None:
        more = None if stage is None or stage.more is None else stage.more.state_dict()
        optimiser = None if stage is None else stage.optimiser.state_dict()
        self._state = {"stage": name, "step": step, "optimiser": optimiser, "more": more, "seconds": seconds}
        weights: dict[str, Any] = {"parts": self._module.state_dict(), "average": self.average}
        weights |= {"finished": self._finished, "ends": self.ends, "shares": self._shares}
        partial = self._folder / "state.pt.partial"
        torch.save(self._state | weights, partial)
        os.replace(partial, self._folder / "state.pt")

    def _drop_unsaved_lines(self) -> None:
        """Steps after the last save are done again, so their lines in the log go."""
        path = self._folder / "log.jsonl"
        lines = path.read_text("utf-8").splitlines(keepends=True) if self.resumed and path.exists() else []

        def saved(stage: str | None = None, step: int = 0, **_: Any) -> bool:
            in_time = stage == self._state["stage"] and step < self._state["step"]
            return stage is None or stage in self._finished or in_time

        path.write_text("".join(line for line in lines if saved(**json.loads(line))), "utf-8")


def descend(
    optimiser: torch.optim.Optimizer,
    parameters: Sequence[nn.Parameter],
    losses: Mapping[str, Tensor],
    share: float,
    clip: float,
    place: str,
) -> float:
    """Take one step down the sum of the losses, at a share of the highest rates; returns the sum.

    Raises:
        FloatingPointError: a sum that is not finite; names the `place`.
    """
    total = torch.stack(list(losses.values())).sum()
    if not bool(torch.isfinite(total)):
        raise FloatingPointError(f"the loss of {place} is {total.item()}: {dict(losses)}")
    for group in optimiser.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * share
    optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(total)
    nn.utils.clip_grad_norm_(parameters, clip)
    optimiser.step()
    return total.item()


def claim_folder(folder: Path, recipe: Mapping[str, Any]) -> None:
    """Tie a folder, made if need be, to a recipe: resuming a run with another one would be silently wrong.

    Args:
        recipe: as JSON takes it.

    Raises:
        ConfigError: the folder holds a run of another recipe; names what differs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, text = folder / "recipe.json", json.dumps(recipe, indent=2)
    if not path.exists():
        path.write_text(text, "utf-8")
        return
    held, own = json.loads(path.read_text("utf-8")), json.loads(text)
    for name in [*held, *own]:
        if held.get(name) != own.get(name):
            differs = f"its {name} is {held.get(name)!r}, not {own.get(name)!r}"
            raise ConfigError(f"{str(folder)!r} holds a run of another recipe: {differs}; choose another `out`")


def warm_up_cosine(step: int, steps: int, warm_up: int, least: float = 0.0) -> float:
    """Return the share of the highest rate: linear warm-up, then a cosine down to `least`."""
    if step < warm_up:
        return (step + 1) / warm_up
    return cosine((step - warm_up) / max(1, steps - warm_up), least)


def cosine(done: float, least: float) -> float:
    """Return the share of the highest rate when a share of a stage is done: a cosine from 1 to `least`."""
    return least + (1 - least) * 0.5 * (1 + math.cos(math.pi * done))


def seed_of(*numbers: int) -> int:
    """Return a seed for torch that follows from numbers such as a recipe's seed and a step."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def mixed_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Compute in bfloat16 where the device multiplies its matrices faster than those of fp32."""
    return computing_in(device, torch.bfloat16 if bfloat16_pays(device) else torch.float32)


def on_device(value: Any, device: torch.device) -> Any:
    """Return a training target with its tensors on a device: those in dataclasses, mappings and sequences too."""
    if isinstance(value, Tensor):
        return value.to(device)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{each.name: on_device(getattr(value, each.name), device) for each in fields(value)})
    if isinstance(value, dict):
        return {name: on_device(each, device) for name, each in value.items()}
    return type(value)(on_device(each, device) for each in value) if type(value) in (list, tuple) else value


def one_thread(worker: int) -> None:
    """Start a worker of a `DataLoader`: one thread, so that workers do not fight for cores."""
    torch.set_num_threads(1)


def draw_curve(folder: Path) -> None:
    """Write `curve.png`: every loss of a run over its steps, smoothed, one plot a stage."""
    require_extra("matplotlib", "train", "plots are")
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]
    lines = [line for line in lines if "stage" in line]
    stages = list(dict.fromkeys(line["stage"] for line in lines))
    figure, axes = plt.subplots(1, len(stages), figsize=(6 * len(stages), 4), squeeze=False)
    for axis, stage in zip(axes[0], stages, strict=True):
        of_stage = [line for line in lines if line["stage"] == stage]
        for key in sorted({key for line in of_stage for key in line} - {"stage", "step"}):
            points = [(line["step"], line[key]) for line in of_stage if key in line]
            width = max(1, len(points) // 50)
            values = torch.tensor([value for _, value in points])
            smooth = values[: len(values) // width * width].reshape(-1, width).mean(dim=1)
            axis.plot([points[index * width][0] for index in range(len(smooth))], smooth, label=key)
        axis.set(title=stage, xlabel="step", ylabel="loss")
        axis.legend()
    figure.tight_layout()
    figure.savefig(folder / "curve.png", dpi=110)
    plt.close(figure)


def _copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}
