"""Trains a small model from a recipe: stages of text, of requests about images, and of images with boxes.

All stages run the expansion that inference runs (`routing.arrange`), teacher-forced. A killed run resumes exactly:
samples follow from their number, and model, optimiser, average and step are saved together.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from vision_agent.data.dataset import NumberedFrom, Pictures, TalkMix, TrainingMix
from vision_agent.data.sources import read_text_vectors
from vision_agent.data.text.language_mix import LanguageMix, corpus
from vision_agent.errors import ConfigError
from vision_agent.model.checkpoint import save_backbone
from vision_agent.model.devices import choose_device
from vision_agent.model.prompt import IMAGE_CONTEXT
from vision_agent.plugins.decoder import DenseFeatures
from vision_agent.plugins.route import RouteSpec
from vision_agent.routing.adapter import Route, add_token, new_route, save_adapter
from vision_agent.routing.states import embed_layout, hidden_states
from vision_agent.train.collate import Batch, Collator
from vision_agent.train.config import StageSection, TrainConfig
from vision_agent.train.distillation import PhraseDistillation
from vision_agent.train.name_teacher import NameTeacher
from vision_agent.train.new_model import new_backbone, train_tokenizer

DETECT = RouteSpec(token="[DET]", decoder="box", num_queries=4, looks=True)
# Routes the language model learns to choose. All but `[DET]` get their decoder, and its queries, in later stages of
# their own, with the language model at rest.
TOKENS = {"det": DETECT.token, "seg": "[SEG]", "ocr": "[OCR]", "gen": "[GEN]", "edit": "[EDIT]"}

_KEEP_WEIGHT = 5.0


def train(
    config: TrainConfig, data: Path, out: Path, device: str = "auto", on_step: Callable[[], None] | None = None
) -> Path:
    """Run a recipe, or go on with a run that was killed.

    Args:
        data: folder of the training archives.
        out: folder of the run: `state.pt`, `log.jsonl`, `curve.png`, and at the end `model/`.
        on_step: called after every step (tests stop a run with it).

    Returns:
        the folder of the finished checkpoint, `out / "model"`.

    Raises:
        ConfigError: data that is not there, or an `out` that holds another recipe's run.
    """
    out.mkdir(parents=True, exist_ok=True)
    _claim(out, config)
    run = _Run(config, data, out, choose_device(device))
    for number in range(len(config.stages)):
        run.stage(number, on_step or (lambda: None))
    return run.export()


class _Run:
    """The state of one training run."""

    def __init__(self, config: TrainConfig, data: Path, out: Path, device: torch.device) -> None:
        torch.manual_seed(config.seed)
        self.config, self.data, self.out, self.device = config, data, out, device
        names, vectors = read_text_vectors(data)
        images = Pictures(data, "train")
        self.names = sorted({*names, *images.maker.names, *images.photos.names.values()})
        self.captions = images.photos.all_captions("train")
        self.backbone = new_backbone(self._tokenizer(), config.model)
        generator = torch.Generator().manual_seed(config.seed)
        self.route: Route = new_route(self.backbone, DETECT, generator)
        self.tokens = {name: add_token(self.backbone, token) for name, token in TOKENS.items()}
        self.keeper: PhraseDistillation | None = None
        teacher = NameTeacher(self.backbone.hidden_size, names, vectors)
        self.parts = nn.ModuleDict({"model": self.backbone.model, "route": self.route, "teacher": teacher}).to(device)
        if config.init is not None and not (out / "state.pt").exists():
            self._log({"init": str(config.init), "new": _warm_start(self.parts, config.init)})
        self.average = {name: tensor.clone() for name, tensor in self.parts.state_dict().items()}
        self.finished: list[str] = []
        self.resumed: dict[str, Any] | None = None
        state = out / "state.pt"
        if state.exists():
            self.resumed = torch.load(state, map_location=device, weights_only=True)
            self.parts.load_state_dict(self.resumed["parts"])
            self.average = self.resumed["average"]
            self.finished = self.resumed["finished"]

    def stage(self, number: int, on_step: Callable[[], None]) -> None:
        settings = self.config.stages[number]
        name = settings.name
        if name in self.finished:
            return
        optimiser = torch.optim.AdamW(_groups(self.parts, settings), betas=(0.9, 0.99))
        base_rates = [group["lr"] for group in optimiser.param_groups]
        start = 0
        self.keeper = PhraseDistillation(self.backbone, self.route) if settings.kind == "language" else None
        if self.resumed is not None and self.resumed["stage"] == name:
            optimiser.load_state_dict(self.resumed["optimiser"])
            start = self.resumed["step"]
            if self.keeper is not None:
                self.keeper.load_state_dict(self.resumed["kept"])
        else:
            self.average = {key: tensor.clone() for key, tensor in self.parts.state_dict().items()}
        self.parts.train()
        saved = time.monotonic()
        batches = self._batches(number, start)
        bar = tqdm(batches, desc=name, initial=start, total=settings.steps, mininterval=5)
        for step, batch in enumerate(bar, start):
            rate = _schedule(step, settings)
            for group, base in zip(optimiser.param_groups, base_rates, strict=True):
                group["lr"] = base * rate
            # What a step draws itself follows from its number too: the decoder moves true boxes a little.
            torch.manual_seed(int(np.random.SeedSequence((self.config.seed, number, step)).generate_state(1)[0]))
            losses = self._losses(batch)
            total = torch.stack(list(losses.values())).sum()
            if not bool(torch.isfinite(total)):
                raise FloatingPointError(f"the loss of step {step} of stage {name!r} is {total.item()}: {losses}")
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(total)
            nn.utils.clip_grad_norm_(self.parts.parameters(), 5.0)
            optimiser.step()
            self._follow(settings.ema, step)
            values = {key: round(float(loss.detach()), 4) for key, loss in losses.items()}
            bar.set_postfix(values, refresh=False)
            self._log({"stage": name, "step": step, **values})
            if time.monotonic() - saved > self.config.save_minutes * 60:
                self._save(name, step + 1, optimiser)
                saved = time.monotonic()
            on_step()
        self.keeper = None
        # The average goes on where the stage ends: the next stage and the export start from it.
        self.parts.load_state_dict(self.average)
        self.finished.append(name)
        self.resumed = None
        self._save("", 0, optimiser)

    def export(self, folder: Path | None = None) -> Path:
        """Write the averaged weights as a checkpoint with its adapter."""
        folder = folder or self.out / "model"
        live = {name: tensor.clone() for name, tensor in self.parts.state_dict().items()}
        self.parts.load_state_dict(self.average)
        try:
            save_backbone(self.backbone, folder)
            save_adapter(folder / "adapters" / self.route.spec.name, self.route, self.backbone)
        finally:
            self.parts.load_state_dict(live)
        _draw_curve(self.out)
        return folder

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        backbone, route, teacher = self.backbone, self.route, self.parts["teacher"]
        layout = batch.layout.to(self.device)
        # bf16 where the device multiplies it fast; what is delicate stays in fp32 below.
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=_fast_bfloat16(self.device)):
            prepared = None
            tokens_TC = torch.empty(0, backbone.hidden_size)
            if batch.pixels_NSS3 is not None:
                pixels = backbone.normalise(batch.pixels_NSS3.to(self.device))
                with torch.set_grad_enabled(self.keeper is None):
                    tokens_NTC, maps = backbone.see(pixels)
                tokens_TC = tokens_NTC.flatten(0, 1)
                if self.keeper is None:
                    prepared = route.decoder.prepare(DenseFeatures(maps))
            embeds_BLC = embed_layout(backbone, {route.spec.name: route}, layout, batch.rows, tokens_TC)
            hidden_BLC = hidden_states(backbone, layout, embeds_BLC)
            places = batch.label_places.to(self.device)
            logits = backbone.model.lm_head(hidden_BLC[places[:, 0], places[:, 1]])
            kept = None if self.keeper is None else self.keeper.loss(route, hidden_BLC, layout, batch, tokens_TC)
        losses = {"text": F.cross_entropy(logits.float(), batch.labels.to(self.device))}
        if kept is not None:
            return {**losses, "keep": _KEEP_WEIGHT * kept}
        reads = batch.read_places.to(self.device)
        states_KNC = hidden_BLC[reads[..., 0], reads[..., 1]].float()
        losses["names"] = 0.5 * teacher(states_KNC, batch.read_phrases)
        if prepared is not None:
            boxes = route.decoder.loss(states_KNC, batch.read_rows, prepared, batch.targets)
            losses["boxes"] = route.spec.loss_weight * boxes
        return losses

    def _batches(self, number: int, start: int) -> Iterator[Batch]:
        """What a stage still has to see. Samples differ from stage to stage."""
        settings = self.config.stages[number]
        alone = self._texts(number)
        if settings.kind == "text":
            yield from map(alone, range(start, settings.steps))
            return
        # Which steps have no image follows from their number.
        share = settings.without_images
        pictured = [step for step in range(settings.steps) if int((step + 1) * share) == int(step * share)]
        with_images = iter(self._pictured(number, sum(step < start for step in pictured), len(pictured)))
        wanted = set(pictured)
        for step in range(start, settings.steps):
            yield next(with_images) if step in wanted else alone(step)

    def _texts(self, number: int) -> Callable[[int], Batch]:
        """Step -> rows without images."""
        settings = self.config.stages[number]
        collate = Collator(self.backbone, self.route, self.tokens, 0)
        # Attention goes with the square of a row's length: a language stage, which need not tell many names apart in a
        # row, has three short rows in the place of a long one.
        short = settings.kind == "language"
        rows = settings.batch * (3 if short else 1)
        sizes = {"phrases": 2, "exchanges": 4} if short else {}
        mix = LanguageMix((self.config.seed, number), self.names, self.captions, **sizes)

        def batch(step: int) -> Batch:
            return collate.text_only([mix.row(step * rows + index) for index in range(rows)])

        return batch

    def _pictured(self, number: int, start: int, end: int) -> Iterable[Batch]:
        """Batches of images, from the `start`-th to the `end`-th."""
        settings, seed = self.config.stages[number], (self.config.seed, number)
        side = settings.tile or self.config.model.tile
        collate = Collator(self.backbone, self.route, self.tokens, (side // 32) ** 2)
        images = TrainingMix(self.data, self.config.data, side, seed)
        # Attention goes with the square of a row's length, so rows are kept short.
        talk = LanguageMix(seed, self.names, self.captions, phrases=1, exchanges=6)
        return DataLoader(
            TalkMix(images, talk) if settings.kind == "language" else images,
            batch_size=settings.batch,
            sampler=NumberedFrom(start * settings.batch, end * settings.batch),
            num_workers=self.config.workers,
            collate_fn=collate.images,
            worker_init_fn=_one_thread,
            prefetch_factor=4 if self.config.workers else None,
        )

    @torch.no_grad()
    def _follow(self, decay: float, step: int) -> None:
        """Exponential average of the weights; follows faster in the beginning."""
        decay = min(decay, (1 + step) / (10 + step))
        live = self.parts.state_dict()
        average = [tensor for tensor in self.average.values()]
        torch._foreach_lerp_(average, [live[name] for name in self.average], 1 - decay)

    def _save(self, stage: str, step: int, optimiser: torch.optim.Optimizer) -> None:
        partial = self.out / "state.pt.partial"
        torch.save(
            {
                "parts": self.parts.state_dict(),
                "average": self.average,
                "optimiser": optimiser.state_dict(),
                "finished": self.finished,
                "stage": stage,
                "step": step,
                "kept": None if self.keeper is None else self.keeper.state_dict(),
            },
            partial,
        )
        os.replace(partial, self.out / "state.pt")

    def _log(self, line: dict[str, Any]) -> None:
        with (self.out / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _tokenizer(self) -> PreTrainedTokenizerFast:
        if self.config.init is not None:
            return cast(PreTrainedTokenizerFast, PreTrainedTokenizerFast.from_pretrained(self.config.init))
        folder = self.out / "tokenizer"
        if not folder.exists():
            trained = train_tokenizer(corpus(self.names, self.captions), self.config.model.vocabulary)
            trained.save_pretrained(folder)
        tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
        assert tokenizer.convert_tokens_to_ids(IMAGE_CONTEXT) is not None
        return tokenizer


def _warm_start(parts: nn.ModuleDict, folder: Path) -> list[str]:
    """Take all weights of a checkpoint whose name and shape fit; returns the names of those that start anew.

    Raises:
        ConfigError: a folder without weights in one file, or a model of another size.
    """
    path = folder / "model.safetensors"
    if not path.is_file():
        raise ConfigError(f"`init` names {str(folder)!r}, which has no model.safetensors")
    given = {f"model.{name}": tensor for name, tensor in load_file(path).items()}
    adapter = folder / "adapters" / DETECT.name / "adapter.safetensors"
    if adapter.is_file():
        given |= {f"route.{name}": tensor for name, tensor in load_file(adapter).items()}
    own = parts.state_dict()
    for name in ("model.model.language_model.embed_tokens.weight", "model.lm_head.weight"):
        # A model may know more routing tokens than the one it starts from.
        if name in given and len(given[name]) < len(own[name]):
            given[name] = torch.cat([given[name], own[name][len(given[name]) :].to(given[name])])
    for name, tensor in given.items():
        if name.startswith("model.") and name in own and own[name].shape != tensor.shape:
            shapes = f"{tuple(own[name].shape)}, but got {tuple(tensor.shape)}"
            raise ConfigError(f"`init` names {str(folder)!r}, whose {name} must have the shape {shapes}; see `model`")
    fitting = {name: tensor for name, tensor in given.items() if name in own and own[name].shape == tensor.shape}
    parts.load_state_dict(fitting, strict=False)
    tied = {"model.lm_head.weight"} if "model.lm_head.weight" not in given else set()
    return sorted(set(own) - set(fitting) - tied)


def _groups(parts: nn.ModuleDict, settings: StageSection) -> list[dict[str, Any]]:
    """Parameter groups by rate: tower, decoder and projector, language. Norms, biases and tables without decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parts.named_parameters():
        # The stem, the first blocks and the depthwise filters stay ImageNet's: they are generic, hold 5 % of the
        # tower's weights, and their gradients would take most of a CPU's time.
        fixed = any(f"vision_tower.{part}" in name for part in ("stem.", "stages.0.", "stages.1.", "stages.2.0."))
        fixed = fixed or ".depthwise." in name
        if "vision_tower.stages" in name or "vision_tower.stem" in name:
            rate = 0.0 if fixed else settings.tower_rate
        elif "decoder" in name or "vision_tower" in name or "projector" in name:
            rate = settings.decoder_rate
        else:
            rate = settings.rate
        parameter.requires_grad_(rate > 0)
        if rate > 0:
            decay = settings.weight_decay if parameter.ndim >= 2 and "embed_tokens" not in name else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": members, "lr": rate, "weight_decay": decay} for (rate, decay), members in groups.items()]


def _schedule(step: int, settings: StageSection) -> float:
    """Linear warm-up, then cosine to a twentieth."""
    if step < settings.warm_up:
        return (step + 1) / settings.warm_up
    done = (step - settings.warm_up) / max(1, settings.steps - settings.warm_up)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done))


def _fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_amx_tile_supported())


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)


def _claim(out: Path, config: TrainConfig) -> None:
    """Tie the folder to the recipe: resuming with another one would be silently wrong."""
    path = out / "recipe.json"
    if path.exists():
        if path.read_text("utf-8") != config.model_dump_json(indent=2):
            raise ConfigError(f"{str(out)!r} holds a run of another recipe; choose another `out` or remove it")
        return
    path.write_text(config.model_dump_json(indent=2), "utf-8")


def _draw_curve(out: Path) -> None:
    """`curve.png`: every loss over the steps, smoothed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    lines = [json.loads(line) for line in (out / "log.jsonl").read_text("utf-8").splitlines()]
    lines = [line for line in lines if "stage" in line]
    stages = list(dict.fromkeys(line["stage"] for line in lines))
    figure, axes = plt.subplots(1, len(stages), figsize=(6 * len(stages), 4), squeeze=False)
    for axis, stage in zip(axes[0], stages, strict=True):
        mine = [line for line in lines if line["stage"] == stage]
        for key in sorted({key for line in mine for key in line} - {"stage", "step"}):
            values = torch.tensor([line[key] for line in mine])
            width = max(1, len(values) // 50)
            smooth = values[: len(values) // width * width].reshape(-1, width).mean(dim=1)
            axis.plot([mine[index * width]["step"] for index in range(len(smooth))], smooth, label=key)
        axis.set(title=stage, xlabel="step", ylabel="loss")
        axis.legend()
    figure.tight_layout()
    figure.savefig(out / "curve.png", dpi=110)
    plt.close(figure)
