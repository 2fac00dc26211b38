"""Size and speed options: what is refused before loading, and that the logits stay those of the plain model."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_backbone
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import DynamicCache, InternVLForConditionalGeneration
from transformers.quantizers.quantizers_utils import should_convert_module

from vision_agent.errors import CheckpointError, ConfigError, MissingExtraError
from vision_agent.model import load_options as loading
from vision_agent.model.attention import full_masks
from vision_agent.model.compile import compile_steps
from vision_agent.model.devices import input_device
from vision_agent.model.int8 import Int8Linear
from vision_agent.model.int8_packed import PackedInt8Linear
from vision_agent.model.load_options import UNQUANTIZED, LoadOptions, check_load_options, finish, load_arguments
from vision_agent.model.lora import apply_lora

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


def load(folder: Path, dtype: torch.dtype = torch.float32, **settings: Any) -> Any:
    """As the backbone loads: check, read, finish."""
    options = LoadOptions.of(**settings)
    device = check_load_options(options)
    model = InternVLForConditionalGeneration.from_pretrained(folder, **load_arguments(options, device, dtype))
    finish(model, options, device)
    return model


@torch.inference_mode()
def logits(model: Any) -> Tensor:
    """Next-token logits (L, V) of a prompt with one tile."""
    generator = torch.Generator().manual_seed(1)
    device = input_device(model)
    ids = torch.randint(10, 300, (1, 20), generator=generator)
    ids[0, 3:7] = model.config.image_token_id
    pixels = torch.randn(1, 3, 56, 56, generator=generator)
    output: Tensor = model(input_ids=ids.to(device), pixel_values=pixels.to(device)).logits[0]
    return output.float().cpu()


def distance(one: Tensor, other: Tensor) -> float:
    """Relative to the spread of the second."""
    return float((one - other).norm() / (other - other.mean()).norm())


def without_package(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else find(name, *rest))


# Options -----------------------------------------------------------------------------------------------------------


def test_options_take_what_users_have_at_hand(tmp_path: Path) -> None:
    options = LoadOptions.of(device=torch.device("cpu"), dtype=torch.bfloat16, lora=str(tmp_path))
    assert (options.device, options.dtype, options.lora) == ("cpu", "bfloat16", (tmp_path,))
    assert LoadOptions.of(dtype="bf16").dtype == "bf16"
    assert LoadOptions.of(max_memory={0: "1GiB", "cpu": 5}).max_memory == {0: "1GiB", "cpu": 5}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("quantization", "8bit", "'int8' or '4bit'"),
        ("attn_implementation", "flash", "'flash_attention_2'"),
        ("compile", "yes", "True or False"),
        ("cuda_graphs", 1, "True or False"),
        ("device_map", "everywhere", "'balanced'"),
        ("dtype", "float7", "'bf16'"),
        ("dtype", torch.int8, "'bf16'"),
        ("lora", 3, "a list of folders"),
        ("max_memory", "20GiB", "a dict"),
    ],
)
def test_unknown_values_are_named(name: str, value: object, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        LoadOptions.of(**{name: value})
    assert f"`{name}`" in str(caught.value)
    assert expected in str(caught.value)
    assert repr(value) in str(caught.value)


def test_unknown_option_is_named() -> None:
    with pytest.raises(ConfigError, match=r"load_in_8bit.*quantization"):
        LoadOptions.of(load_in_8bit=True)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"quantization": "4bit"}, "CUDA only.*use `quantization`='int8'"),
        ({"attn_implementation": "flash_attention_2"}, "CUDA only.*use 'sdpa'"),
        ({"offload_folder": "off"}, "`offload_folder`.*add `device_map`='auto'"),
        ({"max_memory": {"cpu": "1GiB"}}, "`max_memory`.*add `device_map`='auto'"),
        ({"device_map": "auto", "device": "cpu"}, "leave one out"),
        ({"device_map": "auto", "compile": True}, "`compile` and `device_map`"),
        ({"device_map": "auto", "quantization": "int8"}, "`quantization` and `device_map`"),
        ({"device_map": {"": "disk"}}, "say where with `offload_folder`"),
        ({"device_map": {"": 77}}, r"`device_map\[''\]`.* 77"),
        ({"device_map": "auto", "offload_folder": __file__}, "`offload_folder` must be a folder"),
        ({"device": "abacus"}, "`device`"),
        ({"cuda_graphs": True}, "`cuda_graphs` need a CUDA device, but the device is 'cpu'"),
        ({"cuda_graphs": True, "compile": True}, "`cuda_graphs` and `compile` exclude"),
        ({"cuda_graphs": True, "quantization": "int8"}, "`cuda_graphs` and `quantization` exclude"),
    ],
)
def test_what_this_machine_cannot_do_is_refused(
    settings: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)
    with pytest.raises(ConfigError, match=words):
        check_load_options(LoadOptions.of(**settings))


@pytest.mark.parametrize(
    ("settings", "device", "package", "line"),
    [
        ({"device_map": "auto"}, CPU, "accelerate", r'pip install "internvl-vision-agent\[offload\]"'),
        ({"quantization": "int8"}, CUDA, "bitsandbytes", r"internvl-vision-agent\[cuda-quantization\]"),
        ({"quantization": "4bit"}, CUDA, "bitsandbytes", r"internvl-vision-agent\[cuda-quantization\]"),
        ({"attn_implementation": "flash_attention_2"}, CUDA, "flash_attn", "pip install flash-attn"),
        ({"compile": True}, CUDA, "triton", "pip install triton"),
    ],
)
def test_missing_packages_come_with_their_install_line(
    settings: dict[str, Any], device: torch.device, package: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "choose_device", lambda name: device)
    without_package(monkeypatch, package)
    with pytest.raises(MissingExtraError, match=line):
        check_load_options(LoadOptions.of(**settings))


def test_flash_attention_refuses_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "choose_device", lambda name: CUDA)
    with pytest.raises(ConfigError, match="bf16 or fp16"):
        check_load_options(LoadOptions.of(attn_implementation="flash_attention_2", dtype="fp32"))


def test_compiling_needs_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"C\+\+ compiler.*apt install g\+\+"):
        check_load_options(LoadOptions.of(compile=True, device="cpu"))
    compiler = tmp_path / "my-compiler"
    compiler.write_text("")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert check_load_options(LoadOptions.of(compile=True, device="cpu")) == CPU


# Number formats ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float16, 0.02), (torch.bfloat16, 0.15)])
def test_half_precision_runs_on_the_cpu(checkpoint: Path, dtype: torch.dtype, bound: float) -> None:
    model = load(checkpoint, dtype, device="cpu")
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert 0 < distance(logits(model), logits(load(checkpoint, device="cpu"))) < bound
    assert model.generate(torch.tensor([[20, 21]]), max_new_tokens=3, do_sample=False).shape[1] > 2


def test_int8_rounds_the_language_model_only(checkpoint: Path) -> None:
    plain, rounded = load(checkpoint, device="cpu"), load(checkpoint, device="cpu", quantization="int8")
    language = rounded.model.language_model
    assert sum(isinstance(module, Int8Linear | PackedInt8Linear) for module in rounded.modules()) == 3 * 7
    assert not any(isinstance(module, nn.Linear) for module in language.modules())
    for part in ("vision_tower", "multi_modal_projector"):
        assert not any(
            isinstance(module, Int8Linear | PackedInt8Linear) for module in getattr(rounded.model, part).modules()
        )
    assert isinstance(rounded.lm_head, nn.Linear)
    assert 0 < distance(logits(rounded), logits(plain)) < 0.05
    assert rounded.generate(torch.tensor([[20, 21]]), max_new_tokens=3, do_sample=False).shape[1] > 2


def test_int8_weights_are_the_nearest_steps() -> None:
    linear = nn.Linear(40, 7)
    with torch.no_grad():
        linear.weight[3] = 0
    layer = Int8Linear(linear)
    assert layer.weight.dtype == torch.int8
    restored = layer.weight.float() * layer.scale.unsqueeze(1)
    assert ((restored - linear.weight).abs() <= layer.scale.unsqueeze(1) / 2 + 1e-8).all()
    x = torch.randn(2, 5, 40)
    torch.testing.assert_close(layer(x), nn.functional.linear(x, restored, linear.bias))


def test_int8_ways_to_multiply_agree() -> None:
    torch.manual_seed(0)
    # Large enough for several chunks of rows; few rows of activations take torch's fused kernel in bf16.
    layer = Int8Linear(nn.Linear(1024, 700)).to(torch.bfloat16)
    x = torch.randn(40, 1024, dtype=torch.bfloat16)
    exact = nn.functional.linear(x.double(), layer.weight.double() * layer.scale.double().unsqueeze(1))
    exact = exact + layer.bias.double()
    assert distance(layer(x).double(), exact) < 0.01
    assert distance(layer(x[:2]).double(), exact[:2]) < 0.01


def test_names_that_bitsandbytes_skips_leave_the_language_model_only() -> None:
    model = tiny_backbone().model
    linears = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    rounded = {name for name in linears if should_convert_module(name, list(UNQUANTIZED))}
    assert rounded == {name for name in linears if name.startswith("model.language_model.")}
    assert len(rounded) == 3 * 7


def test_cuda_quantization_is_asked_of_bitsandbytes() -> None:
    arguments = load_arguments(LoadOptions.of(quantization="int8"), CUDA, torch.float16)
    assert arguments["quantization_config"].load_in_8bit
    assert arguments["quantization_config"].llm_int8_skip_modules == list(UNQUANTIZED)
    assert arguments["device_map"] == {"": CUDA}
    assert "quantization_config" not in load_arguments(LoadOptions.of(quantization="int8"), CPU, torch.float32)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("quantization", ["int8", "4bit"])
def test_bitsandbytes_rounds_the_language_model_only(checkpoint: Path, quantization: str) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    model = load(checkpoint, torch.float16, device="cuda", quantization=quantization)
    kind = bitsandbytes.nn.Linear8bitLt if quantization == "int8" else bitsandbytes.nn.Linear4bit
    rounded = {name for name, module in model.named_modules() if isinstance(module, kind)}
    assert len(rounded) == 3 * 7
    assert all(name.startswith("model.language_model.") for name in rounded)
    assert logits(model).isfinite().all()


@pytest.mark.gpu
@needs_cuda
def test_flash_attention_gives_the_same_logits(checkpoint: Path) -> None:
    pytest.importorskip("flash_attn")
    flash = load(checkpoint, torch.float16, device="cuda", attn_implementation="flash_attention_2")
    assert distance(logits(flash), logits(load(checkpoint, torch.float16, device="cuda"))) < 0.02


# Places --------------------------------------------------------------------------------------------------------------


def test_weights_may_wait_on_disk(checkpoint: Path, tmp_path: Path) -> None:
    places = {"model.vision_tower": "disk", "model.multi_modal_projector": "cpu"}
    places |= {"model.language_model": "disk", "lm_head": "disk"}
    model = load(checkpoint, device_map=places, offload_folder=tmp_path / "off")
    assert model.device.type == "meta"
    assert input_device(model) == CPU
    assert distance(logits(model), logits(load(checkpoint, device="cpu"))) < 1e-6


def test_device_map_auto_fills_what_memory_allows(checkpoint: Path, tmp_path: Path) -> None:
    model = load(checkpoint, device_map="auto", max_memory={"cpu": "400KB"}, offload_folder=tmp_path / "off")
    assert "disk" in model.hf_device_map.values()
    assert distance(logits(model), logits(load(checkpoint, device="cpu"))) < 1e-6


def test_full_masks_leave_flash_attention_for_a_while() -> None:
    language = tiny_backbone().model.model.language_model
    # Flash attention itself is not here; that the choice is read anew by every pass shows in the error.
    language.config._attn_implementation = "flash_attention_2"
    embeds, mask = torch.randn(1, 4, 64), torch.zeros(1, 1, 4, 4)
    with full_masks(language), torch.inference_mode():
        seen = language(inputs_embeds=embeds, attention_mask=mask).last_hidden_state
    assert language.config._attn_implementation == "flash_attention_2"
    language.config._attn_implementation = "eager"
    with torch.inference_mode(), full_masks(language):
        torch.testing.assert_close(seen, language(inputs_embeds=embeds, attention_mask=mask).last_hidden_state)
        assert language.config._attn_implementation == "eager"


# Compiling -----------------------------------------------------------------------------------------------------------


def test_only_steps_are_compiled_and_answers_stay() -> None:
    backbone = tiny_backbone()
    graphs: list[Any] = []

    def counting(graph: Any, _: object) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    model, language = backbone.model, backbone.model.model.language_model
    del language.layers[1:]
    ids = torch.tensor([[20, 21, 22, 23, 24, 25]])

    def answer(prompt: Tensor) -> tuple[list[int], Tensor]:
        cache = DynamicCache(config=model.config.text_config)
        new = model.generate(prompt, past_key_values=cache, max_new_tokens=6, do_sample=False, eos_token_id=-1)
        return new[0].tolist(), cache.layers[0].keys

    expected = [answer(ids), answer(ids[:, :4])]
    torch._dynamo.reset()
    compile_steps(language, backend=counting)
    with torch.inference_mode():
        language(input_ids=ids)
    assert not graphs  # a prompt
    for (words, keys), prompt in zip(expected, (ids, ids[:, :4]), strict=True):
        got_words, got_keys = answer(prompt)
        assert got_words == words
        torch.testing.assert_close(got_keys, keys, atol=1e-5, rtol=1e-4)
        assert len(graphs) == 1  # shared by all lengths


# LoRA ----------------------------------------------------------------------------------------------------------------


def save_lora(folder: Path, seed: int, **settings: Any) -> Tensor:
    """A random adapter of the tiny model, written by PEFT itself. Returns the logits PEFT computes with it."""
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], **settings}
    torch.manual_seed(seed)
    adapted = get_peft_model(tiny_backbone().model.model.language_model, LoraConfig(**settings))
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(folder)
    backbone = tiny_backbone()
    backbone.model.model.language_model = adapted.base_model.model
    return logits(backbone.model.eval())


def rename(folder: Path, change: Callable[[str], str]) -> None:
    path = folder / "adapter_model.safetensors"
    save_file({change(name): tensor for name, tensor in load_file(path).items()}, path)


@pytest.mark.parametrize(
    "start", ["layers.", "model.layers.", "language_model.model.layers.", "model.language_model.layers."]
)
def test_lora_fits_under_every_name_of_the_language_model(start: str, checkpoint: Path, tmp_path: Path) -> None:
    expected = save_lora(tmp_path / "lora", seed=1)
    rename(tmp_path / "lora", lambda name: name.replace("base_model.model.layers.", f"base_model.model.{start}"))
    plain, model = load(checkpoint, device="cpu"), load(checkpoint, device="cpu", lora=tmp_path / "lora")
    torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=1e-4)
    assert distance(expected, logits(plain)) > 0.1
    # Merged: the same modules as without.
    assert [name for name, _ in model.named_modules()] == [name for name, _ in plain.named_modules()]


def test_lora_settings_count(checkpoint: Path, tmp_path: Path) -> None:
    settings = {"use_rslora": True, "use_dora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 3}}
    expected = save_lora(
        tmp_path / "lora", seed=1, target_modules=["layers.1.self_attn.q_proj", "down_proj"], **settings
    )
    got = logits(load(checkpoint, device="cpu", lora=[tmp_path / "lora"]))
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_several_loras_add_up(checkpoint: Path, tmp_path: Path) -> None:
    save_lora(tmp_path / "one", seed=1)
    save_lora(tmp_path / "two", seed=2, target_modules=["q_proj", "v_proj"], r=2)
    plain, one, two, both = (
        load(checkpoint, device="cpu", lora=folders).model.language_model.state_dict()
        for folders in ([], [tmp_path / "one"], [tmp_path / "two"], [tmp_path / "one", tmp_path / "two"])
    )
    for name in plain:
        torch.testing.assert_close(both[name], one[name] + two[name] - plain[name], atol=1e-5, rtol=1e-4)
    assert not torch.equal(both["layers.0.self_attn.v_proj.weight"], one["layers.0.self_attn.v_proj.weight"])


def test_unmerged_lora_computes_the_same(tmp_path: Path) -> None:
    expected = save_lora(tmp_path / "lora", seed=1)
    model = tiny_backbone().model
    apply_lora(model, [tmp_path / "lora"], merge=False)
    torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=1e-4)


def test_lora_is_merged_before_rounding(checkpoint: Path, tmp_path: Path) -> None:
    expected = save_lora(tmp_path / "lora", seed=1)
    model = load(checkpoint, device="cpu", lora=tmp_path / "lora", quantization="int8")
    assert sum(isinstance(module, Int8Linear | PackedInt8Linear) for module in model.modules()) == 3 * 7
    assert distance(logits(model), expected) < 0.05


def damage_weights(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-50])


def other_width(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({name: tensor[:, :-1].contiguous() for name, tensor in tensors.items()}, path)


def half_missing(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    save_file({name: tensor for name, tensor in load_file(path).items() if "lora_A" in name}, path)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (damage_weights, "damaged"),
        (other_width, "does not fit.*size mismatch|size mismatch"),
        (half_missing, "lacks tensors.*lora_B"),
        (lambda folder: rename(folder, lambda name: name.replace("self_attn.q_proj", "attention.wqkv")), "wqkv"),
        (lambda folder: rename(folder, lambda name: name.replace("layers.2", "layers.99")), r"layers\.99"),
        (lambda folder: rename(folder, lambda name: name.replace(".lora_A", "")), "whole tensors"),
    ],
)
def test_lora_of_another_model_is_refused(
    spoil: Callable[[Path], None], words: str, checkpoint: Path, tmp_path: Path
) -> None:
    save_lora(tmp_path / "lora", seed=1)
    spoil(tmp_path / "lora")
    with pytest.raises(CheckpointError, match=words) as caught:
        load(checkpoint, device="cpu", lora=tmp_path / "lora")
    assert str(tmp_path / "lora") in str(caught.value)


def test_lora_folder_is_checked_before_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = LoadOptions.of(device="cpu", lora=tmp_path)
    with pytest.raises(CheckpointError, match=r"no adapter_config\.json"):
        check_load_options(options)
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"no adapter_model\.safetensors"):
        check_load_options(options)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="damaged"):
        check_load_options(options)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3"}))
    with pytest.raises(CheckpointError, match="'IA3'; expected 'LORA'"):
        check_load_options(options)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    without_package(monkeypatch, "peft")
    with pytest.raises(MissingExtraError, match=r"internvl-vision-agent\[lora\]"):
        check_load_options(options)


def test_lora_needs_weights_that_are_here(checkpoint: Path, tmp_path: Path) -> None:
    save_lora(tmp_path / "lora", seed=1)
    options = LoadOptions.of(device_map="auto", offload_folder=tmp_path, lora=tmp_path / "lora")
    with pytest.raises(ConfigError, match="`lora` or `offload_folder`"):
        check_load_options(options)
    places = {"model.vision_tower": "cpu", "model.multi_modal_projector": "cpu"}
    places |= {"model.language_model": "disk", "lm_head": "disk"}
    waiting = load(checkpoint, device_map=places, offload_folder=tmp_path)
    with pytest.raises(ConfigError, match="left off the device"):
        apply_lora(waiting, [tmp_path / "lora"])
