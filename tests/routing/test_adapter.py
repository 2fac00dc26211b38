"""Adapters: saved and loaded as folders, onto their own base model alone."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from conftest import tiny_backbone
from PIL import Image
from safetensors.torch import load_file, save_file

from vision_agent import AdapterMismatchError, CheckpointError, RouteSpec, UnknownDecoderError, VisionAgent
from vision_agent.errors import RouteError
from vision_agent.model.backbone import Backbone
from vision_agent.model.checkpoint import load_backbone, save_backbone
from vision_agent.routing import adapter as adapter_module
from vision_agent.routing.adapter import (
    add_token,
    change_settings,
    load_adapter,
    new_route,
    read_tensors,
    save_adapter,
    share_tensors,
)

DET = RouteSpec(token="[DET]", decoder="box", num_queries=4)
IMAGE = Image.new("RGB", (90, 60), "green")


@pytest.fixture
def adapter(checkpoint: Path, tmp_path: Path) -> Path:
    backbone = load_backbone(checkpoint)
    route = new_route(backbone, DET, torch.Generator().manual_seed(1))
    save_adapter(tmp_path / "det", route, backbone, torch.float32)
    return tmp_path / "det"


def test_round_trip_gives_the_same_detections(checkpoint: Path, tmp_path: Path) -> None:
    backbone = load_backbone(checkpoint)
    route = new_route(backbone, DET, torch.Generator().manual_seed(1))
    save_adapter(tmp_path / "det", route, backbone, torch.float32)
    agent = VisionAgent.from_pretrained(checkpoint, adapters=[tmp_path / "det"])
    loaded = agent.routes["det"]
    assert loaded.spec == DET
    for name, tensor in route.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    row = backbone.model.get_input_embeddings().weight[route.token_id]
    assert torch.equal(agent.backbone.model.get_input_embeddings().weight[loaded.token_id], row)
    first = agent.detect("a dog", IMAGE, threshold=0)
    again = VisionAgent.from_pretrained(checkpoint, adapters=[tmp_path / "det"]).detect("a dog", IMAGE, threshold=0)
    assert len(first) > 0
    assert first == again


def test_adapters_inside_a_checkpoint_load_by_themselves(checkpoint: Path, adapter: Path) -> None:
    shutil.copytree(adapter, checkpoint / "adapters" / "det")
    assert list(VisionAgent.from_pretrained(checkpoint).routes) == ["det"]


def test_loading_a_second_adapter_leaves_the_first_alone(checkpoint: Path, adapter: Path, tmp_path: Path) -> None:
    backbone = load_backbone(checkpoint)
    spec = DET.model_copy(update={"token": "[OTHER]"})
    save_adapter(tmp_path / "other", new_route(backbone, spec), backbone, torch.float32)
    agent = VisionAgent.from_pretrained(checkpoint, adapters=[adapter])
    before = agent.detect("a dog", IMAGE, threshold=0)
    agent.load_adapter(tmp_path / "other")
    assert sorted(agent.routes) == ["det", "other"]
    assert agent.routes["det"].token_id != agent.routes["other"].token_id
    assert agent.detect("a dog", IMAGE, threshold=0) == before


def test_adapter_of_another_base_is_refused(adapter: Path, tmp_path: Path) -> None:
    save_backbone(tiny_backbone(seed=5), tmp_path / "stranger", torch.float32)
    with pytest.raises(AdapterMismatchError, match=r"'tiny'.*not on 'stranger'"):
        VisionAgent.from_pretrained(tmp_path / "stranger", adapters=[adapter])


def test_half_written_adapter_is_refused(checkpoint: Path, adapter: Path) -> None:
    weights = adapter / "adapter.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        VisionAgent.from_pretrained(checkpoint, adapters=[adapter])
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"no adapter\.safetensors"):
        VisionAgent.from_pretrained(checkpoint, adapters=[adapter])


def test_unknown_decoder_is_named(checkpoint: Path, adapter: Path) -> None:
    info = json.loads((adapter / "adapter.json").read_text())
    info["route"]["decoder"] = "telepathy"
    (adapter / "adapter.json").write_text(json.dumps(info))
    with pytest.raises(UnknownDecoderError, match=r"'telepathy'.*box"):
        VisionAgent.from_pretrained(checkpoint, adapters=[adapter])


def test_settings_the_decoder_does_not_take_are_named(checkpoint: Path, adapter: Path) -> None:
    info = json.loads((adapter / "adapter.json").read_text())
    info["decoder_settings"]["colour"] = "blue"
    (adapter / "adapter.json").write_text(json.dumps(info))
    with pytest.raises(CheckpointError, match="colour"):
        VisionAgent.from_pretrained(checkpoint, adapters=[adapter])


def test_an_agent_without_the_route_says_what_to_do(checkpoint: Path) -> None:
    with pytest.raises(RouteError, match="load_adapter"):
        VisionAgent.from_pretrained(checkpoint).run_route("det", "dog", IMAGE)


def differing(settings: float) -> RouteSpec:
    return DET.model_copy(update={"loss_weight": settings})


@pytest.mark.parametrize("cut", ["adapter.safetensors.partial", "adapter.safetensors", "adapter.json"])
def test_a_save_that_is_cut_off_never_mixes_two_adapters(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    """Killed at any of its steps over an older adapter: the old one loads, the new one loads, or neither does."""
    backbone = load_backbone(checkpoint)
    old, new = (
        new_route(backbone, differing(weight), torch.Generator().manual_seed(seed)) for weight, seed in ((1, 1), (2, 2))
    )
    folder = tmp_path / "det"
    save_adapter(folder, old, backbone, torch.float32)
    replace, write = os.replace, adapter_module.save_file

    def dies_writing(tensors: dict[str, torch.Tensor], path: Path) -> None:
        write(tensors, path)
        if cut == path.name:
            path.write_bytes(path.read_bytes()[:100])
            raise KeyboardInterrupt

    def dies(source: Path, target: Path) -> None:
        if target.name == cut:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(adapter_module, "save_file", dies_writing)
    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        save_adapter(folder, new, backbone, torch.float32)
    monkeypatch.undo()
    try:
        loaded = load_adapter(folder, backbone)
    except CheckpointError as error:
        assert "half-written" in str(error)
    else:
        whole = old if loaded.spec == old.spec else new
        assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    save_adapter(folder, new, backbone, torch.float32)
    assert load_adapter(folder, backbone).spec == new.spec


def test_settings_that_are_cut_off_are_those_of_before(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (adapter / "adapter.json").read_bytes()
    write = Path.write_text

    def dies(self: Path, text: str, *args: object) -> int:
        write(self, text[: len(text) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", dies)
    with pytest.raises(KeyboardInterrupt):
        change_settings(adapter, threshold=0.9)
    monkeypatch.undo()
    assert (adapter / "adapter.json").read_bytes() == before
    with pytest.raises(CheckpointError, match="colour"):
        change_settings(adapter, colour="blue")
    assert (adapter / "adapter.json").read_bytes() == before
    change_settings(adapter, threshold=0.9)
    assert json.loads((adapter / "adapter.json").read_text())["decoder_settings"]["threshold"] == 0.9


def test_a_base_with_an_output_table_of_its_own_keeps_both_rows(tmp_path: Path) -> None:
    backbone, other = (untied() for _ in range(2))
    route = new_route(backbone, DET)
    tables = [backbone.model.get_input_embeddings().weight, backbone.model.get_output_embeddings().weight]
    means = [table[:-1].mean(dim=0) for table in tables]
    for table, mean in zip(tables, means, strict=True):
        torch.testing.assert_close(table[route.token_id], mean)
    assert not torch.allclose(*means)
    with torch.no_grad():
        tables[0][route.token_id], tables[1][route.token_id] = 0.25, -0.5
    save_adapter(tmp_path / "det", route, backbone)
    token = load_adapter(tmp_path / "det", other).token_id
    assert set(other.model.get_input_embeddings().weight[token].tolist()) == {0.25}
    assert set(other.model.get_output_embeddings().weight[token].tolist()) == {-0.5}
    load_adapter(tmp_path / "det", other)  # once more: rows are set, not added to
    assert set(other.model.get_input_embeddings().weight[token].tolist()) == {0.25}


def untied() -> Backbone:
    """The tiny backbone with an output table of its own."""
    backbone = tiny_backbone()
    table = backbone.model.get_output_embeddings()
    table.weight = torch.nn.Parameter(table.weight.detach() * 0.5 + 1.0, requires_grad=False)
    backbone.model.config.tie_word_embeddings = backbone.model.config.text_config.tie_word_embeddings = False
    return backbone


def test_decoders_stay_in_fp32(checkpoint: Path, adapter: Path) -> None:
    route = load_adapter(adapter, load_backbone(checkpoint, dtype="bfloat16"))
    assert route.queries.weight.dtype == torch.bfloat16
    assert {tensor.dtype for tensor in route.decoder.parameters()} == {torch.float32}


@pytest.mark.parametrize("version", [0, 2])
def test_other_formats_are_refused(checkpoint: Path, adapter: Path, version: int) -> None:
    info = json.loads((adapter / "adapter.json").read_text())
    (adapter / "adapter.json").write_text(json.dumps(info | {"format": version}))
    with pytest.raises(CheckpointError, match=f"format {version}; this version reads 1"):
        load_adapter(adapter, load_backbone(checkpoint))


def test_weights_that_are_missing_are_not_made_up(checkpoint: Path, adapter: Path) -> None:
    tensors = load_file(adapter / "adapter.safetensors")
    for name in ("queries.weight", "decoder.logit_scale"):
        fewer = {key: tensor for key, tensor in tensors.items() if key != name}
        save_file(fewer, adapter / "adapter.safetensors")
        with pytest.raises(CheckpointError, match="does not fit its decoder"):
            load_adapter(adapter, load_backbone(checkpoint))


def test_an_ordinary_word_is_no_routing_token(checkpoint: Path) -> None:
    backbone = load_backbone(checkpoint)
    vocabulary, added = backbone.tokenizer.get_vocab(), backbone.tokenizer.added_tokens_decoder
    word = next(text for text, number in vocabulary.items() if number not in added)
    with pytest.raises(RouteError, match="ordinary token"):
        add_token(backbone, word)


def test_files_are_as_readable_as_others(adapter: Path) -> None:
    beside = adapter / "beside.txt"
    beside.write_text("by the rules of this process")
    assert (adapter / "adapter.safetensors").stat().st_mode == beside.stat().st_mode


# --- weights shared with the adapter beside


@pytest.fixture
def pair(adapter: Path) -> Path:
    """A second adapter beside the first: the same weights, but for one."""
    second = adapter.parent / "second"
    shutil.copytree(adapter, second)
    tensors = load_file(second / "adapter.safetensors")
    save_file(tensors | {"decoder.phrase_bias.bias": torch.tensor([9.0])}, second / "adapter.safetensors")
    share_tensors(second, "det", "decoder.", "decoder.")
    return second


def test_weights_that_two_adapters_have_are_on_the_disk_once(checkpoint: Path, adapter: Path, pair: Path) -> None:
    first, second = load_file(adapter / "adapter.safetensors"), read_tensors(pair)
    assert list(load_file(pair / "adapter.safetensors")) == [
        "decoder.phrase_bias.bias",
        "queries.weight",
        "token.input",
    ]
    assert second.keys() == first.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == ["decoder.phrase_bias.bias"]
    route = load_adapter(pair, load_backbone(checkpoint))
    assert torch.equal(route.decoder.state_dict()["phrase_bias.bias"], torch.tensor([9.0]))
    before = (pair / "adapter.safetensors").read_bytes()
    share_tensors(pair, "det", "decoder.", "decoder.")
    assert (pair / "adapter.safetensors").read_bytes() == before


def test_shared_weights_that_are_missing_or_others_are_told(checkpoint: Path, adapter: Path, pair: Path) -> None:
    backbone = load_backbone(checkpoint)
    tensors = load_file(adapter / "adapter.safetensors")
    name = "decoder.phrase_head.1.weight"
    for changed in ({**tensors, name: tensors[name] + 1}, {k: v for k, v in tensors.items() if k != name}):
        save_file(changed, adapter / "adapter.safetensors")
        with pytest.raises(CheckpointError, match=r"second.*'det' beside it, which has others"):
            load_adapter(pair, backbone)
    (adapter / "adapter.safetensors").write_bytes(b"x" * 20)
    with pytest.raises(CheckpointError, match=r"det.*damaged"):
        load_adapter(pair, backbone)
    shutil.rmtree(adapter)
    with pytest.raises(CheckpointError, match=r"shares weights with 'det'.*copy both folders"):
        load_adapter(pair, backbone)


def test_shared_weights_come_from_the_folder_beside_alone(checkpoint: Path, adapter: Path, pair: Path) -> None:
    info = json.loads((pair / "adapter.json").read_text())
    for name in ("../det", "/etc", "..", "a/b", ""):
        (pair / "adapter.json").write_text(json.dumps(info | {"shared": info["shared"] | {"adapter": name}}))
        with pytest.raises(CheckpointError, match="damaged"):
            load_adapter(pair, load_backbone(checkpoint))
