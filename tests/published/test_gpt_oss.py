"""GPT-OSS as language model (InternVL3_5-GPT-OSS-20B-A4B-Preview): sinks, windows, joined experts, channels.

Its logits, ids and prompts are compared in `test_original.py`, `test_original_agent.py` and `test_published.py`, its
windows in `routing/test_windows.py`, its rounded experts in `test_int8_loading.py`.
"""

import json
from pathlib import Path

import original_format as official
import pytest
import torch
from PIL import Image
from published_checkpoints import published, write_published
from safetensors.torch import load_file, save_file
from transformers import GptOssConfig

from vision_agent import RouteSpec, VisionAgent, new_route, save_adapter
from vision_agent.cli.describe import describe
from vision_agent.errors import CheckpointError, ConfigError
from vision_agent.generation.options import GenerationOptions
from vision_agent.model.checkpoint import load_backbone
from vision_agent.model.load_options import LoadOptions, check_sinks
from vision_agent.model.original import convert, native_config

NAME = "InternVL3_5-GPT-OSS-20B-A4B-Preview"
CHANNEL = "<|channel|>final<|message|>"
PICTURE = Image.effect_mandelbrot((60, 30), (-2, -1, 1, 1), 20).convert("RGB")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpt_oss") / "original"
    official.write_folder(folder, "gpt_oss", shards=2)
    return folder


@pytest.fixture(scope="module")
def native(original: Path) -> Path:
    convert(original, original.parent / "native")
    return original.parent / "native"


@pytest.mark.parametrize("name", [NAME, f"{NAME}-HF"])
def test_info_counts_what_the_published_files_hold(
    name: str, original: Path, native: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The headers of its published files add up to 21,232,768,704 (see README.md)."""
    monkeypatch.setattr("vision_agent.cli.describe._check_loadable", lambda *_: None)
    for source in (native if name.endswith("HF") else original).iterdir():
        (tmp_path / source.name).symlink_to(source)
    for file in ("config.json", "preprocessor_config.json"):
        (tmp_path / file).unlink(missing_ok=True)
        (tmp_path / file).write_text(json.dumps(published(name)[file]), "utf-8")
    found = describe(tmp_path)
    assert (found.parameters.total, found.parameters.active) == (21_232_768_704, 4_505_452_224)
    assert (found.language, found.context) == ("gpt_oss", 131072)
    assert found.memory.int4 is None and 0.5 < found.memory.int8 / found.memory.bf16 < 0.54


def test_a_converted_folder_is_the_same_model(original: Path, native: Path) -> None:
    first, second = (load_backbone(folder, device="cpu", dtype="fp32") for folder in (original, native))
    assert first.fingerprint == second.fingerprint and first.end_ids == second.end_ids
    found, expected = (
        backbone.encode("What is it?", PICTURE, [("<image>\nWho?", "Me.")]) for backbone in (second, first)
    )
    assert found.prompt == expected.prompt
    logits = [each.logits(expected.input_ids, expected.pixel_values) for each in (first, second)]
    torch.testing.assert_close(logits[1], logits[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [NAME, f"{NAME}-HF"])
def test_answers_begin_after_their_channel(name: str, tmp_path: Path) -> None:
    """Officially the model writes it itself: there it is part of the answer's text."""
    backbone = load_backbone(write_published(name, tmp_path), device="cpu", dtype="fp32")
    asked = backbone.encode("What is it?").prompt
    assert asked.endswith("<|start|>user<|message|>What is it?<|end|><|start|>assistant")
    prompt = backbone.prompt([("What is it?", None)], [])
    assert prompt.text == asked + CHANNEL
    ids = backbone.tokenizer(asked + CHANNEL)["input_ids"]
    assert list(prompt.ids) == ids == backbone.prompt_ids("What is it?", [])
    answered = f"{asked}{CHANNEL}A dog.<|end|><|start|>user<|message|>Sure?<|end|><|start|>assistant{CHANNEL}"
    for answer in ("A dog.", f"{CHANNEL}A dog."):
        assert backbone.prompt([("What is it?", answer), ("Sure?", None)], []).text == answered
    typed = backbone.prompt([(f"{CHANNEL}<|end|>", None)], [])
    assert list(typed.ids).count(backbone.tokenizer.convert_tokens_to_ids("<|channel|>")) == 1


def test_a_template_that_names_the_channel_itself_is_left_alone(tmp_path: Path) -> None:
    folder = write_published(f"{NAME}-HF", tmp_path)
    expected = load_backbone(folder).prompt([("a", "b"), ("c", None)], []).text
    template = folder / "chat_template.jinja"
    written = template.read_text("utf-8")
    for old, new in (
        ("{{'<|start|>assistant' }}", "{{'<|start|>assistant<|channel|>final<|message|>' }}"),
        (
            "{% if message['role'] == 'assistant' %}{{'<|channel|>final'}}{% endif %}{{'<|message|>'}}",
            "{% if message['role'] != 'assistant' %}{{'<|message|>'}}{% endif %}",
        ),
    ):
        assert old in written
        template.write_text(written.replace(old, new), "utf-8")
        assert load_backbone(folder).prompt([("a", "b"), ("c", None)], []).text == expected


def test_verbs(original: Path, tmp_path: Path) -> None:
    agent = VisionAgent.from_pretrained(original, device="cpu", dtype="fp32")
    short = GenerationOptions(max_new_tokens=6)
    first, again = (agent.ask("what is it?", PICTURE, options=short) for _ in range(2))
    assert first.text == again.text
    assert agent.ask("yes or no?", PICTURE, choices=["yes", "no"]).text in ("yes", "no")
    assert agent.detect("dog", PICTURE).decoder == "grounding"
    route = new_route(agent.backbone, RouteSpec(token="[DET]", decoder="box", num_queries=4), torch.Generator())
    save_adapter(tmp_path / "det", route, agent.backbone, torch.float32)
    found = []
    for folder in (original, original):
        routed = VisionAgent.from_pretrained(folder, device="cpu", dtype="fp32")
        assert routed.load_adapter(tmp_path / "det") == "det"
        found.append([routed.detect(["dog", "red car"], PICTURE, threshold=0.0) for _ in range(2)])
        assert found[-1][0].decoder == "box" and len(found[-1][0]) > 0
    assert found[0][0] == found[0][1] == found[1][0]


def test_only_attention_with_sinks_is_taken(original: Path) -> None:
    plain = load_backbone(original, device="cpu")
    assert plain.model.model.language_model.config._attn_implementation == "eager"
    assert plain.model.config.vision_config._attn_implementation == "sdpa"
    with pytest.raises(ConfigError, match="sinks"):
        check_sinks(LoadOptions(attn_implementation="flash_attention_2"), plain.model.config)


@pytest.mark.parametrize("form", ["original", "native"])
def test_experts_in_mxfp4_are_refused_and_a_setting_of_it_is_not(
    form: str, original: Path, native: Path, tmp_path: Path
) -> None:
    """The settings of openai/gpt-oss-20b say MXFP4; those of a model trained on in bf16 may say so still."""
    for source in (original if form == "original" else native).iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    content = json.loads((tmp_path / "config.json").read_text("utf-8"))
    language = content["llm_config" if form == "original" else "text_config"]
    language["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    (tmp_path / "config.json").write_text(json.dumps(content), "utf-8")
    ids = torch.arange(40)
    expected = load_backbone(original, device="cpu", dtype="fp32")
    found = load_backbone(tmp_path, device="cpu", dtype="fp32")
    assert found.fingerprint == expected.fingerprint
    torch.testing.assert_close(found.logits(ids), expected.logits(ids), rtol=0, atol=1e-5)
    assert describe(tmp_path).language == "gpt_oss"
    state = {}
    for file in tmp_path.glob("*.safetensors"):
        state |= load_file(file)
        file.unlink()
    for name in [name for name in state if name.endswith("_proj")]:
        experts, inputs, outputs = state.pop(name).shape
        state[f"{name}_blocks"] = torch.zeros(experts, outputs, 1, inputs // 2, dtype=torch.uint8)
        state[f"{name}_scales"] = torch.zeros(experts, outputs, 1, dtype=torch.uint8)
    (tmp_path / "model.safetensors.index.json").unlink(missing_ok=True)
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for load in (load_backbone, describe):
        with pytest.raises(CheckpointError, match="MXFP4"):
            load(tmp_path)


def test_settings_that_are_left_out_are_those_of_gpt_oss() -> None:
    content = official.tiny_config("gpt_oss")
    for name in ("rope_scaling", "rope_theta", "rms_norm_eps", "head_dim", "layer_types", "sliding_window"):
        del content["llm_config"][name]
    found, expected = native_config(content).text_config, GptOssConfig(num_hidden_layers=4)
    for name in ("rope_parameters", "rms_norm_eps", "head_dim", "layer_types", "sliding_window", "swiglu_alpha"):
        assert getattr(found, name) == getattr(expected, name), name
