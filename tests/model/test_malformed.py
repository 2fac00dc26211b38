"""Checkpoints with nonsense in them: loading and `info` refuse them with an error of their own, and nothing hangs."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import original_format as official
import pytest
import torch
from conftest import tiny_backbone
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from vision_agent.cli.describe import describe
from vision_agent.errors import CheckpointError
from vision_agent.model.checkpoint import load_backbone, save_backbone

CHECKPOINTS = ("native", "original")
NAN, HUGE = float("nan"), 10**30


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    save_backbone(tiny_backbone(), folder / "native", torch.float32)
    official.write_folder(folder / "original", "qwen2")
    return folder


@pytest.fixture
def copied(sources: Path, tmp_path: Path) -> Callable[[str], Path]:
    def copy(kind: str) -> Path:
        shutil.rmtree(tmp_path / kind, ignore_errors=True)
        shutil.copytree(sources / kind, tmp_path / kind)
        return tmp_path / kind

    return copy


def put(folder: Path, file: str, path: str, value: Any) -> None:
    """Set a value inside a JSON file; a file or an object that is not there is made."""
    content = json.loads((folder / file).read_text("utf-8")) if (folder / file).exists() else {}
    inner = content
    *parts, last = path.split(".")
    for part in parts:
        inner = inner.setdefault(part, {})
    inner[last] = value
    (folder / file).write_text(json.dumps(content), "utf-8")


def refused(folder: Path, said: str) -> None:
    for load in (load_backbone, describe):
        with pytest.raises(CheckpointError, match=said):
            load(folder)


@pytest.mark.parametrize("kind", CHECKPOINTS)
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "generation_config.json", "odd.jinja"])
@pytest.mark.parametrize("damage", ["loop", "pipe", "folder"])
def test_what_is_no_file_is_refused(kind: str, file: str, damage: str, copied: Callable[[str], Path]) -> None:
    folder = copied(kind)
    (folder / file).unlink(missing_ok=True)
    if damage == "loop":
        (folder / file).symlink_to(file)
    elif damage == "pipe":
        os.mkfifo(folder / file)
    else:
        (folder / file).mkdir()
    refused(folder, file.replace(".", r"\."))


@pytest.mark.parametrize("kind", CHECKPOINTS)
@pytest.mark.parametrize("text", ["", "null", "[]", "3", '"x"', "\ufeff{}", '{"eos_token_id": "x"}', "\x00\x01"])
def test_an_end_of_answers_that_cannot_be_read_is_refused(kind: str, text: str, copied: Callable[[str], Path]) -> None:
    """transformers passes over it in silence, and answers go on to the limit."""
    folder = copied(kind)
    (folder / "generation_config.json").write_text(text, "utf-8")
    refused(folder, r"generation_config\.json")


@pytest.mark.parametrize("kind", CHECKPOINTS)
@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("architectures", -1),
        ("architectures", NAN),
        ("architectures", True),
        ("architectures", "InternVLChatModel"),
        ("architectures", [1]),
        ("model_type", ["internvl"]),
        ("vision_config", "x"),
        ("vision_config.model_type", 1.5),
        ("vision_config.num_attention_heads", -1),
        ("vision_config.layer_norm_eps", NAN),
        ("LANGUAGE", []),
        ("LANGUAGE.max_position_embeddings", HUGE),
        ("LANGUAGE.max_position_embeddings", -1),
        ("LANGUAGE.rope_theta", "x"),
        ("LANGUAGE.rope_theta", 0),
        ("LANGUAGE.rope_theta", NAN),
        ("LANGUAGE.rope_scaling", [1]),
        ("LANGUAGE.rms_norm_eps", NAN),
        ("LANGUAGE.hidden_size", -64),
        ("LANGUAGE.vocab_size", 0),
        ("LANGUAGE.eos_token_id", [1.5]),
        ("vision_agent", "x"),
        ("vision_agent", [1]),
    ],
)
def test_settings_of_another_kind_are_named(kind: str, setting: str, value: Any, copied: Callable[[str], Path]) -> None:
    folder = copied(kind)
    setting = setting.replace("LANGUAGE", "text_config" if kind == "native" else "llm_config")
    put(folder, "config.json", setting, value)
    refused(folder, rf"config\.json says .*{setting.split('.')[-1]}")


@pytest.mark.parametrize("layer", [HUGE, -9, [1], "x", None])
def test_a_layer_that_the_tower_does_not_have_is_refused(layer: Any, copied: Callable[[str], Path]) -> None:
    folder = copied("native")
    put(folder, "config.json", "vision_feature_layer", layer)
    refused(folder, "vision_feature_layer")


def test_a_native_folder_whose_template_fails_is_refused_by_info(copied: Callable[[str], Path]) -> None:
    folder = copied("native")
    for template in ("", "{{ 1 / 0 }}", "words"):
        (folder / "chat_template.jinja").write_text(template, "utf-8")
        with pytest.raises(CheckpointError, match="template"):
            describe(folder)


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**12), 10**12),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(-3, 3), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)
PLACES = [
    *[
        ("config.json", f"LANGUAGE.{name}")
        for name in ("num_hidden_layers", "num_key_value_heads", "head_dim", "rope_scaling")
    ],
    *[("config.json", f"LANGUAGE.{name}") for name in ("hidden_act", "tie_word_embeddings", "num_attention_heads")],
    *[("config.json", f"vision_config.{name}") for name in ("patch_size", "image_size", "norm_type", "hidden_act")],
    *[("config.json", name) for name in ("image_token_id", "downsample_ratio", "template", "force_image_size")],
    *[("config.json", name) for name in ("max_dynamic_patch", "select_layer", "ps_version", "torch_dtype")],
    *[("tokenizer_config.json", name) for name in ("added_tokens_decoder", "eos_token", "additional_special_tokens")],
    *[("tokenizer_config.json", name) for name in ("model_max_length", "tokenizer_class", "legacy")],
    *[("generation_config.json", name) for name in ("eos_token_id", "pad_token_id", "temperature", "answers")],
    *[("preprocessor_config.json", name) for name in ("size", "image_mean", "max_patches")],
    *[("processor_config.json", name) for name in ("image_processor", "chat_template")],
]


@pytest.mark.parametrize("kind", CHECKPOINTS)
@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(place=st.sampled_from(PLACES), value=JUNK)
def test_nonsense_never_ends_in_an_error_of_another_library(
    kind: str, place: tuple[str, str], value: Any, copied: Callable[[str], Path]
) -> None:
    folder = copied(kind)
    file, setting = place
    put(folder, file, setting.replace("LANGUAGE", "text_config" if kind == "native" else "llm_config"), value)
    works: dict[str, bool] = {}
    for name, use in (("load", lambda: load_backbone(folder).encode("what?")), ("info", lambda: describe(folder))):
        try:
            use()
        except CheckpointError:
            works[name] = False
        else:
            works[name] = True
    # What does not load is not described as if it did.
    assert works["load"] or not works["info"]
