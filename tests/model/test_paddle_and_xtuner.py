"""Checkpoints of PaddleMIX (`.pdparams`) and xtuner (`.pth`), and files that would run code in their place.

`paddle/*.pdparams` were written by paddle 3.3.1: the state dict of LayerNorm(6) and Linear(6, 4) as `mlp1.0`, `mlp1.1`,
by each protocol that `paddle.save` has; the same in bf16; and a tensor that is no state dict.
"""

import io
import json
import os
import pickle
import pickletools
import struct
import subprocess
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import original_format as official
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from vision_agent import CheckpointError, VisionAgent
from vision_agent.checkpoint_export import export_checkpoint
from vision_agent.cli.describe import describe
from vision_agent.model.original.weights import INTERNLM2_RULES
from vision_agent.model.paddle_files import PaddleFile
from vision_agent.model.restricted_pickle import read_pickle

WRITTEN = Path(__file__).with_name("paddle")
State = dict[str, Tensor]
_TURNED = ("qkv", "proj", "fc1", "fc2", "mlp1.1", "mlp1.3", "wqkv", "wo", "w1", "w2", "w3", "output", "lm_head")


def as_paddle(state: State, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """A state dict as Paddle holds it: linear weights inputs first, bf16 as bare 16-bit patterns."""
    held: dict[str, Any] = {}
    for name, tensor in state.items():
        module = name.removesuffix(".weight")
        turned = tensor.ndim == 2 and (module.endswith(_TURNED) or module.endswith(("_proj",)))
        value = (tensor.T if turned else tensor).contiguous().to(dtype)
        held[name] = value.view(torch.int16).numpy().view(np.uint16) if dtype == torch.bfloat16 else value.numpy()
    held["StructuredToParameterName@@"] = {name: f"param_{number}" for number, name in enumerate(state)}
    return held


def logits(folder: Path, **settings: Any) -> Tensor:
    backbone = VisionAgent.from_pretrained(folder, dtype="fp32", **settings).backbone
    with torch.inference_mode():
        said: Any = backbone.model(input_ids=torch.tensor([[1, 5, 9, 12, 7]]))
    return torch.as_tensor(said.logits)


@pytest.mark.parametrize("name", ["layer_protocol2", "layer_protocol3", "layer_protocol4"])
def test_what_paddle_wrote_computes_what_paddle_computed(name: str) -> None:
    file = PaddleFile(WRITTEN / f"{name}.pdparams")
    assert file.keys() == ["mlp1.0.weight", "mlp1.0.bias", "mlp1.1.weight", "mlp1.1.bias"]
    held = {key: file.tensor(key) for key in file.keys()}
    x = torch.arange(6.0)[None] ** 2
    y = F.linear(F.layer_norm(x, (6,), held["mlp1.0.weight"], held["mlp1.0.bias"]), *list(held.values())[2:])
    # By paddle 3.3.1.
    expected = [[0.17575836181640625, 1.3080414533615112, -0.3286406099796295, 1.2596408128738403]]
    assert y.tolist() == [pytest.approx(row, abs=1e-6) for row in expected]
    bf16 = PaddleFile(WRITTEN / "layer_bf16.pdparams").tensor("mlp1.1.weight")
    assert bf16.dtype == torch.bfloat16 and torch.equal(bf16, held["mlp1.1.weight"].bfloat16())


def test_a_paddle_file_that_is_no_state_dict_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"tensor\.pdparams is no state dict.*'builtins\.tuple'"):
        PaddleFile(WRITTEN / "tensor.pdparams")


@pytest.mark.parametrize("family", ["internlm2", "qwen2"])
def test_a_paddlemix_folder_is_the_original(tmp_path: Path, family: str) -> None:
    """One file, and shards with an index in bf16; the same numbers, and the same fingerprint."""
    _, state = official.write_folder(tmp_path / "torch", family)
    expected = logits(tmp_path / "torch")
    single = tmp_path / "single"
    official.write_folder(single, family)
    (single / "model.safetensors").unlink()
    (single / "model_state.pdparams").write_bytes(pickle.dumps(as_paddle(state), protocol=4))
    assert torch.allclose(logits(single), expected, atol=1e-5)
    assert VisionAgent.from_pretrained(single).backbone.fingerprint == (
        VisionAgent.from_pretrained(tmp_path / "torch").backbone.fingerprint
    )
    assert describe(str(single)).format == "original"
    # In bf16 the shards must load as the bf16 safetensors of the same weights do.
    rounded = {name: tensor.bfloat16() for name, tensor in state.items()}
    save_file(rounded, tmp_path / "torch" / "model.safetensors")
    (single / "model_state.pdparams").unlink()
    held = as_paddle(state, torch.bfloat16)
    names = sorted(state)
    places = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model_state-{number:05}-of-00002.pdparams"
        (single / file).write_bytes(pickle.dumps({name: held[name] for name in part}, protocol=4))
        places |= dict.fromkeys(part, file)
    (single / "model_state.pdparams.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert torch.equal(logits(single), logits(tmp_path / "torch"))


def test_safetensors_in_paddles_layout(tmp_path: Path) -> None:
    _, state = official.write_folder(tmp_path, "internlm2")
    expected = logits(tmp_path)
    held = as_paddle(state)
    del held["StructuredToParameterName@@"]
    tensors = {name: torch.from_numpy(value.copy()) for name, value in held.items()}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pd"})
    assert torch.allclose(logits(tmp_path), expected, atol=1e-5)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="has the shape"):
        logits(tmp_path)


def test_arrays_that_were_cut_are_joined(tmp_path: Path) -> None:
    """As protocols 2 and 3 cut arrays beyond a gigabyte."""
    whole = np.arange(24, dtype=np.float32).reshape(4, 6)
    held = {"x@@.0": whole.ravel()[:10], "x@@.1": whole.ravel()[10:], "y": np.ones(2, np.float16)}
    told = {"UnpackBigParamInfor@@": {"x": {"OriginShape": (4, 6), "slices": ["x@@.0", "x@@.1"]}}}
    path = tmp_path / "model_state.pdparams"
    path.write_bytes(pickle.dumps({**held, **told}, protocol=2))
    file = PaddleFile(path)
    assert sorted(file.keys()) == ["x", "y"] and np.array_equal(file.tensor("x").numpy(), whole)
    assert file.tensor("y").dtype == torch.float16
    path.write_bytes(pickle.dumps({**held, "UnpackBigParamInfor@@": {"x": {"slices": ["z"]}}}, protocol=2))
    with pytest.raises(CheckpointError, match="slices of 'x' that are not there"):
        PaddleFile(path)


# Malicious files ------------------------------------------------------------------------------------------------------


class _Call:
    def __init__(self, called: Any, *arguments: Any, state: Any = None) -> None:
        self.reduced = (called, arguments) if state is None else (called, arguments, state)

    def __reduce__(self) -> Any:
        return self.reduced


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def planted(path: Path) -> dict[str, bytes]:
    """Pickles that would make a file at `path` if they were executed, by different ways; and some that only harm."""
    command, code = f"touch {path}", f"open({str(path)!r}, 'w').close()"
    made = {f"os.system, protocol {p}": pickle.dumps({"w": _Call(os.system, command)}, protocol=p) for p in range(5)}
    made |= {
        "eval": pickle.dumps(_Call(eval, code), protocol=4),
        "exec as a key": pickle.dumps([_Call(exec, code)], protocol=2),
        "subprocess": pickle.dumps(_Call(subprocess.check_call, ["touch", str(path)]), protocol=4),
        "getattr": b"cbuiltins\ngetattr\n(cbuiltins\nobject\n" + _text("__class__") + b"tR.",
        "GLOBAL and REDUCE": b"cposix\nsystem\n(" + _text(command) + b"tR.",
        "INST": b"(" + b"S'" + command.encode() + b"'\n" + b"iposix\nsystem\n.",
        "OBJ": b"(cposix\nsystem\n" + _text(command) + b"o.",
        "NEWOBJ": b"\x80\x02cposix\nsystem\n" + _text(command) + b"\x85\x81.",
        "NEWOBJ_EX": b"\x80\x04cposix\nsystem\n" + _text(command) + b"\x85}\x92.",
        "STACK_GLOBAL": b"\x80\x04" + _text("posix") + _text("system") + b"\x93" + _text(command) + b"\x85R.",
        "STACK_GLOBAL by the memo": b"\x80\x04" + _text("posix") + b"\x94" + _text("system") + b"\x940h\x00h\x01\x93.",
        "a dotted name": b"\x80\x04" + _text("numpy") + _text("core.os.system") + b"\x93" + _text(command) + b"\x85R.",
        "a name of numpy's": b"cnumpy.testing\nrundocs\n(" + _text(command) + b"tR.",
        "BUILD on a name": b"cnumpy\nndarray\n}(" + _text("__setstate__") + b"cposix\nsystem\nsb.",
        "BUILD on a dict": b"}}" + _text("x") + b"K\x01sb.",
        "EXT": b"\x80\x02\x82\x01.",
        "PERSID": b"Pstorage\n.",
        "BINPERSID": _text("storage") + b"Q.",
        "_reconstruct of another class": b"cnumpy.core.multiarray\n_reconstruct\n(cposix\nsystem\nK\x00\x85C\x01btR.",
        "encode by another codec": b"c_codecs\nencode\n(" + _text("cbfgebavp") + _text("rot13") + b"tR.",
        "an array of objects": pickle.dumps({"w": np.array([_Call(os.system, command)], dtype=object)}, protocol=4),
        "a dtype with fields": pickle.dumps({"w": np.zeros(2, dtype=[("a", "f4")])}, protocol=4),
        "trailing code": pickle.dumps({}, protocol=4) + b"cposix\nsystem\n(" + _text(command) + b"tR.",
        "a memory that was never written": b"\x80\x04h\x07.",
        "a memory bomb": b"\x80\x04]\x94" + b"(" + b"h\x00" * 50 + b"e" * 1 + b"h\x00h\x00h\x00.",
        "a memory written twice": b"\x80\x02]q\x00]q\x00.",
        "bytes without end": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.",
        "a text without end": b"\x80\x04\x8d" + struct.pack("<Q", 2**63 - 1) + b"x.",
        "a number without end": b"\x80\x02\x8b" + struct.pack("<i", -1) + b".",
        "a frame of nothing": b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b".",
        "nothing on the stack": b"\x80\x04.",
        "no mark": b"\x80\x04e.",
        "an unhashable key": b"\x80\x04}]K\x01s.",
        "no pickle": b"PK\x03\x04 this is a zip",
        "empty": b"",
        "too many values": b"\x80\x04NN.",
        "a shape that lies": _array_with_shape((2**40, 2**40)),
        "a negative shape": _array_with_shape((-1,)),
        "a new opcode": b"\x80\x05\x96" + struct.pack("<Q", 1) + b"x.",
    }
    return made


def _array_with_shape(shape: tuple[int, ...]) -> bytes:
    class Lying(np.ndarray):  # type: ignore[type-arg]
        def __reduce__(self) -> Any:
            function, arguments, state = np.zeros(3, np.float32).__reduce__()  # type: ignore[misc]
            return function, arguments, (state[0], shape, *state[2:])

    return pickle.dumps({"w": np.zeros(3, np.float32).view(Lying)}, protocol=4)


NAMES = sorted(planted(Path("x")))


@pytest.mark.parametrize("name", NAMES)
def test_a_malicious_pdparams_is_refused_and_nothing_runs(name: str, tmp_path: Path) -> None:
    mark = tmp_path / "planted"
    path = tmp_path / "model_state.pdparams"
    path.write_bytes(planted(mark)[name])
    with pytest.raises(CheckpointError, match=r"model_state\.pdparams is no state dict"):
        PaddleFile(path)
    assert not mark.exists()
    with pytest.raises(ValueError, match=r"."):
        read_pickle(io.BytesIO(planted(mark)[name]), arrays=False)
    assert not mark.exists()


def test_a_truncated_or_flipped_file_never_hangs_nor_runs(tmp_path: Path) -> None:
    """Every prefix, and each byte changed: a clear error or a state dict."""
    data = (WRITTEN / "layer_protocol4.pdparams").read_bytes()
    path = tmp_path / "model_state.pdparams"
    for end in range(len(data)):
        path.write_bytes(data[:end])
        with pytest.raises(CheckpointError):
            PaddleFile(path)
    random = np.random.default_rng(0)
    refused = 0
    for place in range(0, len(data), 2):
        changed = bytearray(data)
        changed[place] ^= int(random.integers(1, 256))
        path.write_bytes(changed)
        try:
            assert all(isinstance(PaddleFile(path).tensor(key), Tensor) for key in PaddleFile(path).keys())
        except CheckpointError:
            refused += 1
    assert refused > 50, "most bytes are structure"


def test_only_these_names_are_known() -> None:
    """The allow-list itself: what numpy's arrays are written with, and no more."""
    seen = set()
    for protocol in range(5):
        for opcode, argument, _ in pickletools.genops(pickle.dumps({"w": np.ones(3, np.float32)}, protocol=protocol)):
            if opcode.name == "GLOBAL":
                seen.add(str(argument))
    assert seen == {"numpy._core.multiarray _reconstruct", "numpy ndarray", "numpy dtype", "_codecs encode"}
    held = {"w": np.ones((2, 3), np.float32), "v": np.asfortranarray(np.arange(6).reshape(2, 3)), "e": np.zeros((0, 4))}
    for protocol in range(5):
        data = pickle.dumps(held, protocol=protocol)
        for module in (b"numpy._core.multiarray", b"numpy.core.multiarray"):  # by numpy 2, and by numpy 1
            if protocol > 3 and module != b"numpy._core.multiarray":
                continue  # the length of the name is told
            read = read_pickle(io.BytesIO(data.replace(b"numpy._core.multiarray", module)), arrays=True)
            assert all(np.array_equal(read[name], held[name]) for name in held)
            assert not read["w"].flags.writeable


def torch_zip(path: Path, data: bytes) -> None:
    """A file of torch's whose pickle is this one."""
    torch.save({"w": torch.ones(2)}, path)
    with zipfile.ZipFile(path) as before:
        held = {name: before.read(name) for name in before.namelist()}
    with zipfile.ZipFile(path, "w") as after:
        for name, content in held.items():
            after.writestr(name, data if name.endswith("data.pkl") else content)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("BUILD on a dict", "a frame of nothing")])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_bin_or_pth_is_refused_and_nothing_runs(
    name: str, zipped: bool, tmp_path: Path, original: Path
) -> None:
    mark = tmp_path / "planted"
    data = planted(mark)[name]
    tuned = tmp_path / "iter_10.pth"
    torch_zip(tuned, data) if zipped else tuned.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"iter_10\.pth"):
        VisionAgent.from_pretrained(original, lora=tuned)
    assert not mark.exists()
    folder = tmp_path / "folder"
    folder.mkdir()
    for file in original.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    (folder / "pytorch_model.bin").write_bytes(tuned.read_bytes())
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        VisionAgent.from_pretrained(folder)
    assert not mark.exists()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    official.write_folder(folder, "internlm2")
    return folder


# xtuner ---------------------------------------------------------------------------------------------------------------

_CFG = """
model = dict(
    freeze_llm=True,
    llm_lora=dict(lora_alpha=8, lora_dropout=0.05, r=4, target_modules=None, type='peft.LoraConfig'),
    visual_encoder_lora=dict(lora_alpha=3, r=2, type='peft.LoraConfig'),
    type='xtuner.model.InternVL_V1_5')
"""


def tuned_state(state: State, family: str) -> tuple[State, State]:
    """What xtuner saves of LoRA on all linear layers of the language model, and the weights that it makes."""
    random = torch.Generator().manual_seed(3)
    ends = ("wqkv", "wo", "w1", "w2", "w3") if family == "internlm2" else ("_proj",)
    saved, merged = {}, dict(state)
    for name, tensor in state.items():
        part, _, inside = name.partition(".")
        module = inside.removesuffix(".weight")
        language = part == "language_model" and module.endswith(ends) and name.endswith(".weight")
        tower = part == "vision_model" and module.endswith(("attn.qkv", "mlp.fc1")) and name.endswith(".weight")
        if language or tower:
            rank, scale = (4, 2.0) if language else (2, 1.5)
            down = torch.randn(rank, tensor.shape[1], generator=random) * 0.2
            up = torch.randn(tensor.shape[0], rank, generator=random) * 0.2
            start = f"model.{part}.base_model.model.{module}"
            saved |= {f"{start}.lora_A.default.weight": down, f"{start}.lora_B.default.weight": up}
            merged[name] = tensor + scale * up @ down
        elif part == "mlp1":
            merged[name] = tensor + 0.1
            saved[f"model.{name}"] = merged[name]
    return saved, merged


def mmengine_history() -> Any:
    """What mmengine's runner saves beside the weights: objects of its own, of a package that is not installed."""
    names = ("mmengine", "mmengine.logging", "mmengine.logging.history_buffer")
    module = types.ModuleType(names[-1])
    kind = type("HistoryBuffer", (), {"__module__": names[-1]})
    module.HistoryBuffer = kind  # type: ignore[attr-defined]
    sys.modules |= {name: types.ModuleType(name) for name in names[:-1]} | {names[-1]: module}
    history = kind()
    history.__dict__.update(_max_length=1000, _log_history=np.array([0.5, 0.25]), last=np.float64(0.25))
    return history


@pytest.fixture
def mmengine() -> Any:
    before = {name: module for name, module in sys.modules.items() if name.startswith("mmengine")}
    yield mmengine_history()
    for name in [name for name in sys.modules if name.startswith("mmengine")]:
        del sys.modules[name]
    sys.modules |= before


@pytest.mark.parametrize("family", ["internlm2", "qwen2"])
def test_what_xtuner_trained_is_merged(tmp_path: Path, family: str, mmengine: Any) -> None:
    """LoRA on fused tensors too, the projector whole; from the runner's file, beside its config, and of DeepSpeed."""
    _, state = official.write_folder(tmp_path / "base", family)
    saved, merged = tuned_state(state, family)
    official.write_folder(tmp_path / "merged", family)
    save_file({name: tensor.contiguous() for name, tensor in merged.items()}, tmp_path / "merged/model.safetensors")
    expected = logits(tmp_path / "merged")
    assert not torch.allclose(expected, logits(tmp_path / "base"), atol=1e-2)
    run = tmp_path / "work_dirs"
    run.mkdir()
    message_hub = {"log_scalars": {"train/loss": mmengine}, "runtime_info": {"iter": 10}}
    meta = {"epoch": 0, "iter": 10, "cfg": _CFG, "mmengine_version": "0.10.7", "time": "20261130"}
    torch.save({"meta": meta, "state_dict": saved, "message_hub": message_hub}, run / "iter_10.pth")
    mine = logits(tmp_path / "base", lora=run / "iter_10.pth")
    assert torch.allclose(mine, expected, atol=1e-4)
    # `convert`ed by hand: the weights alone, the configuration beside them, as the run has it.
    (run / "sub").mkdir()
    torch.save(saved, run / "sub" / "weights.pth")
    with pytest.raises(CheckpointError, match=r"put the run's configuration \(\.py\) beside it"):
        logits(tmp_path / "base", lora=run / "sub" / "weights.pth")
    (run / "sub" / "internvl_v2_lora_finetune.py").write_text(f"raise SystemExit('never run')\n{_CFG}")
    assert torch.allclose(logits(tmp_path / "base", lora=run / "sub" / "weights.pth"), expected, atol=1e-4)
    (run / "iter_20.pth").mkdir()
    deepspeed = {"module": saved, "ds_version": "0.16.2", "meta": meta, "optimizer": None}
    torch.save(deepspeed, run / "iter_20.pth" / "mp_rank_00_model_states.pt")
    assert torch.allclose(logits(tmp_path / "base", lora=run / "iter_20.pth"), expected, atol=1e-4)
    if family == "internlm2":
        assert any(rule.split is not None for rule in INTERNLM2_RULES), "its weights are fused"
    export_checkpoint(tmp_path / "base", tmp_path / "out", adapters=[run / "iter_10.pth"])
    assert torch.allclose(logits(tmp_path / "out"), expected, atol=2e-2), "the same, as bf16 or fp32 is stored"


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda s: {**s, "model.mlp1.1.weight": torch.ones(3, 3)}, "does not fit this model"),
        (lambda s: {**s, "model.language_model.model.layers.7.norm.weight": torch.ones(3)}, "has no place|no place"),
        (lambda s: {k: v for k, v in s.items() if ".lora_B." not in k}, "half there"),
        (lambda s: {k: v[:2] if ".lora_A." in k else v for k, v in s.items()}, "its rank is 4"),
        (lambda s: {**s, "x": "text"}, "holds no named tensors: 'x'"),
        (lambda s: {}, "holds no named tensors"),
    ],
)
def test_an_xtuner_checkpoint_of_another_model_is_refused(
    spoil: Callable[[Any], Any], told: str, tmp_path: Path, original: Path
) -> None:
    state = official.tiny_state(json.loads((original / "config.json").read_text()))
    saved, _ = tuned_state(state, "internlm2")
    torch.save({"meta": {"cfg": _CFG}, "state_dict": spoil(saved)}, tmp_path / "iter_1.pth")
    with pytest.raises(CheckpointError, match=told):
        VisionAgent.from_pretrained(original, lora=tmp_path / "iter_1.pth", dtype="fp32")


def test_objects_that_xtuner_never_writes_are_refused(tmp_path: Path, original: Path) -> None:
    class Other:
        pass

    Other.__qualname__ = Other.__name__ = "Other"
    globals()["Other"] = Other
    torch.save({"state_dict": {"model.mlp1.1.weight": torch.ones(2)}, "extra": Other()}, tmp_path / "iter_1.pth")
    with pytest.raises(CheckpointError, match="asks for objects that no weights need"):
        VisionAgent.from_pretrained(original, lora=tmp_path / "iter_1.pth")
