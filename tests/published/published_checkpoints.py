"""Tiny checkpoints that say in their settings what the published ones say; see README.md for where each fact is from.

Sizes are shrunk (layers, widths, vocabulary, and with it the ids of tokens); tiles, patches, templates, special tokens
and everything else stay as published. Weights are random.
"""

import json
from pathlib import Path
from typing import Any

import original_format as official
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import InternVLConfig, InternVLForConditionalGeneration

SETTINGS = Path(__file__).parent / "settings"
ORIGINAL = (
    "InternVL2-1B",
    "InternVL2-2B",
    "InternVL2-8B",
    "InternVL2-26B",
    "InternVL2_5-2B",
    "InternVL3-1B",
    "InternVL3-2B",
    "InternVL3_5-8B",
    "InternVL3_5-30B-A3B",
    "InternVL3_5-GPT-OSS-20B-A4B-Preview",
)
NATIVE = (
    "InternVL2_5-2B-MPO-hf",
    "InternVL3-2B-hf",
    "InternVL3-2B-hf-saved-by-transformers-5",
    "InternVL3-38B-hf",
    "InternVL3_5-8B-HF",
    "InternVL3_5-30B-A3B-HF",
    "InternVL3_5-GPT-OSS-20B-A4B-Preview-HF",
)
UNSUPPORTED = (
    "InternVL-Chat-V1-5-Int8",
    "InternVL2-8B-AWQ",
    "Mono-InternVL-2B",
)
# Ids of the first added token, as published, by the language model's tokenizer.
_FIRST_ADDED = {"Qwen2Tokenizer": 151643, "LlamaTokenizer": 92538, "PreTrainedTokenizerFast": 199998}

Files = dict[str, Any]


def published(name: str) -> Files:
    """The settings files of a published checkpoint, by file name."""
    files: Files = json.loads((SETTINGS / f"{name}.json").read_text("utf-8"))
    return files


def write_published(name: str, folder: Path) -> Path:
    """A tiny checkpoint with the settings of the published one. Returns its folder."""
    folder = folder / name
    folder.mkdir()
    files = published(name)
    if name in NATIVE:
        _write_native(folder, files)
    elif name in ORIGINAL:
        _write_original(folder, files)
    for file, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content, indent=2, ensure_ascii=False)
        (folder / file).write_text(text, "utf-8")
    return folder


def _shrink(language: Files, vision: Files) -> None:
    language |= {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2}
    language |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    if "head_dim" in language:
        language["head_dim"] = 8
    if "num_local_experts" in language:
        # GPT-OSS's window stays as published.
        language |= {"num_local_experts": 4, "num_experts_per_tok": 2, "layer_types": language["layer_types"][:2]}
    if "num_experts" in language:
        language |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    vision |= {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}


# The original format ----------------------------------------------------------------------------------------------


def _write_original(folder: Path, files: Files) -> None:
    content = files["config.json"]
    language = content["llm_config"]
    family = {"Qwen2": "qwen2", "Qwen3": "qwen3", "Qwen3Moe": "qwen3", "InternLM2": "internlm2"}
    family |= {"GptOss": "gpt_oss"}
    rows = official.write_tokenizer(folder, family[language["architectures"][0].removesuffix("ForCausalLM")])
    _shrink(language, content["vision_config"])
    language["vocab_size"] = rows
    _shift_ids(language, rows - 200028, 199998)  # those of GPT-OSS
    official.write_original(folder, content, official.tiny_state(content))


# The native format ------------------------------------------------------------------------------------------------


def _write_native(folder: Path, files: Files) -> None:
    content, tokens = files["config.json"], files["tokenizer_config.json"]
    first = _FIRST_ADDED[tokens["tokenizer_class"]]
    writers = {"Qwen2Tokenizer": _write_qwen2, "LlamaTokenizer": _write_llama}
    shift = writers.get(tokens["tokenizer_class"], _write_harmony)(folder, tokens, first) - first
    language = content["text_config"]
    _shrink(language, content["vision_config"])
    language["vocab_size"] += shift
    content["image_token_id"] += shift
    for file in ("config.json", "generation_config.json"):
        _shift_ids(files.get(file, {}).get("text_config", files.get(file, {})), shift, first)
    config = InternVLConfig.from_dict(content)
    config.tie_word_embeddings = False
    torch.manual_seed(0)
    model = InternVLForConditionalGeneration._from_config(config)
    for parameter in model.parameters():
        parameter.data = parameter.data * 3 + torch.randn_like(parameter) * 0.02
    model.save_pretrained(folder)


def _shift_ids(part: Files, shift: int, first: int) -> None:
    for role in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if isinstance(part.get(role), int) and part[role] >= first:
            part[role] += shift


def _write_harmony(folder: Path, tokens: Files, first: int) -> int:
    """Tokenizer files with a tiny vocabulary. Returns the id of the first added token."""
    size = len(official._byte_pairs()[0])
    tokens["added_tokens_decoder"] = {str(int(i) + size - first): t for i, t in tokens["added_tokens_decoder"].items()}
    official.harmony_pipeline(tokens["added_tokens_decoder"]).save(str(folder / "tokenizer.json"))
    return size


def _write_qwen2(folder: Path, tokens: Files, first: int) -> int:
    """Tokenizer files with a tiny vocabulary. Returns the id of the first added token."""
    vocabulary, merges = official._byte_pairs()
    shift = len(vocabulary) - first
    tokens["added_tokens_decoder"] = {str(int(i) + shift): t for i, t in tokens["added_tokens_decoder"].items()}
    numbered = {token: index for index, token in enumerate(vocabulary)}
    (folder / "vocab.json").write_text(json.dumps(numbered, ensure_ascii=False), "utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")
    pipeline = Tokenizer(models.BPE(vocab=numbered, merges=merges))
    pipeline.normalizer = normalizers.NFC()
    pipeline.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(official._WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    pipeline.decoder = decoders.ByteLevel()
    _add(pipeline, tokens)
    pipeline.save(str(folder / "tokenizer.json"))
    return len(vocabulary)


def _write_llama(folder: Path, tokens: Files, first: int) -> int:
    """As the conversion made it: sentencepiece's vocabulary as a fast pipeline that puts no space before text."""
    processor = official.sentencepiece.SentencePieceProcessor(model_proto=official._sentencepiece(560, False, False, 0))
    size = processor.get_piece_size()
    shift = size - first
    tokens["added_tokens_decoder"] = {
        str(int(i) + shift if int(i) >= first else int(i)): t for i, t in tokens["added_tokens_decoder"].items()
    }
    pieces = {processor.id_to_piece(index): index for index in range(size)}
    scores = {piece: processor.get_score(index) for piece, index in pieces.items()}
    ranked = sorted(
        (-scores[text], pieces[text], cut, text)
        for text, index in pieces.items()
        if index > 2 and not processor.is_byte(index)
        for cut in range(1, len(text))
        if text[:cut] in pieces and text[cut:] in pieces
    )
    merges = [(text[:cut], text[cut:]) for _, _, cut, text in ranked]
    pipeline = Tokenizer(models.BPE(vocab=pieces, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    pipeline.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never", split=False)
    pipeline.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    _add(pipeline, tokens)
    pipeline.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    pipeline.save(str(folder / "tokenizer.json"))
    return size


def _add(pipeline: Tokenizer, tokens: Files) -> None:
    ordered = sorted(tokens["added_tokens_decoder"].items(), key=lambda item: int(item[0]))
    pipeline.add_tokens([AddedToken(t["content"], normalized=False, special=t["special"]) for _, t in ordered])
