"""Trains `[DET]` or `[SEG]` on any frozen InternVL from annotated images, and measures what the route then does.

Unlike `finetuning`, which goes on from the adapters of the default, this begins with a fresh adapter: for a
checkpoint that has none. The model is frozen; what it sees of an image is kept on disk. It also learns to write the
token by itself: the token's row of the head is fitted to its states, and nothing else of the model changes.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from vision_agent.agent import VisionAgent
from vision_agent.data.annotations.annotated import AnnotatedImage, AnnotatedObject, AnnotationSet
from vision_agent.data.text.request_templates import ROUTED
from vision_agent.errors import InputError, RouteError, bad_argument, require_extra
from vision_agent.inference.nouns import with_article
from vision_agent.model.backbone import Backbone
from vision_agent.model.machine_memory import peak_memory
from vision_agent.plugins.decoder import BoxTargets, MaskTargets
from vision_agent.plugins.route import RouteSpec
from vision_agent.train.adapter_training import AdapterParts, AdapterSample, AdapterTraining, train_with
from vision_agent.train.seen_images import SeenImages
from vision_agent.train.token_writing import TokenPlaces, WrittenAnswer, answer_places, read_places

from ..mask.decoder import MaskDecoder, PreparedMasks
from .measuring import LEAST_SCORE, Find, NameFigures, expressions_found, mask_iou, measure
from .views import wordings

Kind = Literal["det", "seg"]
_DECODERS = {"det": "box", "seg": "mask"}
_MOST_NAMES = 12  # asked of one image
_TALKS = (
    "Describe the image.",
    "What is in the image?",
    "Is there a {}?",
    "What colour is the {}?",
    "How many {} are there?",
    "What is the {} doing?",
)
_ANSWER_TOKENS = 24  # of the answers that must stay as they are


class RouteTraining(BaseModel):
    """Settings of `train_route`.

    Attributes:
        steps, batch, rate, seed, save_minutes: see `AdapterTraining`.
        queries: of the route.
        writing: images on which the model learns to write the token by itself; 0 for none.
        prompts: keep the read prompts on disk as well.
        token: of the route; None for `[DET]` or `[SEG]`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(default=1000, ge=1)
    batch: int = Field(default=8, ge=1)
    rate: float = Field(default=1e-3, gt=0)
    queries: int = Field(default=4, ge=1)
    writing: int = Field(default=64, ge=0)
    prompts: bool = False
    token: str | None = Field(default=None, pattern=r"^\[[A-Z][A-Z0-9_]*\]$")
    seed: int = 0
    save_minutes: float = Field(default=5.0, gt=0)


class RouteReport(BaseModel):
    """What a training gave, on validation images.

    Attributes:
        adapter: its folder.
        figures: AP50 of the names; None for masks, and for expressions. mask_iou: of marked boxes; None for boxes.
        expressions: the share of expressions whose surest box has an IoU of 0.5 with the object that is meant; None for
            sets of names.
        written: the share of places after a phrase of a request, in words that were not learned from, at which the
            model writes the token by itself; None where it did not learn to.
        astray: the share of all other places at which it would write it.
        texts_same: the share of other answers that are the same, token by token, as before.
        seconds: of this call; step_seconds: of a step, the first ones left out. peak_bytes: the most memory.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    adapter: str
    figures: NameFigures | None = None
    mask_iou: float | None = None
    expressions: float | None = None
    written: float | None = None
    astray: float | None = None
    texts_same: float | None = None
    seconds: float
    step_seconds: float | None = None
    peak_bytes: int | None = None


def train_route(
    kind: Kind,
    agent: VisionAgent,
    annotations: AnnotationSet,
    out: str | Path,
    settings: RouteTraining | None = None,
    *,
    seen: str | Path | None = None,
    on_step: Callable[[int, float], None] | None = None,
    tell: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
) -> RouteReport:
    """Train a route of boxes or masks for a frozen checkpoint. The same call resumes a run that was stopped.

    Args:
        agent: the checkpoint; it has no such route. Afterwards it has the new one.
        annotations: see `read_annotations`; outlines are needed for masks.
        out: folder of the run; the adapter is in `adapters/det` or `adapters/seg`.
        settings: None for the usual ones.
        seen: folder of what the model sees of the images, which other runs on the same model may share; None for
            `seen` in `out`.
        tell: takes what goes on, a sentence at a time.

    Returns:
        figures on images that were not learned from.

    Raises:
        RouteError: the agent has the route already.
        InputError: no outline in the set, for masks; `out` is a file.
        ConfigError: `out` holds another run.
    """
    began, folder, settings = time.monotonic(), Path(out), settings or RouteTraining()
    if kind not in _DECODERS:
        raise InputError(bad_argument("kind", "'det' or 'seg'", kind))
    require_extra("faster_coco_eval", "train", "measuring boxes is")
    if folder.exists() and not folder.is_dir():
        raise InputError(bad_argument("out", "a folder, or a path to make one", str(out)))
    if kind == "seg" and not any(each.outlined for image in annotations.train for each in image.objects):
        raise InputError(bad_argument("data", "images with outlines of objects, to learn masks from", annotations.kind))
    token = settings.token or f"[{kind.upper()}]"
    spec = RouteSpec(token=token, decoder=_DECODERS[kind], num_queries=settings.queries, block="causal")
    if spec.name in agent.routes:
        raise RouteError(
            f"{agent.model!r} has the route {spec.name!r} already; `vision-agent finetune` goes on from it"
        )
    backbone = agent.backbone
    known = token in backbone.tokenizer.get_vocab()
    held = SeenImages(backbone, folder / "seen" if seen is None else Path(seen), prompts=settings.prompts)
    tell(f"{len(annotations.train)} images to learn from, {len(annotations.validation)} to measure by")
    requests = _Requests(kind, backbone, held, annotations, settings.seed)
    writes = settings.writing > 0 and not known
    if settings.writing and known:
        tell(f"{agent.model!r} has {token} in its vocabulary already: it writes it as it did")
    talks = requests.talks(annotations.validation[:4]) if writes else []
    before = [backbone.generate_ids(*each, max_new_tokens=_ANSWER_TOKENS) for each in talks]
    clock: list[float] = []

    def stepped(step: int, loss: float) -> None:
        clock.append(time.monotonic())
        if on_step is not None:
            on_step(step, loss)

    target = folder / "adapters" / spec.name
    places: list[TokenPlaces] = []

    def wanted(token_id: int) -> TokenPlaces:
        tell("reading where the token is to be written, and where it is not")
        places.append(read_places(backbone, requests.answers(annotations.train[: settings.writing], 0), token_id))
        return places[0]

    train_with(
        AdapterParts(
            seen=held,
            written=wanted if writes else None,
            keep_row=known,
            loss=_mask_and_box_loss if kind == "seg" else None,
        ),
        backbone,
        spec,
        lambda number: requests.sample(number),
        target,
        AdapterTraining(
            steps=settings.steps,
            batch=settings.batch,
            rate=settings.rate,
            seed=settings.seed,
            save_minutes=settings.save_minutes,
        ),
        on_step=stepped,
    )
    agent.load_adapter(target)
    tell(f"measuring {len(annotations.validation)} validation images")
    shares: tuple[float | None, float | None] = (None, None)
    same: float | None = None
    if writes:
        token_id = agent.routes[spec.name].token_id
        row_C = backbone.model.get_output_embeddings().weight[token_id].detach().float().cpu()
        others = read_places(backbone, requests.answers(annotations.validation[:32], 1), token_id)
        shares = others.shares(row_C)
        after = [backbone.generate_ids(*each, max_new_tokens=_ANSWER_TOKENS) for each in talks]
        same = float(np.mean([one == other for one, other in zip(before, after, strict=True)])) if before else None
    report = RouteReport(
        adapter=str(target),
        figures=_boxes_found(agent, spec.name, annotations)
        if kind == "det" and not annotations.by_expressions
        else None,
        expressions=expressions_found(_finding(agent, spec.name), annotations.validation)
        if kind == "det" and annotations.by_expressions
        else None,
        mask_iou=mask_iou(agent, annotations.validation) if kind == "seg" and spec.name == "seg" else None,
        written=shares[0],
        astray=shares[1],
        texts_same=same,
        seconds=round(time.monotonic() - began, 1),
        step_seconds=round(float(np.median(np.diff(clock))), 3) if len(clock) > 2 else None,
        peak_bytes=peak_memory(),
    )
    (folder / "report.json").write_text(report.model_dump_json(indent=2) + "\n", "utf-8")
    return report


class _Requests:
    """Samples of a set for one route, by number; requests and answers about its images."""

    def __init__(self, kind: Kind, backbone: Backbone, held: SeenImages, annotations: AnnotationSet, seed: int) -> None:
        self._kind, self._backbone, self._held, self._seed = kind, backbone, held, seed
        self._images, self._names = annotations.train, annotations.names
        self._by_expressions = annotations.by_expressions
        self._grammar = ROUTED[kind]

    def sample(self, number: int) -> AdapterSample:
        """Every image once a round, asked for the names that it has and for some others."""
        turn, place = divmod(number, len(self._images))
        order = np.random.default_rng((self._seed, turn)).permutation(len(self._images))
        annotated, rng = self._images[int(order[place])], np.random.default_rng((self._seed, 1, number))
        present = sorted({name for each in annotated.objects for name in each.names})
        # What an expression means in another image was never said: it may be there or not.
        absent = [] if self._by_expressions else [name for name in self._names if name not in present]
        rng.shuffle(present)
        rng.shuffle(absent)
        asked = [*present, *absent][: max(_MOST_NAMES, min(len(present), 2 * _MOST_NAMES))]
        phrases = []
        for name in asked:
            others = wordings(name)
            plain = self._by_expressions or rng.random() < 0.75
            phrases.append(others[0] if plain else others[rng.integers(1, len(others))])
        boxes = _box_targets(annotated, asked)
        target = boxes if self._kind == "det" else (boxes, _mask_targets(annotated, asked))
        return AdapterSample(annotated.load(), tuple(phrases), target, key=_key(annotated))

    def answers(self, images: Sequence[AnnotatedImage], part: int) -> Iterator[WrittenAnswer]:
        """Beginnings of answers to requests for the route, which the token follows, and other answers.

        Args:
            part: of the words; a part has others than the next.
        """
        rng = np.random.default_rng((self._seed, 2, part))
        for annotated in images:
            names = sorted({name for each in annotated.objects for name in each.names})
            if not names:
                continue
            tokens_TC = self._held.see(annotated.load(), _key(annotated)).tokens_TC
            for name in rng.permutation(names)[:2].tolist():
                plain = wordings(name)[0]
                prompt = self._prompt(self._grammar.make(plain, rng), tokens_TC)
                said = (plain, f"the {plain}", with_article(plain), plain.capitalize())[int(rng.integers(4))]
                yield answer_places(prompt, self._backbone.text_ids(said), tokens_TC, wanted=True)
            talk = _TALKS[int(rng.integers(len(_TALKS)))].format(wordings(names[0])[0])
            prompt = self._prompt(talk, tokens_TC)
            yield answer_places(prompt, self._written(prompt, annotated), tokens_TC, wanted=False)

    def talks(self, images: Sequence[AnnotatedImage]) -> list[tuple[Tensor, Tensor]]:
        """Prompts that ask for no route, with the tiles of their images."""
        found = []
        for annotated in images:
            name = annotated.objects[0].name if annotated.objects else "dog"
            image = annotated.load()
            for talk in _TALKS:
                encoded = self._backbone.encode(talk.format(wordings(name)[0]), image)
                assert encoded.pixel_values is not None  # there is an image
                found.append((encoded.input_ids, encoded.pixel_values))
        return found

    def _prompt(self, request: str, tokens_TC: Tensor) -> list[int]:
        return self._backbone.prompt_ids(request, [len(tokens_TC)])

    def _written(self, prompt: list[int], annotated: AnnotatedImage) -> list[int]:
        """The model's own answer, which shall stay as it is."""
        image = annotated.load()
        grid = self._backbone.grid_for(*image.size)
        ids = torch.tensor(prompt)
        said = self._backbone.generate_ids(ids, self._backbone.tiles(image, grid), max_new_tokens=_ANSWER_TOKENS)
        image_id = self._backbone.model.config.image_token_id  # of which an answer has none, but for a model of noise
        return said[: said.index(image_id)] if image_id in said else said


def _mask_and_box_loss(
    decoder: MaskDecoder,
    states_KNC: Tensor,
    rows_K: Sequence[int],
    prepared: PreparedMasks,
    targets: Sequence[tuple[BoxTargets, MaskTargets]],
) -> Tensor:
    """A fresh mask decoder learns to find as well: its finder is a box decoder."""
    found = decoder.finder.loss(states_KNC, rows_K, prepared.boxes, [boxes for boxes, _ in targets])
    return found + decoder.loss(states_KNC, rows_K, prepared, [masks for _, masks in targets])


def _box_targets(annotated: AnnotatedImage, asked: Sequence[str]) -> BoxTargets:
    objects = [each for each in annotated.objects if not each.crowd]
    crowds = [each for each in annotated.objects if each.crowd and _asked_as(each, asked) >= 0]
    belongs = np.array([[name in each.names for each in objects] for name in asked], dtype=np.bool_)
    return BoxTargets(
        boxes_G4=_unit_boxes([each.xyxy for each in objects], annotated.size),
        belongs_KG=torch.from_numpy(belongs.reshape(len(asked), len(objects))),
        ignored_M4=_unit_boxes([each.xyxy for each in crowds], annotated.size),
        ignored_phrase_M=torch.tensor([_asked_as(each, asked) for each in crowds], dtype=torch.long),
    )


def _mask_targets(annotated: AnnotatedImage, asked: Sequence[str]) -> MaskTargets:
    objects = [each for each in annotated.objects if each.outlined and not each.crowd]
    masks = [cast(Any, each.mask(annotated.size)) for each in objects]
    return MaskTargets(
        boxes_G4=_unit_boxes([each.xyxy for each in objects], annotated.size),
        masks_GHW=torch.from_numpy(np.stack(masks)) if masks else torch.zeros(0, 1, 1, dtype=torch.bool),
        phrase_G=torch.tensor([_asked_as(each, asked) for each in objects]).long(),
    )


def _asked_as(annotated: AnnotatedObject, asked: Sequence[str]) -> int:
    """The place of an object's first name among those that are asked for; -1 where none is."""
    return next((asked.index(name) for name in annotated.names if name in asked), -1)


def _unit_boxes(boxes: Sequence[tuple[float, ...]], size: tuple[int, int]) -> Tensor:
    scaled = np.array(boxes, dtype=np.float32).reshape(-1, 4) / np.array([*size, *size], dtype=np.float32)
    return torch.from_numpy(scaled)


def _key(annotated: AnnotatedImage) -> str:
    """Names an image by where it is, when it was written, and its size."""
    source = annotated.source
    if isinstance(source, bytes):
        return json.dumps([annotated.file, len(source), annotated.size])
    stat = source.stat()
    return json.dumps([str(source.resolve()), stat.st_mtime_ns, stat.st_size])


def _boxes_found(agent: VisionAgent, name: str, annotations: AnnotationSet) -> NameFigures:
    usual = float(agent.routes[name].decoder.settings["threshold"])
    return measure(_finding(agent, name), annotations.validation, annotations.names, usual)


def _finding(agent: VisionAgent, name: str) -> Find:
    def find(image: Any, phrases: list[str]) -> Any:
        return agent.run_route(name, phrases, image, threshold=LEAST_SCORE)

    return find
