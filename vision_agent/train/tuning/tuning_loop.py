"""The steps of a fine-tuning: gradients of several passes and processes, the log, saves, and exact resumption.

What a step learns from, and what it draws, follows from its number; weights and optimiser are saved together. So a
run that was killed and started again ends with the weights of one that never stopped.
"""

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from vision_agent.data.dialogues.dialogue_lines import DialogueLine
from vision_agent.model.devices import has_float64
from vision_agent.train.loop import one_thread, seed_of, warm_up_cosine
from vision_agent.train.tuning.dialogue_encoding import DialogueEncoder
from vision_agent.train.tuning.dialogue_loss import DialogueLoss
from vision_agent.train.tuning.processes import Processes
from vision_agent.train.tuning.step_batches import Passes, StepPlan, whole_passes
from vision_agent.train.tuning.tuned_model import TunedModel
from vision_agent.train.tuning.tuning_settings import Tuning

STAGE = "dialogues"
OnTuningStep = Callable[[int, float], None]


class TuningLoop:
    """Runs a fine-tuning in a folder: `state.pt` and `log.jsonl`.

    Args:
        lines: what is learned from, in the order of the plan's extents. kept: what is measured.
        pad: the token that fills rows up.

    Attributes:
        done: steps that were carried out, those of earlier calls too.
    """

    def __init__(
        self,
        folder: Path,
        tuned: TunedModel,
        plan: StepPlan,
        lines: Sequence[DialogueLine],
        kept: Sequence[DialogueLine],
        encoder: DialogueEncoder,
        settings: Tuning,
        processes: Processes,
        *,
        pad: int,
        on_step: OnTuningStep | None = None,
    ) -> None:
        self._folder, self._tuned, self._plan, self._settings = folder, tuned, plan, settings
        self._lines, self._kept, self._encoder, self._processes = lines, kept, encoder, processes
        self._pad, self._on_step = pad, on_step
        self._loss = DialogueLoss(tuned.backbone, sees=tuned.sees, dtype=tuned.dtype)
        parameters = list(tuned.learned.values())
        groups = [
            {"params": [each for each in parameters if each.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [each for each in parameters if each.ndim < 2], "weight_decay": 0.0},
        ]
        self._optimiser = torch.optim.AdamW([group for group in groups if group["params"]], lr=settings.rate)
        self._parameters = parameters
        self.done = 0
        path = folder / "state.pt"
        if path.exists():
            state: dict[str, Any] = torch.load(path, map_location=processes.device, weights_only=True)
            tuned.load(state["weights"])
            self._optimiser.load_state_dict(state["optimiser"])
            self.done = state["step"]
        processes.wait()
        if processes.is_main:
            self._drop_unsaved_lines()

    def run(self) -> None:
        """Carry out the steps that are left.

        Raises:
            FloatingPointError: a loss that is not finite.
        """
        steps, world, rank = self._plan.steps, self._processes.world, self._processes.rank
        if self.done >= steps:
            return
        every = max(1, steps // self._settings.evaluations) if self._settings.evaluations else steps
        if self.done == 0:
            self._measure(0)
        passes = Passes(
            self._plan,
            self._lines,
            self._encoder,
            self._settings,
            first=self.done,
            rank=rank,
            world=world,
            white=world > 1 and self._tuned.sees,
            pad=self._pad,
        )
        loader = DataLoader(passes, batch_size=None, num_workers=self._settings.workers, worker_init_fn=one_thread)
        bar = tqdm(
            total=steps, initial=self.done, desc="fine-tuning", mininterval=2, disable=not self._processes.is_main
        )
        saved = time.monotonic()
        self._tuned.train()
        sums = torch.zeros(2, dtype=torch.float64)
        for (step, number, _, last), batch in zip(passes.turns, loader, strict=True):
            torch.manual_seed(seed_of(self._settings.seed, step, number))
            loss, weight = self._loss(batch)
            torch.autograd.backward(loss)
            sums += torch.stack([loss.detach(), weight]).double().cpu()
            if not last:
                continue
            value = self._descend(step, sums)
            sums = torch.zeros(2, dtype=torch.float64)
            self.done = step + 1
            bar.update()
            bar.set_postfix(loss=f"{value:.4f}", refresh=False)
            self._log({"step": step, "loss": round(value, 6)})
            if self.done % every == 0 or self.done == steps:
                self._measure(self.done)
            if time.monotonic() - saved > self._settings.save_minutes * 60 or self.done == steps:
                self._save()
                saved = time.monotonic()
            if self._on_step is not None:
                self._on_step(step, value)
        bar.close()

    @torch.no_grad()
    def measure(self) -> float | None:
        """Return the loss of an answer's token on the lines that are kept back; None where there are none."""
        if not self._kept:
            return None
        self._tuned.eval()
        sums = torch.zeros(2, dtype=torch.float64)
        world, rank = self._processes.world, self._processes.rank
        for batch in whole_passes(self._kept, self._encoder, self._settings, rank=rank, world=world, pad=self._pad):
            sums += torch.stack(self._loss(batch)).double().cpu()
        self._add_up(sums)
        self._tuned.train()
        return float(sums[0] / sums[1])

    def _descend(self, step: int, sums: Tensor) -> float:
        """Take the step down the mean of all weighed losses, over all passes of all processes; return that mean."""
        gradients = []
        for parameter in self._parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        self._processes.add_up(gradients)
        self._add_up(sums)
        value = float(sums[0] / sums[1])
        if not math.isfinite(value):
            raise FloatingPointError(f"the loss of step {step} is {value}; lower --rate, or use --dtype float32")
        torch._foreach_div_(gradients, float(sums[1]))
        nn.utils.clip_grad_norm_(self._parameters, self._settings.clip)
        steps = self._plan.steps
        share = warm_up_cosine(step, steps, math.ceil(self._settings.warm_up * steps))
        for group in self._optimiser.param_groups:
            group["lr"] = self._settings.rate * share
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        return value

    def _add_up(self, sums: Tensor) -> None:
        """Sum numbers over all processes, on the device that they speak by."""
        moved = sums.to(self._processes.device, None if has_float64(self._processes.device) else torch.float32)
        self._processes.add_up([moved])
        sums.copy_(moved)

    def _measure(self, step: int) -> None:
        value = self.measure()
        if value is not None:
            self._log({"step": step, "validation": round(value, 6)})

    def _log(self, line: dict[str, Any]) -> None:
        if self._processes.is_main:
            with (self._folder / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({"stage": STAGE, **line}) + "\n")

    def _save(self) -> None:
        if not self._processes.is_main:
            return
        state = {"step": self.done, "weights": self._tuned.weights(), "optimiser": self._optimiser.state_dict()}
        partial = self._folder / "state.pt.partial"
        torch.save(state, partial)
        os.replace(partial, self._folder / "state.pt")

    def _drop_unsaved_lines(self) -> None:
        """Steps after the last save are done again, so their lines in the log go."""
        path = self._folder / "log.jsonl"
        kept = []
        for line in path.read_text("utf-8").splitlines() if path.exists() and self.done else []:
            try:
                said = json.loads(line)
            except ValueError:
                continue  # cut off by the kill
            if said["step"] + ("loss" in said) <= self.done:
                kept.append(line + "\n")
        path.write_text("".join(kept), "utf-8")


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]
