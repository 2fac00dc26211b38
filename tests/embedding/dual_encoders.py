"""Random CLIP, SigLIP and SigLIP 2 checkpoints, tiny, in the very files that published ones have."""

import io
import string
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from PIL import Image
from transformers import (
    AutoModel,
    AutoProcessor,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    Siglip2Processor,
    Siglip2Tokenizer,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipProcessor,
    SiglipTokenizer,
)

KINDS = ("clip", "siglip", "siglip2")
SENTENCES = ["a photo of a red car.", "a dog and a cat on the grass", "the quick brown fox", "pack my box with jugs"]
_SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}


def _clip() -> tuple[Any, Any]:
    letters = [*string.ascii_lowercase, ".", ","]
    tokens = [*letters, *(f"{each}</w>" for each in letters), "ca", "car</w>", "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[("c", "a"), ("ca", "r</w>")], model_max_length=60)
    text = {
        "vocab_size": len(vocabulary),
        "max_position_embeddings": 60,
        "bos_token_id": vocabulary["<|startoftext|>"],
        "eos_token_id": vocabulary["<|endoftext|>"],
        "projection_dim": 24,
    }
    vision = {"image_size": 32, "patch_size": 8, "projection_dim": 24}
    config = CLIPConfig(text_config=_SMALL | text, vision_config=_SMALL | vision, projection_dim=24)
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return CLIPModel(config), CLIPProcessor(images, tokenizer)


def _siglip(folder: Path) -> tuple[Any, Any]:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 20),
        model_writer=model,
        vocab_size=36,
        bos_id=-1,
        pad_id=-1,
        eos_id=1,
        unk_id=2,
        user_defined_symbols=["<pad>"],
        minloglevel=2,
    )
    folder.mkdir()
    (folder / "spiece.model").write_bytes(model.getvalue())
    tokenizer = SiglipTokenizer(str(folder / "spiece.model"), model_max_length=60, do_lower_case=True)
    text = {"vocab_size": 64, "max_position_embeddings": 60, "projection_size": 32}
    config = SiglipConfig(text_config=_SMALL | text, vision_config=_SMALL | {"image_size": 32, "patch_size": 8})
    images = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    return SiglipModel(config), SiglipProcessor(images, tokenizer)


def _siglip2() -> tuple[Any, Any]:
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    tokens += string.ascii_lowercase
    tokenizer = Siglip2Tokenizer(vocab={token: number for number, token in enumerate(tokens)}, model_max_length=64)
    text = {"vocab_size": len(tokens), "max_position_embeddings": 64, "projection_size": 32}
    vision = {"num_patches": 256, "patch_size": 16}
    config = Siglip2Config(text_config=_SMALL | text, vision_config=_SMALL | vision)
    images = Siglip2ImageProcessorPil()
    return Siglip2Model(config), Siglip2Processor(images, tokenizer)


def make_dual_encoder(kind: str, folder: Path, seed: int = 0) -> Path:
    """Save a random checkpoint of a kind, with its processor, and return its folder."""
    torch.manual_seed(seed)
    model, processor = {"clip": _clip, "siglip": lambda: _siglip(folder), "siglip2": _siglip2}[kind]()
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2 and "position" not in name:
            parameter.data.mul_(4)  # else the vectors of a random model are nearly alike
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def published_way(
    folder: Path, images: list[Image.Image], texts: list[str]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Image vectors, text vectors and `logits_per_image`, as transformers' own pages compute them."""
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    padding = True if model.config.model_type == "clip" else "max_length"
    inputs = processor(text=texts, images=images, padding=padding, return_tensors="pt")
    with torch.no_grad():
        output = model(**inputs)
    return output.image_embeds, output.text_embeds, output.logits_per_image
