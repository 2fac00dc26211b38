"""int8 weights are rounded while they are read: memory is that of the rounded model, and the values are the same."""

import json
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import original_format as official
import pytest
import torch
from conftest import tiny_backbone
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vision_agent import ConfigError
from vision_agent.cli.describe import describe
from vision_agent.errors import CheckpointError
from vision_agent.model import load_options
from vision_agent.model.checkpoint import load_backbone, save_backbone
from vision_agent.model.int8 import Int8Experts, Int8Linear, quantize_linears
from vision_agent.model.load_options import LoadOptions, check_mixture, load_arguments, rounds_while_reading
from vision_agent.model.original import convert

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights stay as they were read, on every CPU: what is packed afterwards has tests of its own."""
    monkeypatch.setattr(load_options, "packs_here", lambda: False)


class PeakBytes(TorchDispatchMode):
    """Counts the bytes of all tensors on the CPU that operations made, or that were read, and that are still there.

    Attributes:
        most: the largest sum there was.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for each in tree_leaves(output):
            if isinstance(each, Tensor) and each.device.type == "cpu" and each.layout == torch.strided:
                self._count(each.untyped_storage())
        return output

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen or not size:
            return
        self._seen.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


def wide(folder: Path, family: str) -> Path:
    """A checkpoint whose language model has nearly all of the bytes, in many layers."""
    sizes = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 8, "num_attention_heads": 4}
    if family == "qwen3_moe":
        sizes |= {"moe_intermediate_size": 128, "num_experts": 8}
    content = official.tiny_config(family, **{f"llm_config__{name}": size for name, size in sizes.items()})
    rows = official.write_tokenizer(folder, family)
    content["llm_config"]["vocab_size"] = rows
    official.write_original(folder, content, official.tiny_state(content), shards=3)
    return folder


def held(model: nn.Module) -> dict[str, Tensor]:
    """All values of a model, those that no file has too."""
    return {name: each for name, each in [*model.named_parameters(), *model.named_buffers()]}


def test_memory_of_loading_is_that_of_the_rounded_model(tmp_path: Path) -> None:
    folder = wide(tmp_path / "original", "qwen2")
    convert(folder, tmp_path / "native")
    for source in (folder, tmp_path / "native"):
        with PeakBytes() as counted:
            model = load_backbone(source, device="cpu", dtype="fp32", quantization="int8").model
        bytes_now = sum(each.nbytes for each in held(model).values())
        in_floats = sum(4 * each.numel() for each in held(model).values())
        assert bytes_now < in_floats * 0.45
        # Beside the model, one of its tensors as floats, a few times.
        assert bytes_now <= counted.most < bytes_now + 4 * (4 * 512 * 128) < in_floats * 0.6


@pytest.mark.parametrize("family", ["internlm2", "phi3", "llama", "qwen3_moe", "gpt_oss"])
def test_values_are_those_of_rounding_afterwards(family: str, tmp_path: Path) -> None:
    official.write_folder(tmp_path / "original", family, shards=2)
    convert(tmp_path / "original", tmp_path / "native")
    for folder in (tmp_path / "original", tmp_path / "native"):
        later = load_backbone(folder, device="cpu", dtype="fp32").model
        quantize_linears(later.model.language_model)
        at_once = load_backbone(folder, device="cpu", dtype="fp32", quantization="int8").model
        expected, found = held(later), held(at_once)
        assert list(found) == list(expected)
        for name, value in expected.items():
            assert found[name].dtype == value.dtype and torch.equal(found[name], value), name
        assert at_once.generation_config.eos_token_id == later.generation_config.eos_token_id
        assert not at_once.training


def test_tables_that_are_one_stay_one(checkpoint: Path, tmp_path: Path) -> None:
    model = load_backbone(checkpoint, device="cpu", quantization="int8").model
    assert model.lm_head.weight is model.get_input_embeddings().weight
    save_backbone(tiny_backbone(), tmp_path / "half", torch.float16)
    half = load_backbone(tmp_path / "half", device="cpu", dtype="bf16", quantization="int8").model
    assert {each.dtype for each in half.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("spoiled", ["missing", "shape", "unexpected"])
def test_weights_that_do_not_fit_are_refused(spoiled: str, checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    state = load_file(file)
    name = "model.language_model.layers.1.mlp.up_proj.weight"
    tensor = state.pop(name)
    if spoiled == "shape":
        state[name] = tensor[:, :-1].contiguous()
    elif spoiled == "unexpected":
        state |= {name: tensor, "model.language_model.layers.9.mlp.up_proj.weight": tensor.clone()}
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"layers\.[19]\.mlp\.up_proj"):
        load_backbone(checkpoint, device="cpu", quantization="int8")


# Mixtures of experts -------------------------------------------------------------------------------------------------


@pytest.fixture
def mixture(tmp_path: Path) -> Iterator[Path]:
    official.write_folder(tmp_path / "mixture", "qwen3_moe")
    yield tmp_path / "mixture"


def test_experts_are_rounded_too(mixture: Path) -> None:
    plain = load_backbone(mixture, device="cpu", dtype="fp32")
    rounded = load_backbone(mixture, device="cpu", dtype="fp32", quantization="int8")
    modules = list(rounded.model.model.language_model.modules())
    assert sum(isinstance(module, Int8Experts) for module in modules) == 2
    assert sum(isinstance(module, Int8Linear) for module in modules) == 2 * 4
    ids = torch.arange(30)
    expected, found = plain.logits(ids), rounded.logits(ids)
    assert 0 < float((found - expected).norm() / expected.norm()) < 0.1
    assert rounded.fingerprint == plain.fingerprint
    assert rounded.generate_ids(ids, max_new_tokens=3)


def test_what_a_mixture_cannot_do_is_said_before_it_is_read(mixture: Path) -> None:
    for settings, what in (
        ({"quantization": "4bit"}, "experts"),
        ({"quantization": "int8", "device_map": "auto"}, "device_map"),
        ({"quantization": "int8", "lora": "x"}, "lora"),
    ):
        with pytest.raises(ConfigError, match=what):
            check_mixture(LoadOptions.of(**settings), CUDA)  # type: ignore[arg-type]
    options = LoadOptions.of(quantization="int8")
    assert [rounds_while_reading(options, CUDA, mixture=here) for here in (True, False)] == [True, False]
    assert "quantization_config" in load_arguments(options, CUDA, torch.float16)
    assert rounds_while_reading(options, CPU)


def test_info_counts_a_mixture(mixture: Path, tmp_path: Path) -> None:
    convert(mixture, tmp_path / "native")
    for folder in (mixture, tmp_path / "native"):
        model = load_backbone(folder, device="cpu", dtype="fp32").model
        described = describe(folder)
        count, memory = described.parameters, described.memory
        assert count.total == sum(each.numel() for each in model.parameters())
        expert = 3 * 32 * 24
        assert count.total - count.active == 2 * (5 - 2) * expert
        rounded = load_backbone(folder, device="cpu", dtype="bf16", quantization="int8").model
        in_memory = sum(each.nbytes for name, each in held(rounded).items() if "inv_freq" not in name)
        assert memory.int8 * 2**30 == pytest.approx(in_memory)
        assert memory.int4 is None and "no 4bit" in described.to_text()
        assert "of them for each token" in described.to_text()


def test_info_refuses_a_mixture_without_all_experts(mixture: Path, tmp_path: Path) -> None:
    convert(mixture, tmp_path / "native")
    for folder in (mixture, tmp_path / "native"):
        file = folder / "model.safetensors"
        state = load_file(file)
        del state[next(name for name in state if ".experts.3." in name)]
        save_file(state, file, metadata={"format": "pt"})
        for load in (describe, load_backbone):
            with pytest.raises(CheckpointError, match="experts"):
                load(folder)


LARGER = {"hidden_size": 4096, "num_hidden_layers": 94, "num_attention_heads": 64, "moe_intermediate_size": 1536}


@pytest.mark.parametrize(
    ("changes", "total", "active"), [({}, 30.5e9, 3.3e9), (LARGER, 235e9, 22e9)], ids=["30B-A3B", "235B-A22B"]
)
def test_published_sizes_are_counted(
    changes: dict[str, int], total: float, active: float, mixture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Qwen's model cards say of the language models of InternVL3_5-30B-A3B and 241B-A28B."""
    settings = json.loads(
        (Path(__file__).parents[1] / "published" / "settings" / "InternVL3_5-30B-A3B-HF.json").read_text("utf-8")
    )["config.json"]["text_config"]
    content = json.loads((mixture / "config.json").read_text("utf-8"))
    content["llm_config"] = settings | changes
    (mixture / "config.json").write_text(json.dumps(content), "utf-8")
    monkeypatch.setattr("vision_agent.cli.describe._check_loadable", lambda *_: None)
    count = describe(mixture).parameters
    assert count.language == pytest.approx(total, rel=0.005)
    assert count.active - count.vision - count.projector == pytest.approx(active, rel=0.02)
