"""Images by a diffusers pipeline given by path: any that takes `prompt_embeds`, with a UNet or a transformer.

The pipeline stays as it is and is no part of the adapter; a mapper learns to give the condition that its own text
encoders would (the arrangement of VisionLLM v2, https://arxiv.org/abs/2406.08394). Making images is the pipeline's
own call, so its scheduler and its guidance are those its authors chose. Changing one is its image-to-image or, with a
mask, its inpainting form.

Training (`loss`) knows UNets that predict noise or velocity (Stable Diffusion 1, 2, XL) and transformers of rectified
flows (Stable Diffusion 3). Other pipelines can be drawn with, given a trained mapper.

Shape suffixes: K prompts, N states a token, C hidden size, T condition tokens, D their width, P pooled width.
"""

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from vision_agent.errors import CheckpointError, ConfigError, MissingExtraError, RouteError
from vision_agent.plugins.cancellation import raise_if_cancelled
from vision_agent.plugins.decoder import DecodeRequest, DenseFeatures
from vision_agent.plugins.image_decoder import ImageDecoder, ImageRequest, finished
from vision_agent.plugins.route import RouteSpec
from vision_agent.results.generated import GeneratedImages

from .mapper import DISTILLATION, ConditionMapper

STEPS = 25


class DiffusionDecoder(ImageDecoder):
    """Images from words, by a pipeline.

    Args:
        hidden_size: C of the query states.
        pipeline: folder of the pipeline, as `save_pretrained` writes it.
        tokens, width: T and D of its condition.
        pooled: P, 0 for pipelines without a pooled condition.
        inner: width inside the mapper.
        guidance: default guidance.
        strength: how far an edit may go from its image, 0-1.
    """

    needs_image = False
    name = "diffusion"

    def __init__(
        self,
        hidden_size: int,
        pipeline: str,
        tokens: int,
        width: int,
        pooled: int = 0,
        inner: int = 512,
        guidance: float = 7.5,
        strength: float = 0.8,
    ) -> None:
        super().__init__()
        self.settings = {
            "hidden_size": hidden_size,
            "pipeline": pipeline,
            "tokens": tokens,
            "width": width,
            "pooled": pooled,
            "inner": inner,
            "guidance": guidance,
            "strength": strength,
        }
        self.guidance, self.strength = guidance, strength
        self.mapper = ConditionMapper(hidden_size, tokens, width, inner=inner)
        self.pooler = nn.Sequential(nn.LayerNorm(hidden_size), nn.Linear(hidden_size, pooled)) if pooled else None
        self._loaded: list[Any] = []  # in a list, so that the pipeline is no part of this module's weights

    @classmethod
    def for_backbone(
        cls, route: RouteSpec, hidden_size: int, feature_widths: tuple[int, ...], **settings: Any
    ) -> "DiffusionDecoder":
        """Return a new decoder for the condition of a pipeline.

        `settings`: `pipeline=` and any of the constructor's.

        Raises:
            ConfigError: no `pipeline`.
            CheckpointError, MissingExtraError: it cannot be loaded.
        """
        if "pipeline" not in settings:
            raise ConfigError(f"{route.token!r} needs `pipeline=`, the folder of a diffusers pipeline")
        loaded = _load(str(settings["pipeline"]))
        condition_1TD, pooled_1P = encode_prompts(loaded, [""])
        shape = {
            "tokens": condition_1TD.shape[1],
            "width": condition_1TD.shape[2],
            "pooled": 0 if pooled_1P is None else pooled_1P.shape[1],
        }
        decoder = cls(hidden_size, **(settings | shape | {"pipeline": str(settings["pipeline"])}))
        decoder._loaded = [loaded]
        return decoder

    @property
    def pipeline(self) -> Any:
        """The pipeline, loaded when it is first needed, on this module's device."""
        if not self._loaded:
            with torch.inference_mode(False):  # so that it can be trained through, whoever asks first
                self._loaded = [_load(str(self.settings["pipeline"]))]
        return self._loaded[0].to(self.mapper.queries.device)

    def condition(self, states_KNC: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return what the pipeline is conditioned on: (K, T, D), and (K, P) where it has a pooled condition."""
        pooled_KP = None if self.pooler is None else self.pooler(states_KNC.mean(dim=1))
        return self.mapper(states_KNC), pooled_KP

    def prepare(self, features: DenseFeatures) -> Any:
        """Return None: words alone decide."""
        return None

    @torch.inference_mode()
    def decode(self, states_KNC: Tensor, prepared: Any, request: DecodeRequest) -> GeneratedImages:
        asked = ImageRequest.of(request)
        return self._drawn(self.pipeline, states_KNC, asked, {})

    def _drawn(self, pipeline: Any, states_KNC: Tensor, request: ImageRequest, more: dict[str, Any]) -> GeneratedImages:
        options = request.options
        steps = STEPS if options.steps is None else options.steps
        guidance = self.guidance if options.guidance is None else options.guidance
        condition, pooled = self.condition(states_KNC)
        if request.away_1NC is None:
            away, away_pooled = encode_prompts(pipeline, [""])
        else:
            away, away_pooled = self.condition(request.away_1NC)
        dtype = _core(pipeline).dtype
        count = len(states_KNC)
        arguments: dict[str, Any] = {
            "prompt_embeds": condition.to(dtype),
            "negative_prompt_embeds": away.to(condition.device, dtype).expand(count, -1, -1),
            "num_inference_steps": steps,
            "guidance_scale": guidance,
            "generator": [torch.Generator().manual_seed((options.seed or 0) + number) for number in range(count)],
            "output_type": "pil",
            **more,
        }
        if pooled is not None and away_pooled is not None:
            arguments["pooled_prompt_embeds"] = pooled.to(dtype)
            arguments["negative_pooled_prompt_embeds"] = away_pooled.to(condition.device, dtype).expand(count, -1)
        if options.size is not None:
            # Pipelines draw in cells of 8 or 16 pixels; what is asked for in between is resized.
            arguments |= {"width": -(-options.size[0] // 16) * 16, "height": -(-options.size[1] // 16) * 16}
        arguments["callback_on_step_end"] = _after_step(request, steps)
        pipeline.set_progress_bar_config(disable=True)
        taken = inspect.signature(pipeline.__call__).parameters
        if "prompt_attention_mask" in taken:
            mask = torch.ones(count, condition.shape[1], dtype=torch.long, device=condition.device)
            arguments |= {"prompt_attention_mask": mask, "negative_prompt_attention_mask": mask}
            arguments["negative_prompt"] = None
        images = pipeline(**{name: value for name, value in arguments.items() if name in taken}).images
        if options.size is not None:
            images = [image.resize(options.size, Image.Resampling.LANCZOS) for image in images]
        return finished(self, self.name, images, request, steps=steps, guidance=guidance)

    def loss(self, states_KNC: Tensor, rows_K: Sequence[int], prepared: Any, targets: Sequence[Any]) -> Tensor:
        """Return the noise loss plus a tenth of the squared distance to the text encoders' own condition.

        Args:
            rows_K: the target of each state.
            targets: `(prompt, image)`, the image float (3, H, W) of 0..1.
        """
        pipeline = self.pipeline
        chosen = [targets[row] for row in rows_K]
        condition, pooled = self.condition(states_KNC)
        with torch.no_grad():
            taught, taught_pooled = encode_prompts(pipeline, [prompt for prompt, _ in chosen])
            images = torch.stack([image for _, image in chosen]).to(condition) * 2 - 1
            latents = pipeline.vae.encode(images.to(pipeline.vae.dtype)).latent_dist.sample()
            config = pipeline.vae.config
            latents = (latents - (getattr(config, "shift_factor", None) or 0.0)) * config.scaling_factor
        distance = F.mse_loss(condition, taught.to(condition))
        if pooled is not None and taught_pooled is not None:
            distance = distance + F.mse_loss(pooled, taught_pooled.to(pooled))
        return noise_loss(pipeline, latents, condition, pooled) + DISTILLATION * distance


class DiffusionEditor(DiffusionDecoder):
    """Changes an image by words: a pipeline's image-to-image form, or with a mask its inpainting form."""

    needs_image = True
    needs_features = False
    name = "diffusion-editor"

    def prepare_image(self, features: DenseFeatures, image: Image.Image) -> Image.Image:
        """Return the image as it is."""
        return image

    @torch.inference_mode()
    def decode(self, states_KNC: Tensor, prepared: Any, request: DecodeRequest) -> GeneratedImages:
        from diffusers import AutoPipelineForImage2Image, AutoPipelineForInpainting

        asked = ImageRequest.of(request)
        image = cast(Image.Image, prepared).convert("RGB")
        width, height = (max(16, length // 16 * 16) for length in image.size)
        source = image.resize((width, height), Image.Resampling.LANCZOS)
        count = len(states_KNC)
        more: dict[str, Any] = {"image": [source] * count, "strength": self.strength, "width": width, "height": height}
        form: type[AutoPipelineForImage2Image | AutoPipelineForInpainting] = AutoPipelineForImage2Image
        mask = None
        if asked.mask is not None:
            form = AutoPipelineForInpainting
            mask = Image.fromarray(asked.mask)
            more["mask_image"] = [mask.convert("L").resize((width, height))] * count
        try:
            pipeline = form.from_pipe(self.pipeline)
        except ValueError as error:
            raise RouteError(f"{self.settings['pipeline']!r} has no form that edits: {error}") from error
        made = self._drawn(pipeline, states_KNC, asked, more)
        images = [each.image.resize(image.size, Image.Resampling.LANCZOS) for each in made]
        if mask is not None:  # what may not change keeps its very pixels
            images = [Image.composite(each, image, mask) for each in images]
        return finished(self, self.name, images, asked, steps=made[0].steps, guidance=made[0].guidance)


def encode_prompts(pipeline: Any, prompts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
    """Return the condition (K, T, D) of the pipeline's own text encoders, and (K, P) where it has a pooled one."""
    takes = inspect.signature(pipeline.encode_prompt).parameters
    given = {
        "prompt": list(prompts),
        "prompt_2": None,
        "prompt_3": None,
        "device": _core(pipeline).device,
        "num_images_per_prompt": 1,
        "do_classifier_free_guidance": False,
    }
    found = pipeline.encode_prompt(**{name: value for name, value in given.items() if name in takes})
    pooled = None
    if "pooled_prompt_embeds" in inspect.signature(pipeline.__call__).parameters:
        # Stable Diffusion XL and 3 put it third, after what is negative; Flux, without guidance of that kind, second.
        pooled = found[2] if "negative_prompt_embeds" in takes else found[1]
    return found[0], pooled


def noise_loss(pipeline: Any, latents: Tensor, condition: Tensor, pooled: Tensor | None) -> Tensor:
    """Return mean squared error of the pipeline's network at random times, given a condition.

    Raises:
        RouteError: a network of another kind than those the module's docstring names.
    """
    core = _core(pipeline)
    scheduler = pipeline.scheduler
    noise = torch.randn_like(latents)
    times = torch.randint(0, scheduler.config.num_train_timesteps, (len(latents),), device=latents.device)
    condition = condition.to(core.dtype)
    if hasattr(pipeline, "unet"):
        more = {}
        if pooled is not None:
            side = latents.shape[-1] * pipeline.vae_scale_factor
            sizes = torch.tensor([[side, side, 0, 0, side, side]], dtype=core.dtype, device=latents.device)
            more["added_cond_kwargs"] = {
                "text_embeds": pooled.to(core.dtype),
                "time_ids": sizes.expand(len(latents), -1),
            }
        noisy = scheduler.add_noise(latents, noise, times)
        predicted = core(noisy, times, encoder_hidden_states=condition, **more).sample
        aim = noise
        if scheduler.config.prediction_type == "v_prediction":
            aim = scheduler.get_velocity(latents, noise, times)
        return F.mse_loss(predicted.float(), aim.float())
    if "pooled_projections" in inspect.signature(core.forward).parameters and pooled is not None:
        share = ((times + 1).to(latents) / scheduler.config.num_train_timesteps)[:, None, None, None]
        noisy = (1 - share) * latents + share * noise
        predicted = core(
            hidden_states=noisy,
            timestep=times + 1,
            encoder_hidden_states=condition,
            pooled_projections=pooled.to(core.dtype),
        ).sample
        return F.mse_loss(predicted.float(), (noise - latents).float())
    raise RouteError(f"training through a {type(core).__name__} is not known; drawing with it may work")


def _core(pipeline: Any) -> Any:
    """The network that takes noise away."""
    for name in ("unet", "transformer"):
        if getattr(pipeline, name, None) is not None:
            return getattr(pipeline, name)
    raise RouteError(f"{type(pipeline).__name__} has neither a UNet nor a transformer")


def _load(path: str) -> Any:
    try:
        from diffusers import DiffusionPipeline
    except ImportError as error:
        raise MissingExtraError(
            'images by a pipeline need diffusers: pip install "internvl-vision-agent[diffusers]"'
        ) from error
    index = Path(path) / "model_index.json"
    if not index.is_file():
        raise CheckpointError(f"{path!r} is no folder of a diffusers pipeline: it has no model_index.json")
    try:
        # A part that was saved as missing, such as Stable Diffusion 3's T5, has to be named as missing.
        missing = [name for name, kind in json.loads(index.read_text("utf-8")).items() if kind == [None, None]]
        load = cast(Any, DiffusionPipeline.from_pretrained)  # not typed by diffusers
        pipeline = load(path, local_files_only=True, **dict.fromkeys(missing))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"the pipeline {path!r} cannot be loaded: {error}") from error
    if "prompt_embeds" not in inspect.signature(pipeline.__call__).parameters:
        raise CheckpointError(f"the pipeline {path!r} ({type(pipeline).__name__}) takes no prompt embeddings")
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            part.eval().requires_grad_(False)
    return pipeline


def _after_step(request: ImageRequest, steps: int) -> Any:
    """What a pipeline calls after every step: it tells the progress, and stops where nobody waits any longer."""

    def call(pipeline: Any, step: int, time: Any, values: dict[str, Any]) -> dict[str, Any]:
        raise_if_cancelled()
        if request.progress is None:
            return values
        config = pipeline.vae.config
        latents = values["latents"][:1] / config.scaling_factor + (getattr(config, "shift_factor", None) or 0.0)
        pixels = pipeline.vae.decode(latents.to(pipeline.vae.dtype), return_dict=False)[0]
        request.progress(step + 1, steps, pipeline.image_processor.postprocess(pixels, output_type="pil")[0])
        return values

    return call
