"""The SAM 2 of a Sa2VA folder as transformers' `Sam2VideoModel`.

Every Sa2VA has the same one: SAM 2.0 (not 2.1) with the large Hiera encoder, of which only the mask decoder was
trained further. Its weights keep the names of SAM 2's own code, but for the layer scales of the memory's fuser, which
are called `g_weight` there.

Facts from bytedance/Sa2VA, `projects/sa2va/hf/models/sam2.py`, and from transformers' conversion of SAM 2.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Sam2VideoConfig, Sam2VideoModel
from transformers.initialization import no_init_weights

from vision_agent.model.original.weights import Rule, load_by_rules
from vision_agent.model.weight_files import WeightFile, open_weights

PREFIX = r"grounding_encoder\.sam2_model\."
_POINT = "prompt_encoder.point_embed.weight"


def sam2_config() -> Sam2VideoConfig:
    """Return the settings of SAM 2.0 with the large Hiera, which `config.json` of a Sa2VA folder does not have."""
    return Sam2VideoConfig(
        vision_config={
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": 144,
                "embed_dim_per_stage": [144, 288, 576, 1152],
                "num_attention_heads_per_stage": [2, 4, 8, 16],
                "blocks_per_stage": [2, 6, 36, 4],
                "global_attention_blocks": [23, 33, 43],
                "window_size_per_stage": [8, 4, 16, 8],
                "window_positional_embedding_background_size": [7, 7],
            },
            "backbone_channel_list": [1152, 576, 288, 144],
        },
        enable_temporal_pos_encoding_for_object_pointers=False,
        enable_occlusion_spatial_embedding=False,
    )


def _both(tensor: Tensor, config: Any) -> list[Tensor]:
    """transformers keeps the random waves of positions twice."""
    return [tensor, tensor]


def _rule(pattern: str, *names: str, split: Any = None) -> Rule:
    return Rule(PREFIX + pattern, names, split)


_WB = r"\.(weight|bias)"
_TRUNK, _BACKBONE = r"image_encoder\.trunk\.", "vision_encoder.backbone."
_PROMPT, _MASK = r"sam_prompt_encoder\.", r"sam_mask_decoder\."


def _mlp(pattern: str, name: str) -> tuple[Rule, ...]:
    """Three layers, which SAM 2 numbers and transformers calls input, inner and output. `name` may use two groups."""
    group = pattern.count("(") - pattern.count("(?:") + 1
    ends = ("proj_in", "layers.0", "proj_out")
    return tuple(_rule(rf"{pattern}\.{n}{_WB}", f"{name}.{ends[n]}.\\{group}") for n in range(3))


SAM2_RULES = (
    # The image encoder
    _rule(_TRUNK + r"pos_embed(|_window)", _BACKBONE + r"pos_embed\1"),
    _rule(_TRUNK + r"patch_embed\.proj" + _WB, _BACKBONE + r"patch_embed.projection.\1"),
    _rule(_TRUNK + r"blocks\.(\d+)\.norm(\d)" + _WB, _BACKBONE + r"blocks.\1.layer_norm\2.\3"),
    _rule(_TRUNK + r"blocks\.(\d+)\.(attn\.qkv|attn\.proj|proj)" + _WB, _BACKBONE + r"blocks.\1.\2.\3"),
    _rule(_TRUNK + r"blocks\.(\d+)\.mlp\.layers\.0" + _WB, _BACKBONE + r"blocks.\1.mlp.proj_in.\2"),
    _rule(_TRUNK + r"blocks\.(\d+)\.mlp\.layers\.1" + _WB, _BACKBONE + r"blocks.\1.mlp.proj_out.\2"),
    _rule(r"image_encoder\.neck\.convs\.(\d)\.conv" + _WB, r"vision_encoder.neck.convs.\1.\2"),
    # Prompts
    _rule(
        _PROMPT + r"pe_layer\.positional_encoding_gaussian_matrix",
        "prompt_encoder.shared_embedding.positional_embedding",
        "shared_image_embedding.positional_embedding",
        split=_both,
    ),
    _rule(_PROMPT + r"point_embeddings\.(\d)\.weight", _POINT + r".\1"),
    _rule(_PROMPT + r"(not_a_point_embed|no_mask_embed)\.weight", r"prompt_encoder.\1.weight"),
    _rule(_PROMPT + r"mask_downscaling\.0" + _WB, r"prompt_encoder.mask_embed.conv1.\1"),
    _rule(_PROMPT + r"mask_downscaling\.1" + _WB, r"prompt_encoder.mask_embed.layer_norm1.\1"),
    _rule(_PROMPT + r"mask_downscaling\.3" + _WB, r"prompt_encoder.mask_embed.conv2.\1"),
    _rule(_PROMPT + r"mask_downscaling\.4" + _WB, r"prompt_encoder.mask_embed.layer_norm2.\1"),
    _rule(_PROMPT + r"mask_downscaling\.6" + _WB, r"prompt_encoder.mask_embed.conv3.\1"),
    # The mask decoder
    _rule(_MASK + r"transformer\.layers\.(\d)\.norm(\d)" + _WB, r"mask_decoder.transformer.layers.\1.layer_norm\2.\3"),
    _rule(
        _MASK + r"transformer\.layers\.(\d)\.mlp\.layers\.0" + _WB, r"mask_decoder.transformer.layers.\1.mlp.proj_in.\2"
    ),
    _rule(
        _MASK + r"transformer\.layers\.(\d)\.mlp\.layers\.1" + _WB,
        r"mask_decoder.transformer.layers.\1.mlp.proj_out.\2",
    ),
    _rule(
        _MASK + r"transformer\.(.+_attn\w*|final_attn\w*)\.([qkv])_proj" + _WB,
        r"mask_decoder.transformer.\1.\2_proj.\3",
    ),
    _rule(_MASK + r"transformer\.(.+_attn\w*|final_attn\w*)\.out_proj" + _WB, r"mask_decoder.transformer.\1.o_proj.\2"),
    _rule(_MASK + r"transformer\.norm_final_attn" + _WB, r"mask_decoder.transformer.layer_norm_final_attn.\1"),
    _rule(_MASK + r"(iou_token|mask_tokens|obj_score_token)\.weight", r"mask_decoder.\1.weight"),
    _rule(_MASK + r"(conv_s0|conv_s1)" + _WB, r"mask_decoder.\1.\2"),
    _rule(_MASK + r"output_upscaling\.0" + _WB, r"mask_decoder.upscale_conv1.\1"),
    _rule(_MASK + r"output_upscaling\.1" + _WB, r"mask_decoder.upscale_layer_norm.\1"),
    _rule(_MASK + r"output_upscaling\.3" + _WB, r"mask_decoder.upscale_conv2.\1"),
    *_mlp(_MASK + r"output_hypernetworks_mlps\.(\d)\.layers", r"mask_decoder.output_hypernetworks_mlps.\1"),
    *_mlp(_MASK + r"iou_prediction_head\.layers", "mask_decoder.iou_prediction_head"),
    *_mlp(_MASK + r"pred_obj_score_head\.layers", "mask_decoder.pred_obj_score_head"),
    # The memory
    _rule("maskmem_tpos_enc", "memory_temporal_positional_encoding"),
    _rule("no_mem_embed", "no_memory_embedding"),
    _rule("no_mem_pos_enc", "no_memory_positional_encoding"),
    _rule("no_obj_ptr", "no_object_pointer"),
    _rule("mask_downsample" + _WB, r"mask_downsample.\1"),
    *_mlp(r"obj_ptr_proj\.layers", "object_pointer_proj"),
    _rule(r"memory_attention\.layers\.(\d)\.norm(\d)" + _WB, r"memory_attention.layers.\1.layer_norm\2.\3"),
    _rule(r"memory_attention\.layers\.(\d)\.(linear\d)" + _WB, r"memory_attention.layers.\1.\2.\3"),
    _rule(
        r"memory_attention\.layers\.(\d)\.(self_attn|cross_attn_image)\.([qkv])_proj" + _WB,
        r"memory_attention.layers.\1.\2.\3_proj.\4",
    ),
    _rule(
        r"memory_attention\.layers\.(\d)\.(self_attn|cross_attn_image)\.out_proj" + _WB,
        r"memory_attention.layers.\1.\2.o_proj.\3",
    ),
    _rule(r"memory_attention\.norm" + _WB, r"memory_attention.layer_norm.\1"),
    *(
        rule
        for n in range(4)
        for rule in (
            _rule(
                rf"memory_encoder\.mask_downsampler\.encoder\.{3 * n}" + _WB,
                rf"memory_encoder.mask_downsampler.layers.{n}.conv.\1",
            ),
            _rule(
                rf"memory_encoder\.mask_downsampler\.encoder\.{3 * n + 1}" + _WB,
                rf"memory_encoder.mask_downsampler.layers.{n}.layer_norm.\1",
            ),
        )
    ),
    _rule(r"memory_encoder\.mask_downsampler\.encoder\.12" + _WB, r"memory_encoder.mask_downsampler.final_conv.\1"),
    _rule(r"memory_encoder\.pix_feat_proj" + _WB, r"memory_encoder.feature_projection.\1"),
    _rule(r"memory_encoder\.out_proj" + _WB, r"memory_encoder.projection.\1"),
    _rule(
        r"memory_encoder\.fuser\.layers\.(\d)\.dwconv" + _WB, r"memory_encoder.memory_fuser.layers.\1.depthwise_conv.\2"
    ),
    _rule(
        r"memory_encoder\.fuser\.layers\.(\d)\.pwconv(\d)" + _WB,
        r"memory_encoder.memory_fuser.layers.\1.pointwise_conv\2.\3",
    ),
    _rule(r"memory_encoder\.fuser\.layers\.(\d)\.norm" + _WB, r"memory_encoder.memory_fuser.layers.\1.layer_norm.\2"),
    _rule(r"memory_encoder\.fuser\.layers\.(\d)\.g_weight", r"memory_encoder.memory_fuser.layers.\1.scale"),
)
# The language model's tensors lie in the same files; `load_weights` checks them.
_OTHERS = Rule(r"(?!grounding_encoder\.).+", ())


def load_sam2(folder: Path) -> Any:
    """Load the `Sam2VideoModel` of a Sa2VA folder, in fp32, in eval mode, on the CPU.

    Raises:
        CheckpointError: weights that are missing, unexpected, damaged or of another size.
    """
    with no_init_weights():
        model = Sam2VideoModel(sam2_config())
    fill_sam2(model, open_weights(folder))
    return model.float().eval().requires_grad_(False)


def fill_sam2(model: Any, files: list[WeightFile]) -> None:
    """Copy the weights of a Sa2VA folder's files into a `Sam2VideoModel`. Raises CheckpointError, as `load_sam2`."""
    targets: dict[str, Tensor] = dict(model.state_dict())
    # Four points of one row each are one table natively.
    table = targets.pop(_POINT)
    targets |= {f"{_POINT}.{row}": table[row : row + 1] for row in range(len(table))}
    with torch.no_grad():
        load_by_rules(targets, files, (*SAM2_RULES, _OTHERS), None)
