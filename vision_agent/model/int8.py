"""Weights of linear layers in eight bits, where bitsandbytes does not run: on the CPU and on MPS.

Weight-only: each output row of a weight is rounded to integers from -127 to 127 times one scale, and activations keep
their format. The memory of the layer falls to a quarter of fp32. Written in torch's own operations, not torchao's: its
int8 tensors give the same logits, but on a CPU each call writes the whole weight out as floats, which makes a step of
generation several times slower than fp32. Here the floats of a few rows at a time stay in the processor's cache, and
bf16 takes torch's fused kernel for the steps; a long prompt takes about twice the time of plain bf16.

Shape suffixes: R rows of activations, I input features, O output features.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Elements of a weight that are floats at a time: 1 MiB of fp32, which stays in a core's cache.
_CHUNK_ELEMENTS = 2**18
# torch's fused kernel is the fastest up to so many rows, and many times slower for a long prompt.
_FUSED_ROWS = 8


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
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight_OI = linear.weight.detach()
        # A row of zeros would divide by zero.
        scale_O = weight_OI.float().abs().amax(dim=1).clamp(min=1e-12) / 127
        rounded_OI = (weight_OI.float() / scale_O.unsqueeze(1)).round().clamp(-127, 127)
        self.register_buffer("weight", rounded_OI.to(torch.int8))
        self.register_buffer("scale", scale_O.to(weight_OI.dtype))
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """Multiply (..., I) to (..., O)."""
        output: Tensor = _int8_matmul(x.reshape(-1, self.in_features), self.weight, self.scale)
        if self.bias is not None:
            output = output + self.bias
        return output.reshape(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


@torch.no_grad()
def quantize_linears(module: nn.Module, keep: Iterable[str] = ()) -> int:
    """Replace every `nn.Linear` below `module` by an `Int8Linear`, one after another, so that memory only falls.

    Args:
        keep: last parts of names of layers that stay as they are.

    Returns:
        how many were replaced.
    """
    kept = set(keep)
    linears = [
        (parent, name, child)
        for parent in module.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear) and name not in kept
    ]
    for parent, name, child in linears:
        setattr(parent, name, Int8Linear(child))
    return len(linears)


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
