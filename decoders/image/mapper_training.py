"""Teaches a language model's `[GEN]` and `[EDIT]` routes to draw with a trained generator (see `training`).

Model and generator are frozen; so are the queries, which are rows of the model's own embedding table: the states of
its own words after a prompt describe the prompt well enough. So the states of some thousand prompts need to be
computed only once. Then the mapper learns, from them, the conditions that the generator's own encoder of words gives,
and in the last steps the generator's noise loss beside that (the mapper's losses of VisionLLM v2, https://arxiv.org/abs/2406.08394).
Learning the queries through the language model costs a hundred times as much a step, and needs more steps.

Shape suffixes: P prompts, N states a token, C hidden size, T condition tokens, D their width.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from tqdm import tqdm

from vision_agent.data.sources import ImageArchive
from vision_agent.model.backbone import Backbone
from vision_agent.plugins.route import RouteSpec
from vision_agent.routing.adapter import Route, new_route, save_adapter
from vision_agent.routing.layout import Segment, arrange, state_columns
from vision_agent.routing.states import embed_layout, forced_segments, hidden_states, read_forced
from vision_agent.train.loop import OnStep, descend, mixed_precision

from .samples import Sample
from .scenes import GeneratorScenes, vocabulary
from .training import GeneratorConfig, load_generator, rate_share, read_generator_config

GENERATE = RouteSpec(token="[GEN]", decoder="generator", num_queries=64, ends=True)
EDIT = RouteSpec(token="[EDIT]", decoder="editor", num_queries=64, ends=True)

# What asks for an image where the route is not forced; the mapper has to read states after either.
_REQUESTS = ("draw {}", "generate a picture of {}", "show me {}", "make an image of {}", "please draw {}")
_EDIT_REQUESTS = ("{}", "please {}", "{} in the picture", "change the picture: {}")
_TOGETHER = 16  # prompts that are read at once
_IMAGES = 8  # put before edits: what is in them must not matter


class DrawingTraining(BaseModel):
    """How long the mapper of a route learns.

    Attributes:
        prompts: whose states are read.
        steps: of the mapper.
        noise_steps: how many of them, the last ones, have the generator's noise loss too.
        batch: prompts a step.
        rate: highest rate of learning.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompts: int = Field(default=4000, ge=1)
    steps: int = Field(default=1500, ge=1)
    noise_steps: int = Field(default=100, ge=0)
    batch: int = Field(default=128, ge=1)
    rate: float = Field(default=2e-3, gt=0)


def train_drawing(
    backbone: Backbone,
    generator: Path,
    data: Path,
    out: Path,
    config: GeneratorConfig | None = None,
    training: DrawingTraining | None = None,
    *,
    routes: Sequence[RouteSpec] = (GENERATE, EDIT),
    on_step: OnStep | None = None,
) -> list[Path]:
    """Train adapters that draw.

    Args:
        generator: the folder that `train_generator` returned.
        data: folder of the training archives.
        out: adapters are written to `out/gen` and `out/edit`.
        config: the recipe that the generator was trained with; None for the default's.
        training: how long; None for the default's.
        on_step: called after every step with the route's name, the step from 1 and the loss.

    Returns:
        the adapters' folders.
    """
    config, training = config or read_generator_config(), training or DrawingTraining()
    taught = load_generator(generator).to(backbone.device)
    scenes = GeneratorScenes(data, config.names)
    backbone.model.requires_grad_(False)
    folders = []
    for spec in routes:
        torch.manual_seed(config.seed)
        draws = torch.Generator().manual_seed(config.seed)
        route = new_route(backbone, spec, draws, network=taught.generator).to(backbone.device)
        _take_words(route, backbone, vocabulary(scenes.names), draws)
        rng = np.random.default_rng((config.seed, 9))
        samples = [scenes.sample(rng, edit=spec.token == EDIT.token) for _ in range(training.prompts)]
        states_PNC = _read(backbone, route, [sample.prompt for sample in samples], data, rng)
        _teach_mapper(route, states_PNC, samples, taught, training, on_step)
        save_adapter(out / spec.name, route, backbone)
        folders.append(out / spec.name)
    return folders


def _take_words(route: Route, backbone: Backbone, words: Sequence[str], draws: torch.Generator) -> None:
    """Queries that are rows of the model's table: tokens that the words of prompts are made of, drawn at random."""
    tokens = sorted({token for word in words for token in backbone.text_ids(word)})
    chosen = torch.randint(len(tokens), (route.spec.num_queries,), generator=draws)
    if len(tokens) >= route.spec.num_queries:
        chosen = torch.randperm(len(tokens), generator=draws)[: route.spec.num_queries]
    table = backbone.model.get_input_embeddings().weight
    with torch.no_grad():
        route.queries.weight.copy_(table[torch.tensor(tokens)[chosen].to(table.device)])


def _read(backbone: Backbone, route: Route, prompts: Sequence[str], data: Path, rng: np.random.Generator) -> Tensor:
    """States (P, N, C) of the route after each prompt, fp16; edits are read with an image before them.

    Three in four are forced, as `agent.generate` and `agent.edit` do it; the others answer a request.
    """
    edit = route.spec.token == EDIT.token
    images = _encoded_images(backbone, data) if edit else []
    read = []
    for first in tqdm(range(0, len(prompts), _TOGETHER), desc=f"states of {route.spec.token}", mininterval=5):
        some = prompts[first : first + _TOGETHER]
        shown = [images[int(rng.integers(len(images)))]] if edit else []
        with mixed_precision(backbone.device):
            if rng.random() < 0.75:
                tokens_TC = torch.cat(shown) if shown else torch.empty(0, backbone.hidden_size, device=backbone.device)
                states_KNC = read_forced(backbone, route, tokens_TC, [len(each) for each in shown], some)
            else:
                requests = _EDIT_REQUESTS if edit else _REQUESTS
                asked = [str(rng.choice(requests)).format(prompt) for prompt in some]
                states_KNC = _read_answers(backbone, route, asked, some, shown)
        read.append(states_KNC.half())
    return torch.cat(read)


@torch.inference_mode()
def _read_answers(
    backbone: Backbone, route: Route, requests: Sequence[str], prompts: Sequence[str], shown: Sequence[Tensor]
) -> Tensor:
    """States (K, N, C) of a route in the answers to requests, each with the same images before it."""
    rows: list[list[Segment]] = []
    for request, prompt in zip(requests, prompts, strict=True):
        asked = Segment(tokens=tuple(backbone.prompt_ids(request, [len(each) for each in shown])))
        rows.append([asked, *forced_segments(backbone, route, [prompt], parent=0)])
    layout = arrange(rows).to(backbone.device)
    every = [*shown] * len(rows)
    tokens_TC = torch.cat(every) if every else torch.empty(0, backbone.hidden_size, device=backbone.device)
    embeds_BLC = embed_layout(backbone, {route.spec.name: route}, layout, rows, tokens_TC)
    hidden_BLC = hidden_states(backbone, layout, embeds_BLC)
    read = [spans[-1] for spans in layout.spans]
    return torch.stack([hidden_BLC[span.row, state_columns(route.spec, span)] for span in read])


def _encoded_images(backbone: Backbone, data: Path) -> list[Tensor]:
    """Image tokens (T, C) of some backgrounds, one tile each."""
    archive = ImageArchive(data / "backgrounds_320.zip")
    names = [name for name in archive.names() if name.endswith(".webp") and "mask" not in name]
    chosen = names[:: max(1, len(names) // _IMAGES)][:_IMAGES]
    return [backbone.encode_image(archive.open(name).convert("RGB"), max_tiles=1).tokens_TC for name in chosen]


def _teach_mapper(
    route: Route,
    states_PNC: Tensor,
    samples: Sequence[Sample],
    taught: Any,
    training: DrawingTraining,
    on_step: OnStep | None,
) -> None:
    """Lowers the distance to the encoder's conditions, and in the last steps the decoder's whole loss."""
    decoder: Any = route.decoder
    decoder.network.requires_grad_(False)
    device = states_PNC.device
    with torch.no_grad():
        prompts = [sample.prompt for sample in samples]
        parts = [taught.encode(prompts[first : first + 256]) for first in range(0, len(prompts), 256)]
    conditions_PTD = torch.cat(parts)
    members = list(decoder.mapper.parameters())
    optimiser = torch.optim.AdamW(members, lr=training.rate, betas=(0.9, 0.98), weight_decay=0.01)
    draws = torch.Generator().manual_seed(0)
    size = min(training.batch, len(samples))
    for step in tqdm(range(training.steps), desc=f"mapper of {route.spec.token}", mininterval=5):
        chosen = torch.randint(len(samples), (size,), generator=draws)
        states_KNC, wanted_KTD = states_PNC[chosen.to(device)].float(), conditions_PTD[chosen.to(device)]
        with mixed_precision(device):
            if step < training.steps - training.noise_steps:
                loss = F.mse_loss(decoder.mapper(states_KNC).float(), wanted_KTD.float())
            else:
                targets = [
                    (wanted, samples[number]) for wanted, number in zip(wanted_KTD, chosen.tolist(), strict=True)
                ]
                loss = decoder.loss(states_KNC, range(size), None, targets)
        total = descend(
            optimiser,
            members,
            {"loss": loss},
            rate_share(step, training.steps),
            1.0,
            f"step {step} of {route.spec.token}",
        )
        if on_step is not None:
            on_step(route.spec.name, step + 1, total)
