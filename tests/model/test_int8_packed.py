"""int8 on a CPU with VNNI: packed weights and activations in two digits give what the rounded weights say."""

import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import original_format as official
import pytest
import torch
from conftest import PHOTOS
from PIL import Image
from torch import Tensor, nn

from vision_agent import CheckpointError, GenerationOptions, VisionAgent
from vision_agent.model import load_options
from vision_agent.model.checkpoint import load_backbone, save_backbone
from vision_agent.model.int8 import Int8Linear
from vision_agent.model.int8_packed import PackedHead, PackedInt8Linear, PackedInt8Linears, pack_linears, packs_here
from vision_agent.routing.adapter import add_token

pytestmark = pytest.mark.skipif(not packs_here(), reason="this CPU multiplies no bytes (VNNI)")


def rounded(*sizes: int, bias: bool = True) -> tuple[Int8Linear, Tensor, Tensor]:
    """An int8 layer, its weight in doubles, and its bias."""
    layer = Int8Linear(nn.Linear(*sizes, bias=bias))
    weight = layer.weight.double() * layer.scale.double().unsqueeze(1)
    return layer, weight, layer.bias.double() if layer.bias is not None else torch.zeros(sizes[1]).double()


def error(found: Tensor, exact: Tensor) -> float:
    """The largest error of a row, as a share of the row."""
    return float(((found.double() - exact).norm(dim=-1) / exact.norm(dim=-1)).max())


@pytest.mark.parametrize("rows", [1, 3, 40, 1500])
@pytest.mark.parametrize("bias", [True, False])
def test_products_are_those_of_the_rounded_weight(rows: int, bias: bool) -> None:
    torch.manual_seed(rows)
    layer, weight_OI, bias_O = rounded(96, 50, bias=bias)
    x = torch.randn(2, rows, 96) * torch.logspace(6, -6, rows).unsqueeze(1)
    packed = PackedInt8Linear(PackedInt8Linears([layer]), 0)
    without = packed(x) if not bias else packed(x) - bias_O.float()
    exact = x.double() @ weight_OI.T
    assert packed(x).shape == (2, rows, 50)
    large = x.norm(dim=-1) > 1  # where the bias is not all of it
    assert error(without[large], exact[large]) < 1e-4
    assert packed(x.bfloat16()).dtype == torch.bfloat16


def test_one_value_a_thousand_times_as_large_leaves_the_others_fine() -> None:
    torch.manual_seed(0)
    layer, weight_OI, _ = rounded(256, 64, bias=False)
    x = torch.randn(5, 256)
    x[:, 7] = 1000
    packed = PackedInt8Linear(PackedInt8Linears([layer]), 0)
    without = x.clone()
    without[:, 7] = 0
    others = without.double() @ weight_OI.T
    rest = packed(x).double() - x[:, 7:8].double() @ weight_OI[:, 7:8].T
    assert float((rest - others).norm() / others.norm()) < 0.05  # with one digit of 1000 / 127 it would be above 1


def test_rows_that_are_not_finite_stay_so_and_zeros_stay_zeros() -> None:
    layer, _, _ = rounded(32, 8, bias=False)
    packed = PackedInt8Linear(PackedInt8Linears([layer]), 0)
    x = torch.randn(4, 32)
    x[0, 3], x[1, 4], x[2] = torch.nan, torch.inf, 0
    found = packed(x)
    assert not found[:2].isfinite().any()
    assert (found[2] == 0).all() and found[3].isfinite().all()
    assert packed(x[:0]).shape == (0, 8)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (Int8Linear(nn.Linear(16, size)) for size in (16, 8, 8))
        self.o_proj = Int8Linear(nn.Linear(16, 16))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        return self.o_proj(q + torch.cat([k, v], dim=-1))  # type: ignore[no-any-return]


def test_layers_of_one_input_are_one_product_that_is_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    block = Block()
    x, other = torch.randn(2, 5, 16), torch.randn(2, 5, 16)
    expected = [block(each) for each in (x, other)]
    assert pack_linears(block) == 4
    products: list[int] = []
    multiply = PackedInt8Linears.part

    def counted(self: Any, x: Tensor, number: int) -> Tensor:
        products.append(len(self.sizes) if self._kept is None or self._kept[0] is not x else 0)
        return multiply(self, x, number)

    monkeypatch.setattr(PackedInt8Linears, "part", counted)
    for each, right in zip((x, other, x), (*expected, expected[0]), strict=True):
        torch.testing.assert_close(block(each), right, atol=1e-3, rtol=1e-3)
    assert products == [3, 0, 0, 1] * 3
    # Asked about another tensor in between, a layer answers about that one.
    q_other = block.q_proj(other)
    block.q_proj(x)
    assert torch.equal(block.q_proj(other), q_other)
    gone = weakref.ref(tensor := torch.randn(1, 16))
    block(tensor)
    del tensor
    assert gone() is None


def test_threads_that_share_layers_get_their_own_answers() -> None:
    """Layers of one input keep a product for each other: one thread's must never be another's."""
    torch.manual_seed(0)
    block, tries = Block(), 200
    pack_linears(block)
    inputs = [torch.randn(2, rows, 16) for rows in (1, 3, 1, 3)]
    expected = [block(x) for x in inputs]
    start = threading.Barrier(len(inputs))

    def asked(number: int) -> bool:
        start.wait()
        return all(torch.equal(block(inputs[number]), expected[number]) for _ in range(tries))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads take turns as often as they can
    try:
        with ThreadPoolExecutor(len(inputs)) as pool:
            assert list(pool.map(asked, range(len(inputs)))) == [True] * len(inputs)
    finally:
        sys.setswitchinterval(interval)
    # The worst order there is: between each two layers of one thread, another thread's come.
    first, second = inputs[1], inputs[3]
    orders = [(each, layer) for layer in ("q_proj", "k_proj", "v_proj") for each in (first, second)]
    mixed = {(id(x), layer): getattr(block, layer)(x) for x, layer in orders}
    for x in (first, second):
        alone = [getattr(block, layer)(x) for layer in ("q_proj", "k_proj", "v_proj")]
        assert all(
            torch.equal(mixed[id(x), layer], each)
            for layer, each in zip(("q_proj", "k_proj", "v_proj"), alone, strict=True)
        )


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("family", ["qwen2", "internlm2"])  # with biases in some layers, and without any
def test_rounded_weights_are_not_saved_as_if_they_were_whole(
    family: str, tmp_path: Path, packs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    official.write_folder(tmp_path / "original", family)
    monkeypatch.setattr(load_options, "packs_here", lambda: packs)
    backbone = load_backbone(tmp_path / "original", device="cpu", quantization="int8")
    with pytest.raises(CheckpointError, match=r"cannot be saved: .* is rounded.*without `quantization`"):
        save_backbone(backbone, tmp_path / "saved")
    assert list(tmp_path.iterdir()) == [tmp_path / "original"]  # nothing half-written
    save_backbone(load_backbone(tmp_path / "original", device="cpu"), tmp_path / "saved")


def test_the_head_follows_its_weight() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(24, 100, bias=False)
    head, x = PackedHead(linear), torch.randn(3, 24)
    assert head.weight is linear.weight
    assert error(head(x), linear(x).double()) < 0.02
    with torch.no_grad():
        linear.weight[90] = 5 * x[0]
    assert int(head(x)[0].argmax()) == 90


def test_a_checkpoint_answers_as_with_the_rounded_weights(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = load_backbone(checkpoint, device="cpu", quantization="int8")
    assert sum(isinstance(module, PackedInt8Linear) for module in packed.model.modules()) == 3 * 7
    assert isinstance(packed.model.lm_head, PackedHead)
    plain = load_backbone(checkpoint, device="cpu")
    monkeypatch.setattr(load_options, "packs_here", lambda: False)
    kept = load_backbone(checkpoint, device="cpu", quantization="int8")
    assert packed.fingerprint == kept.fingerprint
    ids = torch.arange(20, 60)[None]
    with torch.inference_mode():
        found, expected, exact = (each.model(ids).logits for each in (packed, kept, plain))
    assert float((found - expected).norm() / expected.norm()) < 0.02  # the head is rounded too
    assert float((found - exact).norm() / exact.norm()) < 0.06
    # A new token makes the tables longer; the head goes on in bytes, and knows the row.
    token = add_token(packed, "[NEW]")
    with torch.inference_mode():
        assert packed.model(ids).logits.shape[-1] >= token + 1
    assert isinstance(packed.model.lm_head, PackedHead)


def test_compiled_steps_and_other_devices_keep_the_plain_form(checkpoint: Path) -> None:
    compiled = load_backbone(checkpoint, device="cpu", quantization="int8", compile=True)
    assert not any(isinstance(module, PackedInt8Linear) for module in compiled.model.modules())


def test_the_default_says_the_same() -> None:
    """Trained weights: what is written changes where two tokens are nearly as likely, which is rare."""
    plain, packed = (VisionAgent.from_pretrained("default", quantization=each) for each in (None, "int8"))
    photo = Image.open(PHOTOS / "000000139872.jpg")
    ids = torch.tensor([plain.backbone.encode("is there a dog?", photo).input_ids.tolist()])
    pixels = plain.backbone.encode("is there a dog?", photo).pixel_values
    with torch.inference_mode():
        one, other = (each.backbone.model(input_ids=ids, pixel_values=pixels).logits[0] for each in (plain, packed))
    assert float((one.argmax(-1) == other.argmax(-1)).float().mean()) > 0.97
    options = GenerationOptions(max_new_tokens=12)
    assert packed.ask("is there a dog?", photo, options=options).text == plain.ask("is there a dog?", photo).text
    found, expected = (each.detect("dog; frisbee", photo) for each in (packed, plain))
    assert found.labels == expected.labels
    assert abs(found.xyxy - expected.xyxy).max() < 4
