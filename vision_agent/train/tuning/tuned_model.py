"""What of a model learns, how it is written, and whether what was written is what was learned."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vision_agent.errors import CheckpointError, ConfigError
from vision_agent.model.backbone import Backbone
from vision_agent.model.devices import computing_in
from vision_agent.model.lora import apply_lora
from vision_agent.model.quiet import quiet
from vision_agent.train.tuning.step_batches import Batch
from vision_agent.train.tuning.tuning_settings import Tuning

_LANGUAGE = "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj|qkv_proj|gate_up_proj"
_TOWER = "q_proj|k_proj|v_proj|projection_layer|fc1|fc2"
_HEAD = "lm_head."
# Logits of what was written may differ from those of what was learned by rounding, in shares of the largest.
_ROUNDING = 1e-3


class TunedModel:
    """A backbone of which a part learns. Its base weights are frozen, and the tower never leaves its mode of inference.

    Attributes:
        learned: the parameters that learn, by name.
        sees: whether the tower or the projector learn.
        dtype: what is multiplied in.

    Raises:
        ConfigError: the model has no part of that kind.
    """

    def __init__(self, backbone: Backbone, settings: Tuning, source: str) -> None:
        self.backbone, self.settings = backbone, settings
        model = backbone.model
        model.requires_grad_(False)
        self.dtype = torch.bfloat16 if backbone.dtype == torch.bfloat16 else torch.float32
        self._lora: Any = None
        if settings.quantization is not None:
            _prepare_rounded(model)
        if settings.method == "lora":
            self._lora = _with_lora(model, settings, source)
        else:
            for part in _parts(model, settings):
                part.requires_grad_(True)
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.float()
        self.learned = {name: each for name, each in model.named_parameters() if each.requires_grad}
        if not self.learned:
            raise ConfigError(f"{backbone.name!r} has no layer that {settings.method!r} would train")
        self.sees = any("vision_tower" in name or "multi_modal_projector" in name for name in self.learned)
        if settings.checkpointing:
            with quiet():
                model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def train(self) -> None:
        """Let the language model learn: its dropout works, and layers are computed anew if asked for."""
        self.backbone.model.model.language_model.train()

    def eval(self) -> None:
        self.backbone.model.eval()

    def weights(self) -> dict[str, Tensor]:
        return {name: each.detach() for name, each in self.learned.items()}

    def load(self, weights: dict[str, Tensor]) -> None:
        """Take what was learned before.

        Raises:
            ConfigError: it is of another model.
        """
        if weights.keys() != self.learned.keys():
            raise ConfigError("the saved state is of other weights than those that learn; choose another `out`")
        with torch.no_grad():
            for name, each in self.learned.items():
                each.copy_(weights[name])

    def save_lora(self, folder: Path) -> None:
        """Write the adapter as PEFT does; the folder appears whole or not at all."""
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        self._lora.save_pretrained(str(partial), safe_serialization=True)
        (partial / "README.md").unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)

    def check_saved(self, folder: Path, batches: Sequence[Batch]) -> float:
        """Load a written adapter in place of the live one, and compare what both say.

        Returns:
            the greatest difference of logits, as a share of the largest. The backbone then has the adapter as loaded.

        Raises:
            CheckpointError: they differ, or the adapter changes nothing.
        """
        self.eval()
        live = [self._logits(batch) for batch in batches]
        self.backbone.model = self._lora.unload()
        base = [self._logits(batch) for batch in batches]
        apply_lora(self.backbone.model, [folder], merge=False)
        loaded = [self._logits(batch) for batch in batches]
        apart = largest_difference(live, loaded)
        if apart > _ROUNDING:
            raise CheckpointError(
                f"the adapter {str(folder)!r} does not say what was trained: its logits differ by {apart:.2g} of the "
                "largest; what was learned is in the run's state.pt"
            )
        moved = any(float(each.detach().abs().max()) > 0 for name, each in self.learned.items() if "lora_B" in name)
        if moved and all(torch.equal(one, other) for one, other in zip(base, loaded, strict=True)):
            raise CheckpointError(f"the adapter {str(folder)!r} changes nothing once it is loaded")
        return apart

    @torch.no_grad()
    def _logits(self, batch: Batch) -> Tensor:
        return answer_logits(self.backbone, batch, self.dtype)


@torch.no_grad()
def answer_logits(backbone: Backbone, batch: Batch, dtype: torch.dtype) -> Tensor:
    """Return what a model says at the places that are learned in a pass of unpacked rows, (M, V) float32 on the CPU."""
    with computing_in(backbone.device, dtype):
        tokens = None
        if len(batch.tiles_NSS3):
            tiles_NCSS = backbone.normalise(batch.tiles_NSS3.to(backbone.device))
            tokens = backbone.see(tiles_NCSS)[0].flatten(0, 1)
        embeds_BLC = backbone.embed(batch.ids_BL.to(backbone.device), tokens)
        hidden_BLC = backbone.model.model.language_model(inputs_embeds=embeds_BLC, use_cache=False).last_hidden_state
        chosen_BL = batch.labels_BL[:, 1:].to(backbone.device) >= 0
        logits_MV: Tensor = backbone.model.lm_head(hidden_BLC[:, :-1][chosen_BL])
    return logits_MV.float().cpu()


def largest_difference(some: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    """Return the greatest difference of two lists of tensors, as a share of the largest value."""
    apart = max(float((one - other).abs().max()) for one, other in zip(some, others, strict=True))
    return apart / max(max(float(one.abs().max()) for one in some), 1e-12)


def _with_lora(model: Any, settings: Tuning, source: str) -> Any:
    from peft import LoraConfig, get_peft_model

    targets = rf".*language_model\..*\.({_LANGUAGE})"
    if settings.tower:
        targets = rf"({targets}|.*vision_tower\..*\.({_TOWER}))"
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=2 * settings.rank,
        lora_dropout=settings.dropout,
        target_modules=targets,
    )
    try:
        with quiet():
            wrapped: Any = get_peft_model(model, config)
    except ValueError as error:  # no layer has such a name
        raise ConfigError(f"no layer can be trained by LoRA: {error}") from error
    wrapped.peft_config["default"].base_model_name_or_path = source
    return wrapped


def _parts(model: Any, settings: Tuning) -> list[nn.Module]:
    parts: list[nn.Module] = [model.model.multi_modal_projector]
    if settings.method == "full":
        parts += [model.model.language_model, model.lm_head]
        parts += [model.model.vision_tower] if settings.tower else []
    return parts


def _prepare_rounded(model: Any) -> None:
    """Make a model of 4-bit weights learn as QLoRA does: norms in fp32, all else frozen."""
    for name, parameter in model.named_parameters():
        if "language_model" in name and parameter.ndim == 1 and parameter.is_floating_point():
            parameter.data = parameter.data.float()
