"""Trains the adapter of any decoder: a token's row, a bank of queries and a head, while the model itself is frozen.

What a new task needs besides its decoder is a function that draws samples by number: an image, phrases, and the truth
in the form that the decoder's own `loss` takes. Every phrase is asked as `agent.run_route` asks it: the answer
`phrase[TOKEN]`, with its query block after it. Gradients pass through the frozen language model to the token's row and
to the queries.

Shape suffixes: B images, K phrases, N states of a phrase, C hidden size, T image tokens, L laid-out tokens.
"""

import multiprocessing
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import DynamicCache

from vision_agent.errors import ArgumentTypeError, ConfigError, InputError, RouteError, bad_argument
from vision_agent.model.attention import full_cache
from vision_agent.model.backbone import Backbone
from vision_agent.plugins.decoder import Decoder, DenseFeatures
from vision_agent.plugins.registry import load_decoder
from vision_agent.plugins.route import RouteSpec
from vision_agent.routing.adapter import Route, new_route, save_adapter
from vision_agent.routing.layout import NO_TOKEN, Segment, arrange, state_columns
from vision_agent.routing.states import FORCED_REQUEST, embed_layout, forced_segments, hidden_states
from vision_agent.train.loop import Stage, TrainingLoop, claim_folder, on_device, one_thread, seed_of, warm_up_cosine
from vision_agent.train.seen_images import SeenImages, joined_prompts
from vision_agent.train.token_writing import TokenPlaces, fit_row

DecoderLoss = Callable[..., Tensor]


@dataclass(frozen=True)
class AdapterSample:
    """One training image.

    Attributes:
        image: upright RGB, any size.
        phrases: what is asked of it, at least one.
        target: the truth, one item of the `targets` that the decoder's `loss` takes.
        key: names the image in the folder `seen` of a training; "" for one that is not kept there.
    """

    image: Image.Image
    phrases: tuple[str, ...]
    target: Any
    key: str = ""


class AdapterTraining(BaseModel):
    """How long and how fast an adapter learns.

    Attributes:
        steps: optimiser steps. A run that is done goes on when it is called with more.
        batch: images a step.
        rate: AdamW's rate after `warm_up` steps; it falls to zero along a cosine.
        workers: processes that draw samples; 0 draws them between the steps.
        seed: of the first weights, and of what a decoder's loss draws.
        save_minutes: how often the run is saved.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(default=600, ge=1)
    batch: int = Field(default=8, ge=1)
    rate: float = Field(default=1e-3, gt=0)
    warm_up: int = Field(default=20, ge=0)
    weight_decay: float = Field(default=0.01, ge=0)
    workers: int = Field(default=0, ge=0)
    seed: int = 0
    save_minutes: float = Field(default=2.0, gt=0)


def train_adapter(
    backbone: Backbone,
    spec: RouteSpec,
    draw: Callable[[int], AdapterSample],
    out: str | Path,
    settings: AdapterTraining | None = None,
    *,
    on_step: Callable[[int, float], None] | None = None,
    **decoder_settings: Any,
) -> Path:
    """Train a new route for a model, whose own weights are frozen. Call it again to resume a run that was stopped.

    Progress, with the loss, is shown on stderr. A run that was started with fewer steps is extended: it goes on from
    its last step with its optimiser, at the rate that the longer schedule has there. `workers` and `save_minutes` may
    change from call to call.

    Args:
        backbone: the model, `agent.backbone`. Its vocabulary gets the route's token, which it must not have already:
            a running model would change. A run that is resumed may find its own token.
        spec: the token, the decoder's name and the number of queries.
        draw: sample `number`, from 0. The same number must give the same sample, so that a resumed run is the same run.
            With `workers`, where processes are not forked (macOS, Windows), it must be a function of a module.
        out: the adapter's folder; beside its files, `recipe.json`, `state.pt` and `log.jsonl` of the run.
        settings: None for the values above.
        on_step: called as `on_step(step, loss)` after every step.
        decoder_settings: what the decoder's `for_backbone` takes beyond the contract.

    Returns:
        the folder, for `agent.load_adapter`.

    Raises:
        ArgumentTypeError: an argument, or a sample, of another type.
        ConfigError: `out` holds a run with other settings, on another model, or of more steps; a decoder that needs
            more than features.
        UnknownDecoderError: the decoder is not installed.
        RouteError: the vocabulary has the token already.
        InputError: a sample without a phrase; `out` is a file; a `draw` that cannot be sent to `workers`.
        FloatingPointError: a loss that is not finite.
    """
    return train_with(AdapterParts(), backbone, spec, draw, out, settings, on_step=on_step, **decoder_settings)


@dataclass(frozen=True)
class AdapterParts:
    """What training an adapter may be given besides.

    Attributes:
        seen: keeps what the model sees of images that have a `key`; None to look at each anew.
        written: the id of the token -> where the model shall write it by itself; its row of the head is fitted first.
        keep_row: the token may be one of the vocabulary, whose row stays as it is: what the model writes cannot change.
        loss: called as the decoder's `loss` is, with the decoder before it, and in its place.
    """

    seen: SeenImages | None = None
    written: Callable[[int], TokenPlaces] | None = None
    keep_row: bool = False
    loss: DecoderLoss | None = None


def train_with(
    parts: AdapterParts,
    backbone: Backbone,
    spec: RouteSpec,
    draw: Callable[[int], AdapterSample],
    out: str | Path,
    settings: AdapterTraining | None = None,
    *,
    on_step: Callable[[int, float], None] | None = None,
    **decoder_settings: Any,
) -> Path:
    """Train an adapter as `train_adapter` does, with parts of its own."""
    _check_arguments(backbone, spec, draw, out, settings, on_step)
    folder, settings = Path(out), settings or AdapterTraining()
    if settings.workers:
        _check_sendable(draw)
    known = spec.token in backbone.tokenizer.get_vocab()
    if known and not parts.keep_row and not (folder / "recipe.json").is_file():
        raise RouteError(
            f"{backbone.name!r} has the token {spec.token!r} already, and training would change it: take another token"
        )
    with torch.random.fork_rng():  # a library does not change its caller's random numbers
        run = _Run(backbone, spec, settings, decoder_settings, parts)
        claim_folder(folder, run.recipe)
        loop = TrainingLoop(
            folder,
            run.adapter,
            save_minutes=settings.save_minutes,
            on_step=None if on_step is None else lambda _, step, loss: on_step(step, loss),
        )
        loop.run(run.stage(draw))
        run.write(folder)
    return folder


def forced_states(
    backbone: Backbone,
    route: Route,
    row_C: Tensor,
    tokens: Sequence[Tensor],
    phrases: Sequence[Sequence[str]],
    read: Sequence[Sequence[Tensor]] | None = None,
) -> list[Tensor]:
    """Return states (K, N, C) of a route forced for phrases of several images.

    Gradients reach `row_C` and the queries.

    The prompts with their image tokens are read without gradients: nothing that is learned stands before them, and
    only the few tokens after them need memory for the way back.

    Args:
        row_C: the embedding of the routing token.
        tokens: of each image, (T, C); the numbers T may differ.
        phrases: of each image.
        read: the prompts of the images where they were read before, as `read_prompt` gives them.
    """
    if read is not None:
        cache, known_BP = joined_prompts(read)
        return _continued(backbone, route, row_C, tokens, phrases, cache, known_BP)
    prompts = [[Segment(tokens=tuple(backbone.prompt_ids(FORCED_REQUEST, [len(each)])))] for each in tokens]
    layout = arrange(prompts).to(backbone.device)
    cache = full_cache()
    with torch.no_grad():
        hidden_states(backbone, layout, embed_layout(backbone, {}, layout, prompts, torch.cat(list(tokens))), cache)
    return _continued(backbone, route, row_C, tokens, phrases, cache, layout.ids_BL != NO_TOKEN)


def _continued(
    backbone: Backbone,
    route: Route,
    row_C: Tensor,
    tokens: Sequence[Tensor],
    phrases: Sequence[Sequence[str]],
    cache: DynamicCache,
    known_BP: Tensor,
) -> list[Tensor]:
    """The states of phrases that continue prompts in a cache."""
    # Segments without a parent continue the cached prompt.
    rows = [
        [replace(each, parent=None) if each.tokens else each for each in forced_segments(backbone, route, asked, -1)]
        for asked in phrases
    ]
    layout = arrange(rows, known_BP.cpu()).to(backbone.device)
    embeds_BLC = embed_layout(backbone, {route.spec.name: route}, layout, rows, tokens[0][:0])
    is_token_BL = (layout.ids_BL == route.token_id).unsqueeze(-1)
    embeds_BLC = torch.where(is_token_BL, row_C.to(embeds_BLC.dtype), embeds_BLC)
    hidden_BLC = hidden_states(backbone, layout, embeds_BLC, cache)
    read = slice(1, None, 2) if route.spec.read == "queries" else slice(None)
    return [
        torch.stack([hidden_BLC[number, state_columns(route.spec, span)] for span in spans[read]]).float()
        for number, spans in enumerate(layout.spans)
    ]


class _Adapter(nn.Module):
    """All that is learned: the embedding of the routing token, its row of the head, the queries and the decoder."""

    def __init__(self, row_C: Tensor, head_C: Tensor | None, route: Route) -> None:
        super().__init__()
        self.row = nn.Parameter(row_C)
        if head_C is not None:
            self.head_row = nn.Parameter(head_C)
        self.route = route


class _Run:
    """One run: what it learns, from what, and by which loss."""

    def __init__(
        self,
        backbone: Backbone,
        spec: RouteSpec,
        settings: AdapterTraining,
        given: dict[str, Any],
        parts: AdapterParts,
    ) -> None:
        written = parts.written
        kind = load_decoder(spec.decoder)
        if not kind.needs_image or kind.prepare_image is not Decoder.prepare_image:
            raise ConfigError(
                f"the decoder {spec.decoder!r} does not go by features alone, which is all it would be given"
            )
        torch.manual_seed(settings.seed)
        self.backbone, self.settings = backbone, settings
        self.route = new_route(backbone, spec, **given).float().to(backbone.device).train()
        self.decoder = self.route.decoder
        table: Tensor = backbone.model.get_input_embeddings().weight
        head: Tensor = backbone.model.get_output_embeddings().weight
        self.tied = head is table
        # The row of a head that is a table of its own is fitted alone; one table's row is, and then stays.
        head_C = None if written is None or self.tied else head[self.route.token_id].detach().float().clone()
        self.adapter = _Adapter(table[self.route.token_id].detach().float().clone(), head_C, self.route)
        self.keeps_row = parts.keep_row or (written is not None and self.tied)
        self.seen = parts.seen or SeenImages(backbone)
        self.loss_of = parts.loss or (lambda decoder, *parts: decoder.loss(*parts))
        self.recipe = {
            "spec": spec.model_dump(mode="json"),
            "settings": settings.model_dump(mode="json", exclude={"steps", "workers", "save_minutes"}),
            "decoder": self.decoder.settings,
            "model": backbone.fingerprint,
        }
        self.places = None if written is None else written(self.route.token_id)
        if parts.keep_row or self.places is not None:
            places = 0 if self.places is None else len(self.places.best_P)
            self.recipe["token"] = {"keep_row": parts.keep_row, "places": places}
        if self.places is not None:
            fit_row(self.adapter.row if self.tied else self.adapter.head_row, self.places)

    def stage(self, draw: Callable[[int], AdapterSample]) -> Stage:
        settings, parameters = self.settings, list(self.route.parameters())
        if not self.keeps_row:
            parameters = [self.adapter.row, *parameters]

        def batches(first: int) -> DataLoader[AdapterSample]:
            numbers = range(first * settings.batch, settings.steps * settings.batch)
            return DataLoader(
                _Drawn(draw, numbers),
                settings.batch,
                num_workers=settings.workers,
                collate_fn=list,
                worker_init_fn=one_thread,
            )

        return Stage(
            name=self.route.spec.name,
            steps=settings.steps,
            optimiser=torch.optim.AdamW(parameters, lr=settings.rate, weight_decay=settings.weight_decay),
            parameters=parameters,
            clip=2.0,
            schedule=lambda step: warm_up_cosine(step, settings.steps, settings.warm_up),
            seed=lambda step: seed_of(settings.seed, step),
            batches=batches,
            losses=lambda samples: {"loss": self._loss(samples)},
            extendable=True,
        )

    def write(self, folder: Path) -> None:
        """Give the token its row and write the adapter."""
        with torch.no_grad():
            weight: Tensor = self.backbone.model.get_input_embeddings().weight
            weight[self.route.token_id] = self.adapter.row.to(weight)
            if hasattr(self.adapter, "head_row"):
                head: Tensor = self.backbone.model.get_output_embeddings().weight
                head[self.route.token_id] = self.adapter.head_row.to(head)
        save_adapter(folder, self.route.eval(), self.backbone)

    def _loss(self, samples: Sequence[AdapterSample]) -> Tensor:
        """The decoder's loss, averaged over the images; those with maps of one shape go to it together."""
        images = [self.seen.see(sample.image, sample.key) for sample in samples]
        maps = [image.features for image in images]
        read = [image.prompt for image in images if image.prompt is not None]
        states = forced_states(
            self.backbone,
            self.route,
            self.adapter.row,
            [image.tokens_TC for image in images],
            [sample.phrases for sample in samples],
            read if len(read) == len(images) else None,
        )
        alike: dict[tuple[torch.Size, ...], list[int]] = {}
        for number, features in enumerate(maps):
            alike.setdefault(tuple(each.shape for each in features.maps), []).append(number)
        losses = []
        for numbers in alike.values():
            features = DenseFeatures(
                tuple(map(torch.cat, zip(*(maps[number].maps for number in numbers), strict=True)))
            )
            rows = [row for row, number in enumerate(numbers) for _ in samples[number].phrases]
            states_KNC = torch.cat([states[number] for number in numbers])
            targets = [on_device(samples[number].target, states_KNC.device) for number in numbers]
            loss = self.loss_of(self.decoder, states_KNC, rows, self.decoder.prepare(features), targets)
            losses.append(loss * len(numbers) / len(samples))
        return torch.stack(losses).sum()


class _Drawn(Dataset[AdapterSample]):
    """Samples by number, checked."""

    def __init__(self, draw: Callable[[int], AdapterSample], numbers: range) -> None:
        self._draw, self._numbers = draw, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> AdapterSample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = self._numbers[index]
        sample = self._draw(number)
        if not isinstance(sample, AdapterSample):
            raise ArgumentTypeError(bad_argument(f"draw({number})", "an AdapterSample", sample))
        if not isinstance(sample.image, Image.Image):
            expected = "a PIL image, such as `load_image` gives"
            raise ArgumentTypeError(bad_argument(f"draw({number}).image", expected, sample.image))
        if isinstance(sample.phrases, str) or not all(isinstance(each, str) for each in sample.phrases):
            expected = "a tuple of strings"
            raise ArgumentTypeError(bad_argument(f"draw({number}).phrases", expected, sample.phrases))
        if not sample.phrases:
            raise InputError(bad_argument(f"draw({number}).phrases", "at least one phrase", sample.phrases))
        return sample


def _check_arguments(
    backbone: object, spec: object, draw: object, out: object, settings: object, on_step: object
) -> None:
    """Raise for an argument of another type, before anything is made."""
    if not isinstance(backbone, Backbone):
        raise ArgumentTypeError(bad_argument("backbone", "a Backbone, such as `agent.backbone`", backbone))
    if not isinstance(spec, RouteSpec):
        raise ArgumentTypeError(bad_argument("spec", "a RouteSpec", spec))
    if not callable(draw):
        raise ArgumentTypeError(bad_argument("draw", "a function of a number that returns an AdapterSample", draw))
    if not isinstance(out, str | Path):
        raise ArgumentTypeError(bad_argument("out", "the path of a folder", out))
    if settings is not None and not isinstance(settings, AdapterTraining):
        raise ArgumentTypeError(bad_argument("settings", "an AdapterTraining or None", settings))
    if on_step is not None and not callable(on_step):
        raise ArgumentTypeError(bad_argument("on_step", "a function of a step and its loss, or None", on_step))
    if Path(out).exists() and not Path(out).is_dir():
        raise InputError(bad_argument("out", "a folder, or a path to make one", str(out)))


def _check_sendable(draw: Callable[[int], AdapterSample]) -> None:
    """Raise where workers are started anew, not forked, and `draw` cannot be sent to them."""
    if multiprocessing.get_start_method() == "fork":
        return
    try:
        pickle.dumps(draw)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        expected = f"a function of a module, which `workers` can import, or `workers` 0 ({error})"
        raise InputError(bad_argument("draw", expected, draw)) from error
