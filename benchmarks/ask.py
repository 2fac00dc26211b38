"""Speed of asking, as ratios to transformers' own processor and `generate` within one run.

    python benchmarks/ask.py [--threads 2] [--model FOLDER] [--out FILE.json]

Without `--model` the model is a random InternVL of some 60 million parameters with the published tile size (448 px,
256 tokens a tile): answers mean nothing, times do. Both sides answer with the same number of tokens (end tokens are
forbidden), and what both sides wrote is compared. Prints a Markdown table that names the machine.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    GotOcr2ImageProcessorPil,
    InternVLConfig,
    InternVLForConditionalGeneration,
)

from vision_agent import GenerationOptions, VisionAgent
from vision_agent.model.backbone import Backbone, TilingSettings
from vision_agent.model.checkpoint import save_backbone
from vision_agent.model.prompt import IMAGE_CONTEXT, IMAGE_END, IMAGE_START
from vision_agent.train.new_model import train_tokenizer

TOKENS = 16
QUESTIONS = ["what is it?", "how many are there?", "what colour is the car?", "is there a dog on the grass?"]


class Transformers:
    """What a user writes without this package: image processor, chat template, `generate`.

    transformers' `InternVLProcessor` needs torchvision; the lines of it that put image tokens into the text are
    written out here, with its image processor for PIL.
    """

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.images = GotOcr2ImageProcessorPil.from_pretrained(folder)
        self.model = InternVLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()

    def answer(self, conversation: list[dict[str, object]], images: list[Image.Image], tokens: int) -> str:
        text = self.tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
        seen = self.images(images, return_tensors="pt")
        for tiles in seen["num_patches"].tolist():
            places = IMAGE_CONTEXT.replace("IMG", "PLACE") * (256 * int(tiles))
            text = text.replace(IMAGE_CONTEXT, f"{IMAGE_START}{places}{IMAGE_END}", 1)
        inputs = self.tokenizer(text.replace("PLACE_CONTEXT", "IMG_CONTEXT"), return_tensors="pt")
        ends = [int(self.tokenizer.eos_token_id)]
        settings = GenerationConfig(max_new_tokens=tokens, do_sample=False, suppress_tokens=ends, pad_token_id=0)
        with torch.inference_mode():
            ids = self.model.generate(**inputs, pixel_values=seen["pixel_values"], generation_config=settings)
        return str(self.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


def asked(question: str, images: int = 0) -> dict[str, object]:
    return {"role": "user", "content": [*[{"type": "image"}] * images, {"type": "text", "text": question}]}


def replied(text: str) -> dict[str, object]:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def random_checkpoint(folder: Path) -> Path:
    """Write a random InternVL with the published tile size, in the native format."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer([*QUESTIONS, "a dog and a cat on the grass, and a red car"] * 20, 1000)
    config = InternVLConfig(
        vision_config={
            "hidden_size": 384,
            "intermediate_size": 1536,
            "num_hidden_layers": 8,
            "num_attention_heads": 6,
            "image_size": [448, 448],
            "patch_size": [14, 14],
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(tokenizer),
            "hidden_size": 512,
            "intermediate_size": 2048,
            "num_hidden_layers": 12,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "max_position_embeddings": 8192,
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
        },
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_CONTEXT),
        image_seq_length=256,
        tie_word_embeddings=True,
    )
    model = InternVLForConditionalGeneration(config).eval()
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=0)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    save_backbone(Backbone(model, tokenizer, TilingSettings(448, mean, std), "bench"), folder, torch.float32)
    return folder


def seconds(call: Callable[[], object], repeats: int = 3, before: Callable[[], object] | None = None) -> float:
    """Measure the median wall time; `before` runs untimed each time."""
    times = []
    for _ in range(repeats):
        if before is not None:
            before()
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def image(seed: int, width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def ten_turns(agent: VisionAgent, image: Image.Image, options: GenerationOptions) -> None:
    chat = agent.chat(options=options)
    chat.ask(QUESTIONS[0], image)
    for turn in range(1, 10):
        chat.ask(QUESTIONS[turn % len(QUESTIONS)])


def ten_turns_of(peer: Transformers, image: Image.Image) -> None:
    rounds = [asked(QUESTIONS[0], 1)]
    for turn in range(10):
        text = peer.answer(rounds, [image], TOKENS)
        rounds += [replied(text), asked(QUESTIONS[(turn + 1) % len(QUESTIONS)])]


def measure(folder: Path) -> dict[str, float]:
    agent, peer = VisionAgent.from_pretrained(folder), Transformers(folder)
    backbone = agent.backbone
    # Neither side may end early: the tokens compared are the same in number.
    backbone.model.lm_head = _WithoutEnds(backbone.model.lm_head, backbone.end_ids)
    options = GenerationOptions(max_new_tokens=TOKENS, max_repeats=None)
    large = image(1, 1792, 1344)
    first, second = QUESTIONS[:2]

    ours, theirs = agent.ask(second, large, options=options).text, peer.answer([asked(second, 1)], [large], TOKENS)

    def fresh() -> None:
        agent.clear_cache()
        agent.ask(first, large, options=options)

    again = seconds(lambda: agent.ask(second, large, options=options), before=fresh)
    theirs_again = seconds(lambda: peer.answer([asked(second, 1)], [large], TOKENS))

    medium = image(2, 896, 896)
    chat = seconds(lambda: ten_turns(agent, medium, options), 1, before=agent.clear_cache)
    theirs_chat = seconds(lambda: ten_turns_of(peer, image(2, 896, 896)), 1)

    images = [image(10 + index, 448, 448) for index in range(8)]
    questions = [QUESTIONS[index % len(QUESTIONS)] for index in range(8)]
    long = GenerationOptions(max_new_tokens=64, max_repeats=None)
    batch = seconds(lambda: agent.ask(questions, list(images), options=long), before=agent.clear_cache)
    loop = seconds(
        lambda: [agent.ask(q, p, options=long) for q, p in zip(questions, images, strict=True)],
        before=agent.clear_cache,
    )

    # The bare call: everything is prepared, only the model runs.
    one = images[0]
    encoded = backbone.encode(first, one)
    bare_settings = GenerationConfig(max_new_tokens=64, do_sample=False, pad_token_id=0)
    ids = encoded.input_ids[None]

    def bare() -> None:
        with torch.inference_mode():
            backbone.model.generate(
                input_ids=ids,
                pixel_values=encoded.pixel_values,
                attention_mask=torch.ones_like(ids),
                generation_config=bare_settings,
            )

    asked_once = seconds(lambda: agent.ask(first, one, options=long), 5, before=agent.clear_cache)
    bare_once = seconds(bare, 5)
    return {
        "same text as transformers": float(ours == theirs.strip()),
        "second question on a 12-tile image s": again,
        "second question by transformers s": theirs_again,
        "transformers / ours, second question": theirs_again / again,
        "ten-turn chat s": chat,
        "ten-turn chat by transformers s": theirs_chat,
        "transformers / ours, ten-turn chat": theirs_chat / chat,
        "batch of 8 s": batch,
        "loop of 8 s": loop,
        "loop / batch": loop / batch,
        "ask s": asked_once,
        "bare generate s": bare_once,
        "ask / bare generate": asked_once / bare_once,
    }


class _WithoutEnds(torch.nn.Module):
    """A language-model head that never writes an end token."""

    def __init__(self, head: torch.nn.Module, ends: list[int]) -> None:
        super().__init__()
        self.head, self.ends = head, ends

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(hidden)
        logits[..., self.ends] = torch.finfo(logits.dtype).min  # finite: infinite scores are refused
        return logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or random_checkpoint(Path(folder) / "bench")
        figures = measure(model)
    print("| figure | value |\n|---|---|")
    print(f"| machine | {platform.machine()}, {options.threads} threads, torch {torch.__version__} |")
    for name, value in figures.items():
        print(f"| {name} | {value:.2f} |")
    if options.out is not None:
        options.out.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
