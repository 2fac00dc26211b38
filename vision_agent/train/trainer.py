"""Trains a small model from a recipe: stages of text, of requests about images, of images with boxes, of boxes alone.

All stages run the expansion that inference runs (`routing.arrange`), teacher-forced. Samples follow from their number,
so a run that was stopped resumes exactly (see `vision_agent.train.loop`).
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import GenerationConfig, PreTrainedTokenizerFast

from vision_agent.data.dataset import ImageSources, NumberedFrom, TalkMix, TrainingMix
from vision_agent.data.distillation_samples import BoxBatch, BoxMix
from vision_agent.data.distillation_samples import collate as collate_boxes
from vision_agent.data.sources import read_text_vectors
from vision_agent.data.text.language_mix import LanguageMix, corpus
from vision_agent.errors import ConfigError, bad_argument
from vision_agent.model.checkpoint import save_backbone
from vision_agent.model.devices import choose_device
from vision_agent.model.prompt import IMAGE_CONTEXT
from vision_agent.plugins.decoder import DenseFeatures
from vision_agent.plugins.route import RouteSpec
from vision_agent.routing.adapter import Route, add_token, new_route, save_adapter
from vision_agent.routing.states import embed_layout, hidden_states
from vision_agent.train.box_distillation import FROZEN, BoxDistillation
from vision_agent.train.carry_over import carry_over
from vision_agent.train.collate import Batch, Collator
from vision_agent.train.config import StageSection, TrainConfig
from vision_agent.train.distillation import PhraseDistillation
from vision_agent.train.loop import (
    Deadline,
    OnStep,
    Stage,
    TrainingLoop,
    claim_folder,
    cosine,
    draw_curve,
    mixed_precision,
    on_device,
    one_thread,
    seed_of,
    warm_up_cosine,
)
from vision_agent.train.name_teacher import NameTeacher
from vision_agent.train.new_model import new_backbone, train_tokenizer

DETECT = RouteSpec(token="[DET]", decoder="box", num_queries=4, block="causal", looks=True)
# Routes the language model learns to choose. All but `[DET]` get their decoder, and its queries, in later stages of
# their own, with the language model frozen.
TOKENS = {"det": DETECT.token, "seg": "[SEG]", "ocr": "[OCR]", "gen": "[GEN]", "edit": "[EDIT]"}

_KEEP_WEIGHT = 5.0
_LEAST_RATE = 0.05


def train(config: TrainConfig, data: Path, out: Path, device: str = "auto", on_step: OnStep | None = None) -> Path:
    """Run a recipe. The same call resumes a run that was stopped.

    Args:
        data: folder of the training archives.
        out: folder of the run: `recipe.json`, `state.pt`, `log.jsonl`, `curve.png`, and at the end `model/`.
        on_step: called after every step (tests stop a run with it).

    Returns:
        the folder of the finished checkpoint, `out / "model"`.

    Raises:
        ConfigError: data that is not there, or an `out` that holds another recipe's run.
    """
    claim_folder(out, config.model_dump(mode="json"))
    run = _Run(config, data, out, choose_device(device), on_step)
    for number in range(len(config.stages)):
        run.stage(number)
    return run.export()


class _Run:
    """The state of one training run."""

    def __init__(
        self, config: TrainConfig, data: Path, out: Path, device: torch.device, on_step: OnStep | None
    ) -> None:
        torch.manual_seed(config.seed)
        self.config, self.data, self.out, self.device = config, data, out, device
        names, vectors = read_text_vectors(data)
        left_out = frozenset(config.leave_out)
        images = ImageSources(data, "train", left_out=left_out)
        if unknown := left_out - set(images.photos.names.values()):
            raise ConfigError(bad_argument("leave_out", "names of the photos", sorted(unknown)))
        self.names = sorted({*names, *images.copy_paste.names, *images.photos.names.values()})
        self.captions = images.photos.all_captions("train")
        self.backbone = new_backbone(self._tokenizer(), config.model)
        if config.init is not None:  # it says what the model can answer, too
            self.backbone.model.generation_config = GenerationConfig.from_pretrained(config.init)
        generator = torch.Generator().manual_seed(config.seed)
        self.route: Route = new_route(self.backbone, DETECT, generator)
        self.tokens = {name: add_token(self.backbone, token) for name, token in TOKENS.items()}
        self.distillation: PhraseDistillation | None = None
        teacher = NameTeacher(self.backbone.hidden_size, names, vectors)
        self.parts = nn.ModuleDict({"model": self.backbone.model, "route": self.route, "teacher": teacher}).to(device)
        self.loop = TrainingLoop(out, self.parts, save_minutes=config.save_minutes, on_step=on_step)
        if config.init is not None and not self.loop.resumed:
            self.loop.log({"init": str(config.init), "new": _warm_start(self.parts, config.init)})

    def stage(self, number: int) -> None:
        settings, seed = self.config.stages[number], self.config.seed
        optimiser = torch.optim.AdamW(_groups(self.parts, settings), betas=(0.9, 0.99))
        self.distillation = PhraseDistillation(self.backbone, self.route) if settings.kind == "language" else None
        boxes = BoxDistillation(self.backbone, self.route, self.data) if settings.kind == "distil" else None
        self.parts.train()
        minutes = settings.minutes
        self.loop.run(
            Stage(
                name=settings.name,
                steps=settings.steps,
                optimiser=optimiser,
                parameters=[part for part in self.parts.parameters() if part.requires_grad],
                clip=5.0,
                schedule=lambda step: warm_up_cosine(step, settings.steps, settings.warm_up, _LEAST_RATE),
                # What a step draws follows from its number: the decoder moves true boxes a little.
                seed=lambda step: seed_of(seed, number, step),
                batches=lambda start: self._batches(number, start) if boxes is None else self._boxes(number, start),
                losses=self._losses if boxes is None else boxes.losses,
                ema=settings.ema,
                more=self.distillation or boxes,
                share=settings.share,
                deadline=None if minutes is None else Deadline(minutes, lambda over: cosine(over, _LEAST_RATE)),
            )
        )

    def export(self) -> Path:
        """Write the weights as a checkpoint with its adapter; returns its folder."""
        folder = self.out / "model"
        if self.loop.ends is not None:
            self.parts.load_state_dict(self.loop.ends)
        if self.config.init is not None and self.config.init_share:
            _mix_in(self.parts, self.config.init, self.config.init_share)
        save_backbone(self.backbone, folder)
        save_adapter(folder / "adapters" / self.route.spec.name, self.route, self.backbone)
        if self.config.init is not None and all(stage.kind == "distil" for stage in self.config.stages):
            carry_over(self.config.init, folder, self.backbone, self.route, FROZEN)
        draw_curve(self.out)
        return folder

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        backbone, route, teacher = self.backbone, self.route, self.parts["teacher"]
        layout = batch.layout.to(self.device)
        # bf16 where the device multiplies it fast; what is delicate stays in fp32 below.
        with mixed_precision(self.device):
            prepared = None
            tokens_TC = torch.empty(0, backbone.hidden_size)
            if batch.pixels_NSS3 is not None:
                pixels = backbone.normalise(batch.pixels_NSS3.to(self.device))
                with torch.set_grad_enabled(self.distillation is None):
                    tokens_NTC, maps = backbone.see(pixels)
                tokens_TC = tokens_NTC.flatten(0, 1)
                if self.distillation is None:
                    prepared = route.decoder.prepare(DenseFeatures(maps))
            embeds_BLC = embed_layout(backbone, {route.spec.name: route}, layout, batch.rows, tokens_TC)
            hidden_BLC = hidden_states(backbone, layout, embeds_BLC)
            places = batch.label_places.to(self.device)
            logits = backbone.token_scores(hidden_BLC[places[:, 0], places[:, 1]])
            kept = None
            if self.distillation is not None:
                kept = self.distillation.loss(route, hidden_BLC, layout, batch, tokens_TC)
        losses = {"text": F.cross_entropy(logits, batch.labels.to(self.device))}
        if kept is not None:
            return {**losses, "keep": _KEEP_WEIGHT * kept}
        reads = batch.read_places.to(self.device)
        states_KNC = hidden_BLC[reads[..., 0], reads[..., 1]].float()
        losses["names"] = 0.5 * teacher(states_KNC, batch.read_phrases)
        if prepared is not None:
            boxes = route.decoder.loss(states_KNC, batch.read_rows, prepared, on_device(batch.targets, self.device))
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
        image_steps = [step for step in range(settings.steps) if int((step + 1) * share) == int(step * share)]
        with_images = iter(self._image_batches(number, sum(step < start for step in image_steps), len(image_steps)))
        wanted = set(image_steps)
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

    def _image_batches(self, number: int, start: int, end: int) -> Iterable[Batch]:
        """Batches of images, from the `start`-th to the `end`-th."""
        settings, seed = self.config.stages[number], (self.config.seed, number)
        side = settings.tile or self.config.model.tile
        collate = Collator(self.backbone, self.route, self.tokens, (side // 32) ** 2)
        shares, left_out = settings.data or self.config.data, frozenset(self.config.leave_out)
        images = TrainingMix(self.data, shares, side, seed, left_out)
        # Attention goes with the square of a row's length, so rows are kept short.
        talk = LanguageMix(seed, self.names, self.captions, phrases=1, exchanges=6)
        mixed = TalkMix(images, talk) if settings.kind == "language" else images
        return self._loaded(mixed, number, start, end, collate.images)

    def _loaded(
        self, samples: Dataset[Any], number: int, start: int, end: int, collate: Callable[[list[Any]], Any]
    ) -> DataLoader[Any]:
        """Batches of a stage's samples, from the `start`-th to the `end`-th."""
        size = self.config.stages[number].batch
        return DataLoader(
            samples,
            batch_size=size,
            sampler=NumberedFrom(start * size, end * size),
            num_workers=self.config.workers,
            collate_fn=collate,
            worker_init_fn=one_thread,
            prefetch_factor=4 if self.config.workers else None,
        )

    def _boxes(self, number: int, start: int) -> Iterator[tuple[int, BoxBatch]]:
        """Steps of a distillation stage with their batches, from the `start`-th on."""
        settings, seed = self.config.stages[number], (self.config.seed, number)
        sides = settings.tiles or (settings.tile or self.config.model.tile,)
        shares, left_out = settings.data or self.config.data, frozenset(self.config.leave_out)
        images = BoxMix(self.data, shares, sides, settings.batch, seed, left_out)
        return enumerate(self._loaded(images, number, start, settings.steps, collate_boxes), start)

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


@torch.no_grad()
def _mix_in(parts: nn.ModuleDict, folder: Path, share: float) -> None:
    """Give the weights of a checkpoint their share beside those that are there; what it does not have stays."""
    trained = {name: tensor.clone() for name, tensor in parts.state_dict().items()}
    _warm_start(parts, folder)
    for name, tensor in parts.state_dict().items():
        if tensor.is_floating_point():
            tensor.lerp_(trained[name], 1 - share)
        else:
            tensor.copy_(trained[name])


def _groups(parts: nn.ModuleDict, settings: StageSection) -> list[dict[str, Any]]:
    """Parameter groups by rate: tower, decoder and projector, language. Norms, biases and tables without decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parts.named_parameters():
        # The stem, the first blocks and the depthwise filters stay ImageNet's: they are generic, hold 5 % of the
        # tower's weights, and their gradients would take most of a CPU's time.
        fixed = any(f"vision_tower.{part}" in name for part in ("stem.", "stages.0.", "stages.1.", "stages.2.0."))
        fixed = fixed or ".depthwise." in name
        # A distillation stage reads phrases once, so nothing that they are made of may change.
        frozen = settings.kind == "distil" and any(f"decoder.{part}." in name for part in FROZEN)
        if frozen:
            rate = 0.0
        elif "vision_tower.stages" in name or "vision_tower.stem" in name:
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
