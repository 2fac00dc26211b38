"""Int8 weights as a CPU multiplies them fastest: packed for oneDNN, with activations in integers too.

A processor with VNNI multiplies and adds four bytes a lane in one instruction, several times as much as in floats, and
reads a quarter of the bytes. Activations become two digits to the base 254, each an int8: with one digit a row's
largest value would decide how finely all others are told, and language models have values a thousand times as large as
the rest (https://arxiv.org/abs/2208.07339). With two, the error beside that of the rounded weights is one in a
thousand of theirs; the second digit costs a second row of the same multiplication.

Shape suffixes: R rows of activations, I input features, O output features, D digits.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from vision_agent.model.int8 import Int8Linear, RoundedRows

_BASE = 254  # of the digits: what is left of rounding lies between -1/2 and 1/2, so 254 times it fits an int8
# Layers that transformers' blocks call one after the other with the same tensor.
_TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
_ZERO = 128  # oneDNN takes unsigned bytes: this one stands for zero
_ROWS = 1024  # multiplied at a time: the sums of a long prompt are not all there at once


def packs_here() -> bool:
    """Return whether this CPU multiplies integers exactly and fast: without VNNI, sums of bytes would saturate."""
    able = torch.cpu.get_capabilities()
    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return has_onednn and bool(able.get("avx512_vnni") or able.get("avx_vnni"))


class PackedInt8Linears(nn.Module):
    """Linear layers of one input for inference on a CPU with VNNI: one multiplication for all of them.

    Attributes:
        bias: (O,) of all layers, or None.
    """

    bias: Tensor | None

    def __init__(self, layers: Sequence[Int8Linear]) -> None:
        """Pack layers, which are of no use afterwards: their weights are let go of."""
        super().__init__()
        self.sizes = [layer.out_features for layer in layers]
        self._weight = PackedWeight(
            torch.cat([layer.weight for layer in layers]), torch.cat([layer.scale.float() for layer in layers])
        )
        biases = [layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias for layer in layers]
        some = any(layer.bias is not None for layer in layers)
        self.register_buffer("bias", torch.cat([bias.float() for bias in biases]) if some else None)
        self._kept: tuple[Tensor, tuple[Tensor, ...]] | None = None
        for layer in layers:
            layer.weight = layer.weight.new_empty(0)

    def part(self, x: Tensor, number: int) -> Tensor:
        """Multiply (..., I) to (..., O) of one layer; the layers are asked in their order, about the same tensor."""
        kept = self._kept
        if kept is None or kept[0] is not x:
            output_RO = self._weight.multiply(x.reshape(-1, x.shape[-1]))
            if self.bias is not None:
                output_RO += self.bias
            output = output_RO.reshape(*x.shape[:-1], sum(self.sizes)).to(x.dtype)
            kept = (x, torch.split(output, self.sizes, dim=-1))
        # A prompt's products are let go of with the last layer.
        self._kept = kept if number + 1 < len(self.sizes) else None
        return kept[1][number]


class PackedInt8Linear(nn.Module):
    """One of the layers that are multiplied together."""

    def __init__(self, joined: PackedInt8Linears, number: int) -> None:
        super().__init__()
        self.joined, self.number = joined, number

    def forward(self, x: Tensor) -> Tensor:
        """Multiply (..., I) to (..., O)."""
        return self.joined.part(x, self.number)

    def extra_repr(self) -> str:
        return f"number={self.number}, out_features={self.joined.sizes[self.number]}"


class PackedHead(nn.Linear):
    """The layer that scores tokens: its float weight stays, for it may be the table of tokens too; int8 multiplies.

    Rows that are written later, such as a routing token's, are packed before the next scores.
    """

    def __init__(self, head: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = head.in_features, head.out_features
        self.weight, self.bias = head.weight, head.bias
        self._packed: PackedWeight | None = None
        self._packed_from: tuple[int, int] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Score (..., I) as (..., O)."""
        state = (self.weight.data_ptr(), self.weight._version)
        if self._packed is None or self._packed_from != state:
            integers = torch.empty_like(self.weight, dtype=torch.int8)
            scale_O = torch.empty(self.out_features, dtype=torch.float32)
            RoundedRows(integers, scale_O).copy_(self.weight.detach())
            self._packed, self._packed_from = PackedWeight(integers, scale_O), state
        scores_RO = self._packed.multiply(x.reshape(-1, self.in_features))
        if self.bias is not None:
            scores_RO = scores_RO + self.bias
        return scores_RO.reshape(*x.shape[:-1], self.out_features).to(x.dtype)


class PackedWeight:
    """An int8 weight (O, I) in oneDNN's own order of bytes, with the scales (O,) of its rows."""

    def __init__(self, weight_OI: Tensor, scale_O: Tensor) -> None:
        self._packed = torch.ops.onednn.qlinear_prepack(weight_OI, None)
        self._zero_O = torch.zeros(len(weight_OI), dtype=torch.int32)
        self.scale_O = scale_O.float()

    def multiply(self, x_RI: Tensor) -> Tensor:
        """Return (R, O) in fp32. What is not finite in a row makes the whole row so."""
        return torch.cat(list(self._parts(x_RI.float()))) if len(x_RI) else x_RI.new_empty(0, len(self.scale_O)).float()

    def _parts(self, x_RI: Tensor) -> Iterator[Tensor]:
        for part_RI in torch.split(x_RI, _ROWS):
            size_R1 = part_RI.abs().amax(dim=1, keepdim=True).clamp(min=1e-30)
            scaled_RI = part_RI * (127 / size_R1)
            first_RI = scaled_RI.round()
            second_RI = (scaled_RI - first_RI).mul_(_BASE).round_()
            digits_DI = torch.cat([first_RI, second_RI]).add_(_ZERO).to(torch.uint8)
            sums_DO = self._product(digits_DI)
            rows = len(part_RI)
            yield torch.add(sums_DO[:rows], sums_DO[rows:], alpha=1 / _BASE).mul_(size_R1 / 127)

    def _product(self, digits_DI: Tensor) -> Tensor:
        weight = (self._packed, self.scale_O, self._zero_O)
        product_DO: Tensor = torch.ops.onednn.qlinear_pointwise(
            digits_DI, 1.0, _ZERO, *weight, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return product_DO


def pack_linears(module: nn.Module) -> int:
    """Replace the int8 layers below `module` by packed ones, one after another; return how many there were."""
    count = 0
    for parent in list(module.modules()):
        layers = {name: child for name, child in parent.named_children() if isinstance(child, Int8Linear)}
        count += len(layers)
        together = [names for names in _TOGETHER if layers.keys() >= set(names)]
        alone = layers.keys() - {name for names in together for name in names}
        for names in (*together, *((name,) for name in sorted(alone))):
            joined = PackedInt8Linears([layers[name] for name in names])
            for number, name in enumerate(names):
                setattr(parent, name, PackedInt8Linear(joined, number))
    return count
