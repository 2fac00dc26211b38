"""Checkpoints with merged adapters, written as folders that others load: every family, both formats, and what fails."""

import json
import shutil
from pathlib import Path
from typing import Any

import original_format as official
import pytest
import torch
from conftest import tiny_backbone
from peft import LoraConfig, get_peft_model
from published_checkpoints import NATIVE, write_published
from safetensors.torch import load_file
from test_original_agent import image
from transformers import AutoTokenizer, InternVLForConditionalGeneration

from vision_agent import CheckpointError, InputError, RouteSpec, VisionAgent
from vision_agent import checkpoint_export as exporting
from vision_agent.checkpoint_export import Format, export_checkpoint
from vision_agent.cli.main import main
from vision_agent.model.backbone import Backbone
from vision_agent.model.checkpoint import load_backbone, save_backbone
from vision_agent.model.lora import apply_lora
from vision_agent.routing.adapter import new_route, save_adapter

FORMATS: tuple[Format, ...] = ("native", "original")
Seen = tuple[list[int], list[int], torch.Tensor, list[int], list[int]]


def load(folder: Path, **settings: Any) -> Backbone:
    return load_backbone(folder, device="cpu", dtype="fp32", **settings)


def look(backbone: Backbone) -> Seen:
    """Ids of a first and of a later question, logits, a written answer, and what ends it."""
    first = backbone.encode("What is it?", image(1))
    later = backbone.encode("and now?", image(1), history=[("<image>\nWhat?", "A dog.")])
    written = backbone.generate_ids(first.input_ids, first.pixel_values, max_new_tokens=5)
    logits = backbone.logits(first.input_ids, first.pixel_values)
    return first.input_ids.tolist(), later.input_ids.tolist(), logits, written, backbone.end_ids


def check_same(got: Seen, expected: Seen, tolerance: float = 1e-4) -> None:
    assert (got[0], got[1], got[3], got[4]) == (expected[0], expected[1], expected[3], expected[4])
    rows = min(got[2].shape[1], expected[2].shape[1])  # a route's token adds one
    torch.testing.assert_close(got[2][:, :rows], expected[2][:, :rows], atol=tolerance, rtol=0)


def save_lora(backbone: Backbone, folder: Path) -> Path:
    """A LoRA of random weights on every attention of the language model. Changes the backbone."""
    torch.manual_seed(3)
    last = r".*language_model\.layers\.\d+\.self_attn\.(q_proj|v_proj|o_proj|qkv_proj)"
    wrapped: Any = get_peft_model(backbone.model, LoraConfig(r=2, lora_alpha=4, target_modules=last))
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    wrapped.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", sorted(official.FAMILIES))
def test_every_family_in_both_formats_with_lora(tmp_path: Path, family: str) -> None:
    content, _ = official.write_folder(tmp_path / "base", family, "6b" if family in ("yi", "internlm2") else "300m")
    lora = save_lora(load(tmp_path / "base"), tmp_path / "lora")
    plain, merged = look(load(tmp_path / "base")), look(load(tmp_path / "base", lora=lora))
    assert float((plain[2] - merged[2]).abs().max()) > 0.05
    unmerged = load(tmp_path / "base")
    apply_lora(unmerged.model, [lora], merge=False)
    check_same(look(unmerged), merged)

    export_checkpoint(tmp_path / "base", tmp_path / "native", adapters=[lora])
    export_checkpoint(tmp_path / "base", tmp_path / "original", adapters=[lora], format="original")
    export_checkpoint(tmp_path / "native", tmp_path / "again", format="original")
    for name in ("native", "original", "again"):
        check_same(look(load(tmp_path / name)), merged)

    # Others read it: transformers alone, and an independent reader of the original names.
    model = InternVLForConditionalGeneration.from_pretrained(tmp_path / "native").eval()
    assert AutoTokenizer.from_pretrained(tmp_path / "native").encode("<IMG_CONTEXT>")[-1] == model.config.image_token_id
    backbone = load(tmp_path / "original")
    shown = backbone.encode("What is it?", image(1))
    for name in ("original", "again"):
        state = load_file(tmp_path / name / "model.safetensors")
        written = json.loads((tmp_path / name / "config.json").read_text())
        reader = content if name == "original" else written
        if family == "internlm2" and name == "again":  # natively InternLM2 is a Llama, and stays one
            assert written["llm_config"]["architectures"] == ["LlamaForCausalLM"]
        context = backbone.model.config.image_token_id
        reference = official.reference_logits(state, reader, shown.input_ids.tolist(), shown.pixel_values, context)
        torch.testing.assert_close(reference, merged[2], atol=2e-4, rtol=0)
    kept = json.loads((tmp_path / "original" / "config.json").read_text())
    assert kept["auto_map"] == content["auto_map"] and kept["use_llm_lora"] == 0


@pytest.mark.parametrize("format", ["native", "original"])
@pytest.mark.parametrize("family", ["qwen2", "internlm2", "gpt_oss"])
def test_a_routes_token_has_its_row_and_the_route_goes_along(tmp_path: Path, family: str, format: Any) -> None:
    official.write_folder(tmp_path / "base", family)
    lora = save_lora(load(tmp_path / "base"), tmp_path / "lora")
    backbone = load(tmp_path / "base", lora=lora)
    route = new_route(backbone, RouteSpec(token="[NEAR]", decoder="box", num_queries=2, read="queries"))
    save_adapter(tmp_path / "near", route, backbone, torch.float32)
    before = VisionAgent.from_pretrained(tmp_path / "base", adapters=[tmp_path / "near"], lora=lora, dtype="fp32")

    export_checkpoint(tmp_path / "base", tmp_path / "out", adapters=[tmp_path / "near", lora], format=format)
    after = VisionAgent.from_pretrained(tmp_path / "out", dtype="fp32")
    assert list(after.routes) == ["near"]
    assert after.routes["near"].token_id == before.routes["near"].token_id == route.token_id
    found = [agent.run_route("near", "dog", image(1), threshold=0.0).model_dump() for agent in (before, after)]
    one, other = (each | {"model": "", "inference_ms": 0} for each in found)
    assert one == other
    check_same(look(after.backbone), look(before.backbone))
    # The token stands in the folder itself, without the adapter too.
    shutil.rmtree(tmp_path / "out" / "adapters")
    bare = load(tmp_path / "out")
    assert bare.tokenizer.convert_tokens_to_ids("[NEAR]") == route.token_id
    table, expected = bare.model.get_input_embeddings().weight, before.backbone.model.get_input_embeddings().weight
    assert torch.equal(table[route.token_id], expected[route.token_id])


@pytest.mark.parametrize("name", NATIVE)
def test_published_native_settings_in_both_formats(tmp_path: Path, name: str) -> None:
    source = write_published(name, tmp_path)
    expected = look(load(source))
    for format in FORMATS:
        export_checkpoint(source, tmp_path / format, format=format)
        check_same(look(load(tmp_path / format)), expected)
    written = json.loads((tmp_path / "original" / "config.json").read_text())
    assert written["architectures"] == ["InternVLChatModel"]
    # Its own prompts have no system message, which the official template would add.
    assert written["vision_agent"]["prompts"] == "chat_template.jinja"
    generation = source / "generation_config.json"
    if generation.is_file():
        assert (tmp_path / "native" / generation.name).read_bytes() == generation.read_bytes()


def test_weights_come_in_files_with_an_index_and_keep_their_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, state = official.write_folder(tmp_path / "base")
    official.write_original(tmp_path / "base", content, {key: tensor.bfloat16() for key, tensor in state.items()}, 3)
    for name in [path.name for path in (tmp_path / "base").glob("model.safetensors")]:
        (tmp_path / "base" / name).unlink()
    monkeypatch.setattr(exporting, "_SHARD_BYTES", 60_000)
    export_checkpoint(tmp_path / "base", tmp_path / "out", format="original")
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 2 and {path.name for path in files} == set(index["weight_map"].values())
    written = {key: tensor for path in files for key, tensor in load_file(path).items()}
    assert written.keys() == state.keys() == index["weight_map"].keys()
    assert all(torch.equal(written[key], state[key].bfloat16()) for key in state)


def test_one_table_of_words_stays_one(tmp_path: Path) -> None:
    save_backbone(tiny_backbone(), tmp_path / "base", torch.float32)
    for format in FORMATS:
        export_checkpoint(tmp_path / "base", tmp_path / format, format=format)
        assert not any("lm_head" in key for key in load_file(tmp_path / format / "model.safetensors"))
        check_same(look(load(tmp_path / format)), look(load(tmp_path / "base")))


def test_transposed_image_tokens_are_for_the_original_format_alone(tmp_path: Path) -> None:
    official.write_folder(tmp_path / "base", "internlm2", ps_version="v1")
    with pytest.raises(CheckpointError, match=r"ps_version 'v1'.*use the format 'original'"):
        export_checkpoint(tmp_path / "base", tmp_path / "out")
    export_checkpoint(tmp_path / "base", tmp_path / "out", format="original")
    check_same(look(load(tmp_path / "out")), look(load(tmp_path / "base")))


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    official.write_folder(tmp_path / "base")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    for target, said in ((tmp_path / "full", "holds files"), (tmp_path / "full" / "mine.txt", "a new or an empty")):
        with pytest.raises(InputError, match=said):
            export_checkpoint(tmp_path / "base", target)
    with pytest.raises(InputError, match="does not exist"):
        export_checkpoint(tmp_path / "base", tmp_path / "no" / "out")
    with pytest.raises(InputError, match="`format`"):
        export_checkpoint(tmp_path / "base", tmp_path / "out", format="gguf")  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=r"neither adapter_config\.json"):
        export_checkpoint(tmp_path / "base", tmp_path / "out", adapters=[tmp_path / "full"])
    (tmp_path / "empty").mkdir()
    with monkeypatch.context() as broken:
        broken.setattr(exporting, "load_tokenizer", lambda folder: (_ for _ in ()).throw(OSError("no space left")))
        with pytest.raises(OSError, match="no space left"):
            export_checkpoint(tmp_path / "base", tmp_path / "empty", format="original")
    assert not list((tmp_path / "empty").iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "empty", "full"]
    export_checkpoint(tmp_path / "base", tmp_path / "empty", format="original")
    check_same(look(load(tmp_path / "empty")), look(load(tmp_path / "base")))


def test_links_that_lead_elsewhere_are_not_copied(tmp_path: Path) -> None:
    official.write_folder(tmp_path / "base")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "base" / "README.md").symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match=r"README\.md .*leads out of the folder"):
        export_checkpoint(tmp_path / "base", tmp_path / "out", format="original")
    assert not (tmp_path / "out").exists()


def test_the_command_and_the_model_that_has_no_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    official.write_folder(tmp_path / "base")
    (tmp_path / "base" / "modeling_internvl_chat.py").write_text("raise SystemExit('was run')\n")
    with pytest.raises(SystemExit) as left:
        main(["export", str(tmp_path / "base"), str(tmp_path / "out"), "--format", "original"])
    assert left.value.code == 0 and capsys.readouterr().out.strip() == str(tmp_path / "out")
    assert (tmp_path / "out" / "modeling_internvl_chat.py").is_file()
    for format in ("native", "original"):
        with pytest.raises(SystemExit) as left:
            main(["export", "default", str(tmp_path / "mine"), "--format", format])
        assert left.value.code == 2
        assert "a vision tower of its own ('vision_agent_lite_tower')" in capsys.readouterr().err
    assert not (tmp_path / "mine").exists()
