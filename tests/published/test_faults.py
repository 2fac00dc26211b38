"""Published settings with one fault each: load and `info` refuse them alike, before an answer would be wrong."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from published_checkpoints import write_published
from safetensors.torch import load_file, save_file

from vision_agent.cli.describe import describe
from vision_agent.errors import CheckpointError
from vision_agent.model.checkpoint import load_backbone

ORIGINAL, NATIVE = "InternVL3-2B", "InternVL3-2B-hf"
MIXTURES = {"InternVL3_5-30B-A3B": "llm_config", "InternVL3_5-30B-A3B-HF": "text_config"}
HARMONY = {"InternVL3_5-GPT-OSS-20B-A4B-Preview": "llm_config", "InternVL3_5-GPT-OSS-20B-A4B-Preview-HF": "text_config"}
WINDOWS = {"sliding_window": (None, 0, -3, "8"), "layer_types": (["chunked_attention", "full_attention"], "sliding")}
CONFIG = "config.json"

FAULTS: list[tuple[str, str, str, Any, str]] = [
    *(
        (name, CONFIG, f"{part}.num_experts_per_tok", value, "num_experts_per_tok")
        for name, part in (MIXTURES | HARMONY).items()
        for value in (0, 9, -1)
    ),
    *(
        (name, CONFIG, f"{part}.{setting}", value, setting)
        for name, part in HARMONY.items()
        for setting, values in WINDOWS.items()
        for value in values
    ),
    (NATIVE, CONFIG, "quantization_config", {"quant_method": "awq", "bits": 4}, "awq"),
    (NATIVE, CONFIG, "quantization_config", {"quant_method": "fp8"}, "fp8"),
    (NATIVE, CONFIG, "quantization_config", "gptq", "gptq"),
    (NATIVE, CONFIG, "text_config.quantization_config", {"quant_method": "compressed-tensors"}, "compressed-tensors"),
    (NATIVE, CONFIG, "vision_feature_select_strategy", "full", "vision_feature_select_strategy"),
    (NATIVE, CONFIG, "text_config.rope_scaling", {"type": "linear", "factor": 0}, "factor"),
    (NATIVE, CONFIG, "text_config.rope_scaling", {"type": "dynamic", "factor": float("nan")}, "factor"),
    (NATIVE, CONFIG, "text_config.rope_parameters", {"rope_type": "default", "rope_theta": -1.0}, "rope_theta"),
    (ORIGINAL, CONFIG, "llm_config.rope_scaling", {"type": "yarn", "factor": "4"}, "factor"),
    (NATIVE, "preprocessor_config.json", "image_processor_type", "CLIPImageProcessor", "image_processor_type"),
    (NATIVE, "generation_config.json", "eos_token_id", 10**9, "1000000000"),
    (NATIVE, "generation_config.json", "eos_token_id", [1, -5], "-5"),
    (NATIVE, "tokenizer_config.json", "eos_token", "<nowhere>", "rows"),
    (ORIGINAL, "tokenizer_config.json", "eos_token", "<nowhere>", "rows"),
]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("published")
    return {name: write_published(name, folder) for name in sorted({fault[0] for fault in FAULTS})}


def change(folder: Path, file: str, setting: str, value: Any) -> None:
    """Set a setting; `part.name` is one of a part."""
    content = json.loads((folder / file).read_text("utf-8")) if (folder / file).exists() else {}
    part, _, name = setting.rpartition(".")
    (content[part] if part else content)[name] = value
    (folder / file).write_text(json.dumps(content), "utf-8")


@pytest.mark.parametrize(
    ("name", "file", "setting", "value", "named"), FAULTS, ids=lambda value: repr(value)[:40] if value else "none"
)
def test_faults_are_refused_by_name(
    name: str, file: str, setting: str, value: Any, named: str, written: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(written[name], tmp_path / name))
    change(folder, file, setting, value)
    for load in (load_backbone, describe):
        with pytest.raises(CheckpointError, match=named):
            load(folder)


def test_no_token_that_ends_answers_is_refused(written: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(written[NATIVE], tmp_path / NATIVE))
    for file, setting in (
        ("generation_config.json", "eos_token_id"),
        ("tokenizer_config.json", "eos_token"),
        (CONFIG, "text_config.eos_token_id"),
    ):
        change(folder, file, setting, None)
    for load in (load_backbone, describe):
        with pytest.raises(CheckpointError, match="names no token that ends"):
            load(folder)


@pytest.mark.parametrize("name", [ORIGINAL, NATIVE])
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32], ids=str)
def test_weights_of_whole_numbers_are_refused(
    name: str, dtype: torch.dtype, written: dict[str, Path], tmp_path: Path
) -> None:
    """AWQ, GPTQ and int8 folders have such, with scales; without these they would load as if they were the weights."""
    folder = Path(shutil.copytree(written[name], tmp_path / name))
    state = load_file(folder / "model.safetensors")
    key = next(key for key in state if key.endswith("layers.0.mlp.up_proj.weight"))
    state[key] = state[key].to(dtype)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    for load in (load_backbone, describe):
        with pytest.raises(CheckpointError, match=r"up_proj.*quantized"):
            load(folder)


def test_an_index_of_nothing_but_names_is_enough(written: dict[str, Path], tmp_path: Path) -> None:
    """Tools that split files write the table alone, of which transformers fails with `KeyError: 'metadata'`."""
    folder = Path(shutil.copytree(written[NATIVE], tmp_path / NATIVE))
    expected, ids = load_backbone(folder, dtype="fp32"), torch.arange(40)
    shard = "model-00001-of-00001.safetensors"
    index = {"weight_map": dict.fromkeys(load_file(folder / "model.safetensors"), shard)}
    (folder / "model.safetensors").rename(folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    found = load_backbone(folder, dtype="fp32")
    assert found.fingerprint == expected.fingerprint and found.end_ids == expected.end_ids
    assert torch.equal(found.logits(ids), expected.logits(ids))
    assert describe(folder).parameters.total == sum(each.numel() for each in expected.model.parameters())


def test_info_takes_the_frequencies_that_old_files_keep(written: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(written[NATIVE], tmp_path / NATIVE))
    state = load_file(folder / "model.safetensors")
    state["model.language_model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    expected = sum(each.numel() for each in load_backbone(folder).model.parameters())
    assert describe(folder).parameters.total == expected


def test_rotary_settings_saved_by_transformers_5_are_read(written: dict[str, Path], tmp_path: Path) -> None:
    """It joins `rope_theta` and `rope_scaling`; an original folder saved again would have turned with another base."""
    logits = []
    for number, settings in enumerate(
        (
            {"rope_theta": 1e6, "rope_scaling": {"type": "linear", "factor": 2.0}},
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e6}},
        )
    ):
        folder = Path(shutil.copytree(written[ORIGINAL], tmp_path / f"{number}"))
        for name in ("rope_theta", "rope_scaling", "rope_parameters"):
            change(folder, CONFIG, f"llm_config.{name}", settings.get(name))
        logits.append(load_backbone(folder, dtype="fp32").logits(torch.arange(40)))
    assert torch.equal(logits[0], logits[1])


def test_answers_are_not_changed_by_generation_settings_of_the_checkpoint(
    written: dict[str, Path], tmp_path: Path
) -> None:
    """transformers takes what a call does not say from the checkpoint: a penalty, or tokens not to be written."""
    ids = torch.arange(30)
    expected = load_backbone(written[NATIVE], dtype="fp32").generate_ids(ids, max_new_tokens=8)
    folder = Path(shutil.copytree(written[NATIVE], tmp_path / NATIVE))
    for name, value in (("repetition_penalty", 5.0), ("suppress_tokens", expected), ("num_beams", 0)):
        change(folder, "generation_config.json", name, value)
    assert load_backbone(folder, dtype="fp32").generate_ids(ids, max_new_tokens=8) == expected
