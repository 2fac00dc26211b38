"""Weights of linear layers in eight bits, where bitsandbytes does not run: on the CPU and on MPS.

Weight-only: each output row of a weight is rounded to integers from -127 to 127 times one scale, and activations keep
their format. The memory of the layer falls to a quarter of fp32. Written in torch's own operations, not torchao's: its
int8 tensors give the same logits, but on a CPU each call writes the whole weight out as floats, which makes a step of
generation several times slower than fp32. Here the floats of a few rows at a time stay in the processor's cache, and
bf16 takes torch's fused kernel for the steps; a long prompt takes about twice the time of plain bf16.

The router of a mixture of experts keeps its format: it is small, and decides which experts are asked.

Shape suffixes: R rows of activations, I input features, O output features, E experts, H hidden size, K chosen experts.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

# The experts of the mixtures that load.
Experts = Qwen3MoeExperts | GptOssExperts
# Elements of a weight that are floats at a time: 1 MiB of fp32, which stays in a core's cache.
_CHUNK_ELEMENTS = 2**18
# torch's fused kernel is the fastest up to so many rows, and many times slower for a long prompt.
_FUSED_ROWS = 8


@dataclass(frozen=True)
class RoundedRows:
    """Where a float weight is written to as int8: (O, I) integers and (O,) scales, both changed in place."""

    weight_OI: Tensor
    scale_O: Tensor

    @property
    def shape(self) -> torch.Size:
        return self.weight_OI.shape

    @torch.no_grad()
    def copy_(self, float_OI: Tensor) -> None:
        """Round a weight, some rows at a time and where it lies, as it is in the format of the scales."""
        rows = max(1, _CHUNK_ELEMENTS // max(1, float_OI.shape[1]))
        for start in range(0, len(float_OI), rows):
            part_RI = float_OI[start : start + rows].to(self.scale_O.dtype).float()
            # A row of zeros would divide by zero.
            scale_R = part_RI.abs().amax(dim=1).clamp(min=1e-12) / 127
            rounded_RI = (part_RI / scale_R.unsqueeze(1)).round_().clamp_(-127, 127).to(torch.int8)
            self.weight_OI[start : start + rows].copy_(rounded_RI)
            self.scale_O[start : start + rows].copy_(scale_R)


@dataclass(frozen=True)
class RoundedExperts:
    """Where the joined weights (E, I, O) of GPT-OSS's experts are written to as int8."""

    experts: tuple[RoundedRows, ...]

    @property
    def shape(self) -> torch.Size:
        outputs, inputs = self.experts[0].shape
        return torch.Size((len(self.experts), inputs, outputs))

    @torch.no_grad()
    def copy_(self, float_EIO: Tensor) -> None:
        """Round the weights of one expert after another."""
        for rows, float_IO in zip(self.experts, float_EIO, strict=True):
            rows.copy_(float_IO.T)


class Int8Linear(nn.Module):
    """A linear layer for inference whose weight is int8.

    Attributes:
        weight: (O, I) int8.
        scale: (O,), one for each output, in the format of the activations.
        bias: (O,) or None.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        """Round a layer; of one without storage (on the device "meta") only the shapes are taken."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight_OI = linear.weight.detach()
        self.register_buffer("weight", torch.empty_like(weight_OI, dtype=torch.int8))
        self.register_buffer("scale", weight_OI.new_empty(self.out_features))
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())
        if not weight_OI.is_meta:
            self.rows.copy_(weight_OI)

    @property
    def rows(self) -> RoundedRows:
        """Where the weight is written to."""
        return RoundedRows(self.weight, self.scale)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply (..., I) to (..., O)."""
        output: Tensor = _int8_matmul(x.reshape(-1, self.in_features), self.weight, self.scale)
        if self.bias is not None:
            output = output + self.bias
        return output.reshape(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Int8Experts(nn.Module):
    """The experts of a mixture for inference, with int8 weights: Qwen3's, and below GPT-OSS's.

    Attributes:
        gate_up_proj: (E, 2 I, H) int8, of each expert the gate's rows and then the others'.
        gate_up_scale: (E, 2 I).
        down_proj: (E, H, I) int8.
        down_scale: (E, H).
    """

    gate_up_proj: Tensor
    gate_up_scale: Tensor
    down_proj: Tensor
    down_scale: Tensor

    def __init__(self, experts: Any) -> None:
        """Round experts; of those without storage only the shapes are taken."""
        super().__init__()
        self._take(experts)
        for name in ("gate_up", "down"):
            weight_EOI = self._rows_first(getattr(experts, f"{name}_proj").detach())
            self.register_buffer(f"{name}_proj", torch.empty_like(weight_EOI, dtype=torch.int8))
            self.register_buffer(f"{name}_scale", weight_EOI.new_empty(weight_EOI.shape[:2]))
            if not weight_EOI.is_meta:
                for expert, weight_OI in enumerate(weight_EOI):
                    self.rows(name, expert).copy_(weight_OI)

    def _take(self, experts: Any) -> None:
        """Take over what stays as it is."""
        self.act_fn = experts.act_fn

    def _rows_first(self, weight: Tensor) -> Tensor:
        """Return weights as (E, O, I)."""
        return weight

    def _compute(self, x_RH: Tensor, expert: int) -> Tensor:
        gate, up = self._multiply("gate_up", x_RH, expert).chunk(2, dim=-1)
        return self._multiply("down", self.act_fn(gate) * up, expert)

    def _multiply(self, name: str, x_RI: Tensor, expert: int) -> Tensor:
        rows = self.rows(name, expert)
        output_RO: Tensor = _int8_matmul(x_RI, rows.weight_OI, rows.scale_O)
        return output_RO

    def rows(self, name: str, expert: int) -> RoundedRows:
        """Return where one expert's weight, "gate_up" or "down", is written to."""
        return RoundedRows(getattr(self, f"{name}_proj")[expert], getattr(self, f"{name}_scale")[expert])

    def forward(self, x_RH: Tensor, chosen_RK: Tensor, weights_RK: Tensor) -> Tensor:
        """Return the sum of the chosen experts' outputs, by their weights."""
        output_RH = torch.zeros_like(x_RH)
        for expert in sorted(set(chosen_RK.flatten().tolist())):
            rows, ranks = torch.where(chosen_RK == expert)
            said = self._compute(x_RH[rows], expert)
            output_RH.index_add_(0, rows, (said * weights_RK[rows, ranks, None]).to(output_RH.dtype))
        return output_RH


class Int8GptOssExperts(Int8Experts):
    """The experts of GPT-OSS, whose gate and other rows take turns, with biases and a clamped activation.

    Attributes:
        gate_up_proj_bias: (E, 2 I), in the format of the activations.
        down_proj_bias: (E, H).
    """

    gate_up_proj_bias: Tensor
    down_proj_bias: Tensor

    def joined(self, name: str) -> RoundedExperts:
        """Return where all experts' weights, "gate_up" or "down", are written to."""
        return RoundedExperts(tuple(self.rows(name, expert) for expert in range(len(self.down_proj))))

    def _take(self, experts: Any) -> None:
        self._alpha, self._limit = experts.alpha, experts.limit
        for name in ("gate_up_proj_bias", "down_proj_bias"):
            self.register_buffer(name, getattr(experts, name).detach())

    def _rows_first(self, weight: Tensor) -> Tensor:
        return weight.transpose(1, 2)

    def _compute(self, x_RH: Tensor, expert: int) -> Tensor:
        both = self._multiply("gate_up", x_RH, expert) + self.gate_up_proj_bias[expert]
        gate = both[..., ::2].clamp(max=self._limit)
        up = both[..., 1::2].clamp(min=-self._limit, max=self._limit)
        inner = (up + 1) * gate * torch.sigmoid(self._alpha * gate)
        return self._multiply("down", inner, expert) + self.down_proj_bias[expert]


@torch.no_grad()
def quantize_linears(module: nn.Module, keep: Iterable[str] = ()) -> int:
    """Replace linear layers and experts below `module` by int8 ones, one after another, so that memory only falls.

    Args:
        keep: last parts of names of layers that stay as they are.

    Returns:
        how many were replaced.
    """
    kept = set(keep)
    found = [
        (parent, name, child)
        for parent in module.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear | Experts) and name not in kept
    ]
    for parent, name, child in found:
        setattr(parent, name, _rounded(child))
    return len(found)


def _rounded(layer: nn.Module) -> nn.Module:
    if isinstance(layer, nn.Linear):
        return Int8Linear(layer)
    return Int8GptOssExperts(layer) if isinstance(layer, GptOssExperts) else Int8Experts(layer)


# An operation of its own, so that torch.compile calls it as one step and does not unroll its loop.
@torch.library.custom_op("vision_agent::int8_matmul", mutates_args=())
def _int8_matmul(x_RI: Tensor, weight_OI: Tensor, scale_O: Tensor) -> Tensor:
    if x_RI.device.type != "cpu":
        return F.linear(x_RI, weight_OI.to(x_RI.dtype)) * scale_O
    if x_RI.dtype == torch.bfloat16 and len(x_RI) <= _FUSED_ROWS:
        return torch._weight_int8pack_mm(x_RI.contiguous(), weight_OI, scale_O)
    outputs, inputs = weight_OI.shape
    rows = max(1, _CHUNK_ELEMENTS // inputs)
    output_RO = x_RI.new_empty(len(x_RI), outputs)
    floats = x_RI.new_empty(rows, inputs)
    for start in range(0, outputs, rows):
        part = weight_OI[start : start + rows]
        floats[: len(part)].copy_(part)
        output_RO[:, start : start + rows] = F.linear(x_RI, floats[: len(part)])
    return output_RO.mul_(scale_O)


@_int8_matmul.register_fake
def _(x_RI: Tensor, weight_OI: Tensor, scale_O: Tensor) -> Tensor:
    return x_RI.new_empty(x_RI.shape[0], weight_OI.shape[0])
