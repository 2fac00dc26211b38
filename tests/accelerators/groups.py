"""What is compared: verbs of the shipped model, of tiny checkpoints, and a few steps of training.

Imported after the pretended device was installed, for modules look at torch when they are imported.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import original_format
import sa2va_format
import test_sam
import test_train
import test_train_generator
import test_train_masks
import torch
from conftest import PHOTOS, tiny_backbone
from PIL import Image
from safetensors.torch import load_file
from scenarios import Scenario
from test_int8_loading import PeakBytes

from vision_agent import VisionAgent
from vision_agent.decoders.image.mapper_training import EDIT, GENERATE, DrawingTraining, train_drawing
from vision_agent.decoders.image.training import train_generator
from vision_agent.decoders.mask.training import MaskTraining, train_masks
from vision_agent.decoders.sam import SamSegmenter
from vision_agent.generation.options import GenerationOptions
from vision_agent.model import load_options
from vision_agent.model.checkpoint import DEFAULT_CHECKPOINT, load_backbone, save_backbone
from vision_agent.model.original import sa2va_sam2
from vision_agent.plugins.decoder import BoxTargets
from vision_agent.plugins.route import RouteSpec
from vision_agent.routing.adapter import new_route, save_adapter
from vision_agent.train import loop
from vision_agent.train.adapter_training import AdapterSample, AdapterTraining, train_adapter
from vision_agent.train.trainer import train

SHORT = GenerationOptions(max_new_tokens=6)
NAMES = ("dog", "person", "car", "bus", "bottle", "chair", "cup", "horse", "skateboard", "tree")
DOG = {"type": "object", "properties": {"dog": {"type": "boolean"}}, "required": ["dog"]}


def split(layers: int) -> dict[str, str]:
    """A device map that puts the tables, the layers and the head on devices of their own in turn."""
    places = {
        "model.vision_tower": "pretend:1",
        "model.multi_modal_projector": "pretend:0",
        "model.language_model.embed_tokens": "pretend:0",
        "model.language_model.norm": "pretend:1",
        "model.language_model.rotary_emb": "pretend:1",
        "lm_head": "pretend:1",
    }
    for layer in range(layers):
        places[f"model.language_model.layers.{layer}"] = f"pretend:{int(layer >= layers // 2)}"
    return places


def small(path: Path, size: tuple[int, int]) -> Image.Image:
    return Image.open(path).convert("RGB").resize(size, Image.Resampling.BICUBIC)


def noise(seed: int, size: tuple[int, int]) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def default(two: bool, folder: Path) -> list[Scenario]:
    """Every verb of the shipped model."""
    cpu = VisionAgent(device="cpu")
    layers = cpu.backbone.model.config.text_config.num_hidden_layers
    device = VisionAgent(device_map=split(layers)) if two else VisionAgent(device="pretend")
    dog, skater = small(PHOTOS / "000000139872.jpg", (320, 240)), small(PHOTOS / "000000140203.jpg", (240, 320))
    mask = np.zeros((128, 128), dtype=np.bool_)
    mask[:, :64] = True

    def stream(agent: VisionAgent) -> Any:
        return list(agent.ask("what colour is the dog?", dog, stream=True, options=SHORT))

    def chat(agent: VisionAgent) -> Any:
        talk = agent.chat(options=SHORT)
        return [talk.ask("what is this?", dog), talk.ask("and this?", skater)]

    def adapter(agent: VisionAgent) -> Any:
        name = agent.load_adapter(DEFAULT_CHECKPOINT / "adapters" / "det")
        return name, agent.run_route(name, ["dog", "frisbee"], dog)

    verbs: dict[str, Callable[[VisionAgent], Any]] = {
        "detect": lambda agent: agent.detect("dog", dog),
        "detect, phrases and images": lambda agent: agent.detect(["dog", "person"], [dog, skater]),
        "segment": lambda agent: agent.segment("dog", dog),
        "segment, boxes": lambda agent: agent.segment(image=dog, boxes=[[60, 30, 240, 220]]),
        "segment, points": lambda agent: agent.segment(image=dog, points=[[140, 120]]),
        "point": lambda agent: agent.point("dog", dog),
        "count": lambda agent: agent.count("dog", dog),
        "run_route": lambda agent: agent.run_route("seg", "dog", dog),
        "run_route, many phrases": lambda agent: agent.run_route("det", [*NAMES, *map("red {}".format, NAMES)], skater),
        "caption": lambda agent: agent.caption(dog),
        "ask": lambda agent: agent.ask("what colour is the dog?", dog),
        "ask, plain": lambda agent: agent.ask("what does he do?", skater, options=SHORT),
        "ask, sampled": lambda agent: agent.ask(
            "what does he do?", skater, options=GenerationOptions(do_sample=True, seed=3, max_new_tokens=6, top_k=50)
        ),
        "ask, beams": lambda agent: agent.ask(
            "what does he do?", skater, options=GenerationOptions(num_beams=2, max_new_tokens=4)
        ),
        "ask, choices": lambda agent: agent.ask("what animal is it?", dog, choices=["cat", "dog"]),
        "ask, schema": lambda agent: agent.ask("is there a dog?", dog, schema=DOG),
        "ask, batch": lambda agent: agent.ask(["what is it?", "who is that on it?"], [dog, skater], options=SHORT),
        "stream": stream,
        "chat": chat,
        "run": lambda agent: agent.run("find the dog and crop it", dog).text,
        "generate": lambda agent: agent.generate("a red car", seed=1, steps=2).image,
        "edit": lambda agent: agent.edit("make it blue", dog.resize((128, 128)), mask=mask, seed=1, steps=2).image,
        "load_adapter": adapter,
    }
    return [(name, lambda there, verb=verb: verb(device if there else cpu)) for name, verb in verbs.items()]


def tiny(two: bool, folder: Path) -> list[Scenario]:
    """Routes that the shipped model does not have: grounding in words, Segment Anything, Sa2VA."""
    save_backbone(tiny_backbone(), folder / "tiny", torch.float32)
    place: dict[str, Any] = {"device_map": split(3)} if two else {"device": "auto"}
    cpu = VisionAgent.from_pretrained(folder / "tiny", device="cpu")
    device = VisionAgent.from_pretrained(folder / "tiny", **place)
    test_sam.tiny_model("sam2").save_pretrained(folder / "sam2")
    sam = {
        there: SamSegmenter.from_pretrained(folder / "sam2", device="pretend:1" if there else "cpu")
        for there in (False, True)
    }
    sa2va_sam2.sam2_config = sa2va_format.tiny_sam2_config
    sa2va_format.write_sa2va(folder / "sa2va", "qwen2", ["\n", "S", "[SEG]", ".", "<|im_end|>"])
    sa2va = {
        there: VisionAgent.from_pretrained(folder / "sa2va", device="pretend:1" if there else "cpu")
        for there in (False, True)
    }
    image, clip = noise(0, (96, 64)), [noise(number // 2, (70, 40)) for number in range(4)]

    def of(there: bool) -> VisionAgent:
        return device if there else cpu

    def by_sam(there: bool) -> Any:
        agent = VisionAgent.from_pretrained(folder / "tiny", **(place if there else {"device": "cpu"}))
        spec = RouteSpec(token="[SEG]", decoder="sam", num_queries=2)
        if not there:
            torch.manual_seed(1)
            route = new_route(agent.backbone, spec, torch.Generator().manual_seed(0), checkpoint=folder / "sam2")
            save_adapter(folder / "seg", route, agent.backbone, torch.float32)
        agent.load_adapter(folder / "seg")
        return agent.segment(["a dog", "grass"], image)

    # Two tables of 3 MB, beside which the rest is small.
    original_format.write_folder(folder / "original", "internlm2", llm_config__vocab_size=24000)

    # A CPU may pack int8 weights, and rounds the scores of tokens then, too; what is compared is not packed.
    load_options.packs_here = lambda: False

    def original(there: bool, **settings: Any) -> Any:
        at = (
            ({"device_map": split(2)} if two and not settings else {"device": "pretend:1"})
            if there
            else {"device": "cpu"}
        )
        with PeakBytes() as held:
            agent = VisionAgent.from_pretrained(folder / "original", **at, **settings)
        sizes = [tensor.nbytes for tensor in agent.backbone.model.state_dict().values()]
        # The host has one tensor at a time, of a device's model of two tables and more.
        assert not there or held.most < 1.02 * max(sizes) < 0.51 * sum(sizes), (held.most, max(sizes), sum(sizes))
        return agent.ask("what is it?", image, options=SHORT)

    original_format.write_folder(folder / "gpt-oss", "gpt_oss", shards=2)

    def gpt_oss(there: bool, **settings: Any) -> Any:
        """Sinks, windows and joined experts; the experts are on the devices of their layers."""
        at = (
            ({"device_map": split(4)} if two and not settings else {"device": "pretend:1"})
            if there
            else {"device": "cpu"}
        )
        agent = VisionAgent.from_pretrained(folder / "gpt-oss", **at, **settings)
        return agent.ask(["what is it?", "where?"], [image, noise(1, (64, 96))], options=SHORT)

    return [
        ("GPT-OSS", gpt_oss),
        ("GPT-OSS, int8", lambda there: gpt_oss(there, quantization="int8")),
        ("original", original),
        ("original, int8", lambda there: original(there, quantization="int8")),
        ("grounding", lambda there: of(there).detect(["red car", "dog"], image)),
        ("tiny ask", lambda there: of(there).ask("where is it?", image, options=SHORT)),
        ("SAM, box and point", lambda there: sam[there].segment(image, boxes=[[9, 9, 60, 50]], points=[[30, 30]])),
        ("segment, segmenter", lambda there: of(there).segment("dog", image, segmenter=sam[there])),
        ("SAM route", by_sam),
        ("Sa2VA", lambda there: sa2va[there].segment(["dog", "red car"], image)),
        ("Sa2VA, run", lambda there: sa2va[there].run("segment the dog", image)),
        ("segment_video", lambda there: sa2va[there].segment_video(["dog", "red car"], clip)),
    ]


def training(two: bool, folder: Path) -> list[Scenario]:
    """A few steps of every training; where two devices are wanted, those that take a loaded model.

    torch's autograd knows a single device of a backend in Python, so the language model is on one and the tower on
    the other.
    """
    # A CPU may train in bf16, by its own measure; what is compared is computed in fp32 on both.
    loop.bfloat16_pays = lambda device: False
    (folder / "archives").mkdir()
    (folder / "shapes").mkdir()
    archives = test_train.write_archives(folder / "archives")
    save_backbone(tiny_backbone(), folder / "tiny", torch.float32)
    apart = {"": "pretend:0", "model.vision_tower": "pretend:1"}
    place: dict[str, Any] = {"device_map": apart} if two else {"device": "pretend"}

    def loaded(there: bool) -> Any:
        return load_backbone(folder / "tiny", **(place if there else {"device": "cpu"}))

    def out(there: bool, name: str) -> Path:
        return folder / f"{name}-{'there' if there else 'here'}"

    def default_model(there: bool) -> Any:
        model = train(test_train.recipe(), archives, out(there, "default"), "pretend" if there else "cpu")
        return load_file(model / "model.safetensors"), load_file(model / "adapters/det/adapter.safetensors")

    def masks(there: bool) -> Any:
        data, model = folder / "clothes", folder / "masks-model"
        if not there:
            test_train_masks.write_data(archives, data)
            test_train_masks.write_model(model)
        settings = MaskTraining(**test_train_masks.SHORT, workers=0)
        run = train_masks(model, data, out(there, "masks"), settings, device="pretend" if there else "cpu")
        return load_file(run / "adapter.safetensors")

    def drawing(there: bool) -> Any:
        if not there:
            test_train_generator.write_data(folder / "shapes")
        config, shapes = test_train_generator.config(), folder / "shapes"
        generator = train_generator(config, shapes, out(there, "generator"), "pretend" if there else "cpu")
        specs = [spec.model_copy(update={"num_queries": 4}) for spec in (GENERATE, EDIT)]
        length = DrawingTraining(prompts=8, steps=2, noise_steps=1, batch=2)
        folders = train_drawing(loaded(there), generator, shapes, out(there, "drawing"), config, length, routes=specs)
        return [load_file(each / "adapter.safetensors") for each in folders]

    scenarios: list[Scenario] = [("train_adapter", lambda there: adapter(loaded(there), out(there, "adapter")))]
    scenarios.append(("train_drawing", drawing))
    return scenarios if two else [*scenarios, ("train", default_model), ("train_masks", masks)]


def adapter(backbone: Any, out: Path) -> Any:
    """Train a `[DET]` route of its own for three steps; returns its tensors."""

    def draw(number: int) -> AdapterSample:
        boxes = torch.tensor([[0.1, 0.2, 0.5, 0.6]]) + 0.1 * (number % 3)
        size = ((56, 56), (120, 56))[number % 2]
        target = BoxTargets(boxes, torch.tensor([[True], [False]]), torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
        return AdapterSample(noise(number, size), ("a dog", "the car"), target)

    spec = RouteSpec(token="[BOX]", decoder="box", num_queries=2)
    folder = train_adapter(backbone, spec, draw, out, AdapterTraining(steps=3, batch=2))
    return load_file(folder / "adapter.safetensors")
