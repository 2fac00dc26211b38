"""Folders in InternVL's original format: weights, tokenizers, settings, conversion, and damage of every kind."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import original_format as official
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, InternVLForConditionalGeneration

from vision_agent.cli.describe import describe
from vision_agent.errors import CheckpointError
from vision_agent.model.chat_templates import OFFICIAL_TEMPLATES
from vision_agent.model.checkpoint import load_backbone
from vision_agent.model.original import (
    OriginalCheckpoint,
    convert,
    is_original,
    load_original,
    native_config,
    read_settings,
)
from vision_agent.model.original.configuration import language_architecture
from vision_agent.model.original.sentencepiece_file import read_sentencepiece
from vision_agent.model.original.tokenizers import load_tokenizer
from vision_agent.model.original.weights import empty_original, load_weights
from vision_agent.model.weight_files import open_weights

FAMILIES = ["qwen2", "internlm2", "llama", "yi", "phi3"]
PLACES = "<IMG_CONTEXT>" * 4
IMAGE_TOKEN = 550


def load(folder: Path, dtype: torch.dtype = torch.float32) -> OriginalCheckpoint:
    content = json.loads((folder / "config.json").read_text("utf-8"))
    return load_original(folder, content, dtype=dtype, attn_implementation="sdpa")


@torch.inference_mode()
def native_logits(model: Any, ids: list[int], pixel_values: torch.Tensor | None) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=torch.tensor([ids]), pixel_values=pixel_values).logits[0]
    return logits


def load_model(folder: Path, content: Any, state: Any) -> Any:
    """The model alone, for settings that need no tokenizer."""
    official.write_original(folder, content, state)
    config = native_config(content, image_token_id=IMAGE_TOKEN)
    model = empty_original(config, dtype=torch.float32, attn_implementation="sdpa")
    load_weights(model, open_weights(folder), language_architecture(content))
    return model


def random_prompt(length: int, places: int) -> list[int]:
    ids = torch.randint(0, 500, (length,), generator=torch.Generator().manual_seed(2)).tolist()
    ids[2 : 2 + places] = [IMAGE_TOKEN] * places
    return ids


# Weights -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vision", ["300m", "6b"])
@pytest.mark.parametrize("family", [*FAMILIES, "qwen3", "qwen3_moe", "gpt_oss"])
def test_logits_of_each_family_with_each_tower(tmp_path: Path, family: str, vision: str) -> None:
    content, state = official.write_folder(tmp_path, family, vision, shards=2 if vision == "6b" else 1)
    loaded = load(tmp_path)
    prompt = loaded.template.render([(f"<img>{PLACES * 2}</img>\nWhat is it?", None)])
    ids = loaded.tokenizer(prompt)["input_ids"]
    image = official.random_tiles(2)
    expected = official.reference_logits(state, content, ids, image, loaded.model.config.image_token_id)
    assert expected.std() > 1  # flat logits would agree with anything
    torch.testing.assert_close(native_logits(loaded.model, ids, image), expected, atol=1e-4, rtol=0)
    assert not loaded.model.training


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("qwen2", {"select_layer": -2}),
        ("qwen2", {"select_layer": 1}),
        ("qwen2", {"force_image_size": 56}),
        ("qwen2", {"force_image_size": None}),
        ("llama", {"llm_config__rope_theta": 500000.0}),
        ("qwen3_moe", {"llm_config__norm_topk_prob": False, "llm_config__mlp_only_layers": [0]}),
        ("qwen3_moe", {"llm_config__decoder_sparse_step": 2, "llm_config__num_experts_per_tok": 3}),
        ("llama", {"llm_config__rope_scaling": {"type": "linear", "factor": 3.0}}),
        ("internlm2", {"llm_config__bias": True}),
        ("internlm2", {"llm_config__num_key_value_heads": 4}),
        (
            "internlm2",
            {"llm_config__rope_scaling": {"type": "dynamic", "factor": 2.0}, "llm_config__max_position_embeddings": 16},
        ),
        (
            "phi3",
            {
                "llm_config__rope_scaling": {
                    "type": "yarn",
                    "short_factor": [1.0, 1.1, 1.3, 1.4],
                    "long_factor": [1.2, 2.0, 4.0, 9.0],
                }
            },
        ),
    ],
    ids=str,
)
def test_logits_under_other_settings(tmp_path: Path, family: str, changes: dict[str, Any]) -> None:
    content = official.tiny_config(family, "6b", **changes)
    state = official.tiny_state(content)
    model = load_model(tmp_path, content, state)
    size = content["force_image_size"] or 28
    ids = random_prompt(50, model.config.image_seq_length)
    expected = official.reference_logits(state, content, ids, official.random_tiles(1, size), IMAGE_TOKEN)
    torch.testing.assert_close(native_logits(model, ids, official.random_tiles(1, size)), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("length", [20, 60])
def test_phi3_takes_its_short_and_long_frequencies(tmp_path: Path, length: int) -> None:
    content = official.tiny_config("phi3")
    state = official.tiny_state(content)
    ids = random_prompt(length, 0)
    expected = official.reference_logits(state, content, ids)
    assert (length > content["llm_config"]["original_max_position_embeddings"]) == (length == 60)
    torch.testing.assert_close(
        native_logits(load_model(tmp_path, content, state), ids, None), expected, atol=1e-4, rtol=0
    )


def test_ps_version_1_is_version_2_with_the_token_grid_transposed(tmp_path: Path) -> None:
    content = official.tiny_config("qwen2", ps_version="v1", force_image_size=56)
    state = official.tiny_state(content)
    model = load_model(tmp_path, content, state)
    with torch.inference_mode():
        tokens = model.get_image_features(pixel_values=official.random_tiles(2, 56), return_dict=True).pooler_output
    transposed = tokens.reshape(2, 4, 4, -1).transpose(1, 2).reshape(32, -1)
    expected = official.reference_image_tokens(state, content, official.random_tiles(2, 56))
    torch.testing.assert_close(transposed, expected, atol=1e-4, rtol=0)
    assert (tokens.flatten(0, 1) - expected).abs().max() > 0.1
    assert read_settings(content).ps_version == "v1"


@pytest.mark.parametrize("family", ["qwen3", "internlm2"])
@pytest.mark.parametrize("place", ["llm_config__tie_word_embeddings", "tie_word_embeddings"])
def test_one_table_for_words_in_and_out(tmp_path: Path, family: str, place: str) -> None:
    """Training libraries write it once, where the settings say so."""
    folder = tmp_path / "original"
    content, state = official.write_folder(folder, family, **{place: True})
    table = next(name for name in state if name.endswith(("embed_tokens.weight", "tok_embeddings.weight")))
    output = next(name for name in state if name.endswith(("lm_head.weight", "language_model.output.weight")))
    two = describe(folder).parameters.total
    del state[output]
    official.write_original(folder, content, state)
    ids = list(range(3, 40, 3))
    expected = official.reference_logits(state | {output: state[table]}, content, ids)
    model = load(folder).model
    assert model.lm_head.weight is model.get_input_embeddings().weight
    torch.testing.assert_close(native_logits(model, ids, None), expected, atol=1e-4, rtol=0)
    assert describe(folder).parameters.total == two - state[table].numel()
    convert(folder, tmp_path / "native")
    for quantization in (None, "int8"):
        again = load_backbone(tmp_path / "native", device="cpu", quantization=quantization)
        assert again.model.lm_head.weight is again.model.get_input_embeddings().weight
        assert again.fingerprint == load_backbone(folder, device="cpu", quantization=quantization).fingerprint
    content = official.tiny_config(family, llm_config__vocab_size=content["llm_config"]["vocab_size"])
    official.write_original(folder, content, state)
    for refuse in (load, describe):
        with pytest.raises(CheckpointError, match=r"missing: lm_head\.weight"):
            refuse(folder)


@pytest.mark.parametrize("name", ["mlp2.1.weight", "gating.block1.0.weight", "pooling_before_gating.attn.q.weight"])
def test_flash_checkpoints_are_refused_by_name(tmp_path: Path, name: str) -> None:
    """Names of lmdeploy's InternVL3.5-Flash; with other settings they would only be unexpected tensors."""
    content, state = official.write_folder(tmp_path, "qwen3")
    official.write_original(tmp_path, content, state | {name: torch.zeros(2, 2)})
    for refuse in (load, describe):
        with pytest.raises(CheckpointError, match="-Flash"):
            refuse(tmp_path)
    documented = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text("utf-8")
    assert "InternVL3_5-1B-Flash" in documented


def test_files_of_all_kinds_hold_the_same(tmp_path: Path) -> None:
    official.write_folder(tmp_path / "one", "internlm2")
    official.write_folder(tmp_path / "many", "internlm2", shards=3)
    official.write_folder(tmp_path / "torch", "internlm2", torch_files=True)
    official.write_folder(tmp_path / "torch many", "internlm2", torch_files=True, shards=3)
    expected = load(tmp_path / "one").model.state_dict()
    for name in ("many", "torch", "torch many"):
        torch.testing.assert_close(load(tmp_path / name).model.state_dict(), expected, atol=0, rtol=0)


def test_weights_come_in_the_dtype_asked_and_frequencies_stay_exact(tmp_path: Path) -> None:
    _, state = official.write_folder(tmp_path)
    model = load(tmp_path, torch.bfloat16).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.model.language_model.rotary_emb.inv_freq.dtype == torch.float32
    assert torch.equal(model.lm_head.weight, state["language_model.lm_head.weight"].bfloat16())


def test_old_files_may_keep_rotary_frequencies(tmp_path: Path) -> None:
    content = official.tiny_config("llama")
    state = official.tiny_state(content)
    state["language_model.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    load_model(tmp_path, content, state)


# Settings ------------------------------------------------------------------------------------------------------------


def test_settings_come_from_the_config() -> None:
    content = official.tiny_config("internlm2", max_dynamic_patch=24, min_dynamic_patch=2)
    assert is_original(content)
    settings = read_settings(content)
    assert (settings.tile_size, settings.min_tiles, settings.max_tiles) == (28, 2, 24)
    assert settings.thumbnail and settings.dynamic and settings.ps_version == "v2"
    assert settings.template == OFFICIAL_TEMPLATES["internlm2-chat"]
    still = read_settings(content | {"dynamic_image_size": False})
    assert (still.min_tiles, still.max_tiles, still.dynamic) == (1, 1, False)


def test_absent_settings_are_those_of_the_official_code() -> None:
    content = official.tiny_config("qwen2")
    for name in ("ps_version", "dynamic_image_size", "use_thumbnail", "max_dynamic_patch", "force_image_size"):
        del content[name]
    settings = read_settings(content)
    assert (settings.ps_version, settings.dynamic, settings.thumbnail, settings.tile_size) == ("v1", False, False, 28)


def test_a_native_config_is_not_original() -> None:
    assert not is_original({"architectures": ["InternVLForConditionalGeneration"], "model_type": "internvl"})
    assert is_original({"architectures": ["InternVLChatModel"]})
    assert not is_original({})


def test_a_system_message_of_null_is_the_templates_own() -> None:
    content = official.tiny_config("qwen2")
    own = OFFICIAL_TEMPLATES["internvl2_5"].system_message
    assert read_settings(content | {"system_message": None}).template.system_message == own
    assert read_settings(content | {"system_message": "Be brief."}).template.system_message == "Be brief."


def test_the_native_config_needs_no_weights() -> None:
    config = native_config(
        official.tiny_config("internlm2", select_layer=-2, llm_config__max_position_embeddings=32768)
    )
    text, vision = config.text_config, config.vision_config
    assert (text.model_type, text.num_key_value_heads, text.max_position_embeddings) == ("llama", 2, 32768)
    assert (config.vision_feature_layer, config.image_seq_length, list(vision.image_size)) == (-2, 4, [28, 28])
    assert not config.tie_word_embeddings and not text.tie_word_embeddings


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"llm_config__architectures": ["MysteryForCausalLM"]}, "MysteryForCausalLM.*never run"),
        ({"llm_config": None}, "llm_config"),
        ({"llm_config__vocab_size": None}, "vocab_size"),
        ({"template": "vicuna"}, "'vicuna'.*internvl2_5"),
        ({"template": None}, "template"),
        ({"ps_version": "v3"}, "'v3'"),
        ({"pad2square": True}, "pad2square"),
        ({"use_llm_lora": 16}, "LoRA"),
        ({"quantization_config": {"quant_method": "awq"}}, "awq"),
        ({"force_image_size": 30}, "30 px"),
        ({"select_layer": -4}, "select_layer -4"),
        ({"max_dynamic_patch": "12"}, "max_dynamic_patch '12'"),
        ({"min_dynamic_patch": 13}, "min_dynamic_patch 13"),
        ({"downsample_ratio": 0}, "downsample_ratio 0"),
        ({"vision_config__num_attention_heads": 5}, "5"),
    ],
    ids=str,
)
def test_what_is_not_supported_is_refused_by_name(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    official.write_folder(tmp_path)
    content = official.tiny_config("qwen2", **changes)
    with pytest.raises(CheckpointError, match=said):
        load_original(tmp_path, content, dtype=torch.float32, attn_implementation="sdpa")


def test_code_in_the_folder_is_never_run(tmp_path: Path) -> None:
    official.write_folder(tmp_path, "internlm2")
    trap = f"open({str(tmp_path / 'ran')!r}, 'w').close()\n"
    for name in ("modeling_internvl_chat", "configuration_internvl_chat", "tokenization_internlm2"):
        (tmp_path / f"{name}.py").write_text(trap)
    load(tmp_path)
    assert not (tmp_path / "ran").exists()


# Damaged weights -----------------------------------------------------------------------------------------------------

SHARD = "model-00002-of-00003.safetensors"
INDEX = "model.safetensors.index.json"


def _truncate(folder: Path) -> None:
    data = (folder / SHARD).read_bytes()
    (folder / SHARD).write_bytes(data[: len(data) // 2])


def _cut_header(folder: Path) -> None:
    (folder / SHARD).write_bytes((folder / SHARD).read_bytes()[:20])


def _remove(folder: Path) -> None:
    (folder / SHARD).unlink()


def _edit_index(change: Callable[[dict[str, str]], None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        index = json.loads((folder / INDEX).read_text())
        change(index["weight_map"])
        (folder / INDEX).write_text(json.dumps(index))

    return edit


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_truncate, f"{SHARD} is truncated"),
        (_cut_header, f"{SHARD} is truncated"),
        (_remove, f"{SHARD}'.*missing"),
        (_edit_index(lambda places: places.update({"no.such.tensor": SHARD})), "no.such.tensor, but it does not"),
        (_edit_index(lambda places: places.update({"mlp1.0.bias": SHARD})), "mlp1.0.bias"),
        (_edit_index(lambda places: places.pop("mlp1.0.bias") and None), "mlp1.0.bias, which .* does not say"),
        (_edit_index(lambda places: places.update({"x": "../outside.safetensors"})), r"names the file '\.\./outside"),
        (lambda folder: (folder / INDEX).write_text("{"), f"{INDEX} .*is damaged"),
        (lambda folder: (folder / INDEX).write_text("{}"), f"{INDEX} .*is damaged"),
        (lambda folder: (folder / INDEX).unlink(), "no weights"),
    ],
)
def test_damaged_shards_are_named(tmp_path: Path, damage: Callable[[Path], None], said: str) -> None:
    official.write_folder(tmp_path / "model", shards=3)
    shutil.copy(tmp_path / "model" / SHARD, tmp_path / "outside.safetensors")
    load(tmp_path / "model")
    damage(tmp_path / "model")
    with pytest.raises(CheckpointError, match=said):
        load(tmp_path / "model")


def test_a_truncated_torch_file_is_named(tmp_path: Path) -> None:
    official.write_folder(tmp_path, torch_files=True)
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is truncated"):
        load(tmp_path)


def test_a_torch_file_with_code_in_it_is_refused(tmp_path: Path) -> None:
    official.write_folder(tmp_path, torch_files=True)
    torch.save({"x": official.tiny_config}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        load(tmp_path)


def test_missing_and_unexpected_tensors_are_all_listed(tmp_path: Path) -> None:
    _, state = official.write_folder(tmp_path, "internlm2")
    for key in ("mlp1.3.bias", "language_model.output.weight"):
        del state[key]
    state |= {"mlp1.7.bias": torch.ones(1), "language_model.model.layers.9.ffn_norm.weight": torch.ones(32)}
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError) as raised:
        load(tmp_path)
    missing, unexpected = str(raised.value).split("unexpected")
    assert "linear_2.bias" in missing and "lm_head.weight" in missing
    assert "mlp1.7.bias" in unexpected and "layers.9.ffn_norm" in unexpected


@pytest.mark.parametrize("key", ["mlp1.1.weight", "language_model.model.layers.0.attention.wqkv.weight"])
def test_a_tensor_of_another_shape_is_named(tmp_path: Path, key: str) -> None:
    official.write_folder(tmp_path, "internlm2")
    state = load_file(tmp_path / "model.safetensors")
    state[key] = state[key][:-3].contiguous()
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"{key} in model.safetensors has the shape"):
        load(tmp_path)


# Tokenizers ----------------------------------------------------------------------------------------------------------

IMAGE = f"<img>{PLACES}</img>"
DIALOGUES: dict[str, list[tuple[str, str | None]]] = {
    "single": [(f"{IMAGE}\nDescribe the picture.", None)],
    "several": [(f"Image-1: {IMAGE}\nImage-2: {IMAGE}\nWhat differs?", None)],
    "rounds": [(f"{IMAGE}\nWhere is the dog? ", "On the grass."), (" and the cat?", "Gone."), ("Why?\n", None)],
    "video": [(f"Frame1: {IMAGE}\nFrame2: {IMAGE}\nWhat happens?", None)],
    "text": [("是什么 ñ 😀 don't  do\tthat 123", None)],
    "inline": [(f"{IMAGE} is next to {IMAGE}.", None)],
}


@pytest.mark.parametrize("trims", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_prompt_ids_are_those_of_the_official_slow_tokenizers(tmp_path: Path, family: str, trims: bool) -> None:
    official.write_tokenizer(tmp_path, family, **({} if family == "qwen2" else {"trims": trims}))
    tokenizer = load_tokenizer(tmp_path)
    for name, dialogue in DIALOGUES.items():
        prompt = OFFICIAL_TEMPLATES[official.TEMPLATES[family]].render(dialogue)
        assert tokenizer(prompt)["input_ids"] == official.official_ids(tmp_path, prompt), name


@pytest.mark.parametrize("family", FAMILIES)
def test_ids_of_random_text(tmp_path: Path, family: str) -> None:
    official.write_tokenizer(tmp_path, family)
    tokenizer = load_tokenizer(tmp_path)
    choices = [*"abc de fghij \n\t.,?!0123 你是书生<>|▁éñ", "<|im_start|>", "<|im_end|>", "<|end|>", "<img>", " the"]
    source, corpus = random.Random(0), "".join(official.TEXTS)
    for _ in range(60):
        # Single characters seldom merge: pieces of real sentences, cut anywhere, are what tells orders of merging.
        pieces = [source.choice(choices) for _ in range(source.randint(2, 20))]
        pieces += [corpus[start : start + 12] for start in source.sample(range(len(corpus)), 6)]
        text = "".join(source.sample(pieces, len(pieces)))
        assert tokenizer(text)["input_ids"] == official.official_ids(tmp_path, text), repr(text)


@pytest.mark.parametrize("family", FAMILIES)
def test_image_and_chat_tokens_are_single_ids(tmp_path: Path, family: str) -> None:
    rows = official.write_tokenizer(tmp_path, family)
    tokenizer = load_tokenizer(tmp_path)
    stop = OFFICIAL_TEMPLATES[official.TEMPLATES[family]].stop
    for token in ("<img>", "</img>", "<IMG_CONTEXT>", stop):
        assert tokenizer.encode(token, add_special_tokens=False) == [tokenizer.convert_tokens_to_ids(token)]
        assert tokenizer.decode([tokenizer.convert_tokens_to_ids(token)], skip_special_tokens=True) == ""
    assert len(tokenizer) == rows == max(tokenizer.get_vocab().values()) + 1


def test_internlm2_begins_with_bos_and_finds_its_marks_among_the_pieces(tmp_path: Path) -> None:
    official.write_tokenizer(tmp_path, "internlm2")
    ids = load_tokenizer(tmp_path)(OFFICIAL_TEMPLATES["internlm2-chat"].render([("x", None)]))["input_ids"]
    names = [piece.text for piece in read_sentencepiece(tmp_path / "tokenizer.model").pieces]
    assert ids[0] == 1 and names[ids[1]] == "[UNUSED_TOKEN_5]"


def test_phi3_keeps_its_lone_space_and_swallows_newlines(tmp_path: Path) -> None:
    official.write_tokenizer(tmp_path, "phi3")
    tokenizer = load_tokenizer(tmp_path)
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("<|system|>\nS<|end|><|user|>\nx<|end|>")["input_ids"])
    assert tokens[:3] == ["<s>", "▁", "<|system|>"]
    assert not any("\n" in token or token == "<0x0A>" for token in tokens)
    # A token that is listed as special takes no space before it.
    assert tokenizer.convert_ids_to_tokens(tokenizer("<img>x")["input_ids"])[:2] == ["<s>", "<img>"]


def test_text_comes_back(tmp_path: Path) -> None:
    for family in FAMILIES:
        official.write_tokenizer(tmp_path / family, family)
        tokenizer = load_tokenizer(tmp_path / family)
        ids = tokenizer("Where is the 红 car? 😀", add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == "Where is the 红 car? 😀"


def test_a_ready_pipeline_is_taken_as_it_is(tmp_path: Path) -> None:
    official.write_tokenizer(tmp_path / "files", "qwen2")
    expected = load_tokenizer(tmp_path / "files")
    expected.save_pretrained(tmp_path / "pipeline")
    text = OFFICIAL_TEMPLATES["internvl2_5"].render(DIALOGUES["single"])
    assert load_tokenizer(tmp_path / "pipeline")(text)["input_ids"] == expected(text)["input_ids"]


def test_older_folders_keep_added_tokens_in_their_own_file(tmp_path: Path) -> None:
    official.write_tokenizer(tmp_path, "llama")
    text = OFFICIAL_TEMPLATES["internlm2-chat"].render(DIALOGUES["rounds"])
    expected = official.official_ids(tmp_path, text)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    added = settings.pop("added_tokens_decoder")
    named = {role: {"content": settings.pop(role)} for role in ("bos_token", "eos_token", "unk_token")}
    special = named | {"additional_special_tokens": settings.pop("additional_special_tokens")}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(special))
    (tmp_path / "added_tokens.json").write_text(
        json.dumps({token["content"]: int(index) for index, token in added.items()})
    )
    assert load_tokenizer(tmp_path)(text)["input_ids"] == expected


def _drop_image_tokens(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    keep = {index: token for index, token in settings["added_tokens_decoder"].items() if "IMG" not in token["content"]}
    listed = [token for token in settings["additional_special_tokens"] if "IMG" not in token]
    path.write_text(json.dumps(settings | {"added_tokens_decoder": keep, "additional_special_tokens": listed}))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "tokenizer.model").unlink(), "no tokenizer"),
        (lambda folder: (folder / "tokenizer.model").write_bytes(b""), "tokenizer.model holds no vocabulary"),
        (lambda folder: (folder / "tokenizer.model").write_bytes(b"\xff" * 50), "tokenizer.model is .*damaged"),
        (
            lambda folder: (folder / "tokenizer.model").write_bytes((folder / "tokenizer.model").read_bytes()[:1001]),
            "tokenizer.model",
        ),
        (lambda folder: (folder / "tokenizer_config.json").write_text("{"), "tokenizer_config.json .*is damaged"),
        (lambda folder: (folder / "tokenizer_config.json").unlink(), "tokenizer_config.json"),
        (
            lambda folder: (folder / "tokenizer_config.json").write_text('{"added_tokens_decoder": {"x": "y"}}'),
            "special tokens in tokenizer_config.json",
        ),
        (_drop_image_tokens, "<IMG_CONTEXT>"),
    ],
)
def test_damaged_tokenizer_files_are_named(tmp_path: Path, damage: Callable[[Path], None], said: str) -> None:
    official.write_tokenizer(tmp_path, "internlm2")
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=said):
        load_tokenizer(tmp_path)


def test_a_tokenizer_with_more_ids_than_the_model_has_rows_is_refused(tmp_path: Path) -> None:
    official.write_folder(tmp_path)
    content = official.tiny_config("qwen2", vocabulary=100)
    with pytest.raises(CheckpointError, match="100 rows"):
        load_original(tmp_path, content, dtype=torch.float32, attn_implementation="sdpa")


# A whole checkpoint --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_templates_token_ends_an_answer(tmp_path: Path, family: str) -> None:
    official.write_folder(tmp_path, family)
    loaded = load(tmp_path)
    stop = OFFICIAL_TEMPLATES[official.TEMPLATES[family]].stop
    assert loaded.end_ids == [loaded.tokenizer.convert_tokens_to_ids(stop)] and loaded.template.stop == stop
    generated = loaded.model.generation_config.eos_token_id
    assert [generated] == loaded.end_ids


@pytest.mark.parametrize(("family", "vision"), [("qwen2", "300m"), ("internlm2", "6b"), ("yi", "6b"), ("phi3", "300m")])
def test_a_converted_folder_needs_transformers_alone(tmp_path: Path, family: str, vision: str) -> None:
    changes = {"vision_config__layer_norm_eps": 1e-6, "system_message": "Be brief.", "max_dynamic_patch": 6}
    content, state = official.write_folder(tmp_path / "original", family, vision, **changes)
    convert(tmp_path / "original", tmp_path / "native")

    model = InternVLForConditionalGeneration.from_pretrained(tmp_path / "native").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "native")
    template = read_settings(content).template
    message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    prompt = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    assert prompt == template.render([("<IMG_CONTEXT>\nWhat?", None)]) and "Be brief." in prompt

    prompt = prompt.replace("<IMG_CONTEXT>", IMAGE)
    ids = tokenizer(prompt)["input_ids"]
    assert ids == official.official_ids(tmp_path / "original", prompt)
    expected = official.reference_logits(state, content, ids, official.random_tiles(1), model.config.image_token_id)
    torch.testing.assert_close(native_logits(model, ids, official.random_tiles(1)), expected, atol=1e-4, rtol=0)

    stop = tokenizer.convert_tokens_to_ids(template.stop)
    assert model.generation_config.eos_token_id == stop
    assert (tokenizer.start_image_token, tokenizer.context_image_token) == ("<img>", "<IMG_CONTEXT>")
    written = json.loads((tmp_path / "native" / "config.json").read_text())
    assert written["vision_agent"] == {
        "template": template.name,
        "system_message": "Be brief.",
        "ps_version": "v2",
        "dynamic": True,
        "thumbnail": True,
        "end_ids": [stop],
    }
    tiles = json.loads((tmp_path / "native" / "preprocessor_config.json").read_text())
    assert (tiles["max_patches"], tiles["size"], tiles["crop_to_patches"]) == (6, {"height": 28, "width": 28}, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["native", "original"]


def test_conversion_keeps_the_number_format(tmp_path: Path) -> None:
    content, state = official.write_folder(tmp_path / "original")
    halves = {key: tensor.bfloat16() for key, tensor in state.items()}
    official.write_original(tmp_path / "original", content, halves)
    convert(tmp_path / "original", tmp_path / "native")
    written = load_file(tmp_path / "native" / "model.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {torch.bfloat16}


def test_a_conversion_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    official.write_folder(tmp_path / "original")

    def full(*arguments: object, **options: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("transformers.PreTrainedTokenizerFast.save_pretrained", full)
    with pytest.raises(OSError, match="no space left"):
        convert(tmp_path / "original", tmp_path / "native")
    assert [path.name for path in tmp_path.iterdir()] == ["original"]


def test_a_conversion_never_overwrites(tmp_path: Path) -> None:
    official.write_folder(tmp_path / "original")
    before = sorted(path.name for path in (tmp_path / "original").iterdir())
    (tmp_path / "there").mkdir()
    for dst in (tmp_path / "there", tmp_path / "original"):
        with pytest.raises(CheckpointError, match="exists"):
            convert(tmp_path / "original", dst)
    with pytest.raises(CheckpointError, match="does not exist"):
        convert(tmp_path / "original", tmp_path / "no" / "native")
    convert(tmp_path / "original", tmp_path / "native")
    with pytest.raises(CheckpointError, match="'internvl' model"):
        convert(tmp_path / "native", tmp_path / "again")
    assert sorted(path.name for path in (tmp_path / "original").iterdir()) == before
