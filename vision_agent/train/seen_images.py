"""What a frozen model makes of training images, kept on disk: tokens, feature maps and, if asked for, read prompts.

Shape suffixes: T image tokens, C hidden size, P tokens of a prompt.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import DynamicCache

from vision_agent.model.attention import full_cache
from vision_agent.model.backbone import Backbone
from vision_agent.model.tensor_files import save_file
from vision_agent.plugins.decoder import DenseFeatures
from vision_agent.routing.states import FORCED_REQUEST


@dataclass(frozen=True)
class SeenImage:
    """An image after the frozen model.

    Attributes:
        tokens_TC: its image tokens. features: its dense features in fp32, batch of one.
        prompt: keys and values of each layer, (1, heads, P, width), of the prompt of forced routes; None where it is
            read anew.
    """

    tokens_TC: Tensor
    features: DenseFeatures
    prompt: tuple[Tensor, ...] | None = None


class SeenImages:
    """Encodes images once, and reads them from a folder from then on.

    Args:
        folder: None to keep nothing.
        prompts: keep the read prompts as well. It saves most of a step, and takes far more disk than features do.
    """

    def __init__(self, backbone: Backbone, folder: Path | None = None, *, prompts: bool = False) -> None:
        self._backbone, self._folder, self._prompts = backbone, folder, prompts
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def see(self, image: Image.Image, key: str) -> SeenImage:
        """Return what the model sees of an image.

        Args:
            key: names the image; "" for one that is never kept.
        """
        path = None if self._folder is None or not key else self._folder / f"{self._name(key)}.safetensors"
        if path is not None and path.is_file():
            try:
                return self._read(load_file(path, device=str(self._backbone.device)))
            except SafetensorError:  # half-written by a machine that went down: it is made anew
                path.unlink()
        tensors = self._encode(image)
        if path is not None:
            partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
            save_file({name: each.cpu().contiguous() for name, each in tensors.items()}, partial)
            os.replace(partial, path)
        return self._read(tensors)

    def _name(self, key: str) -> str:
        # By the weights and the request, too: another model's would be silently wrong.
        told = f"{self._backbone.fingerprint}|{self._backbone.dtype}|{FORCED_REQUEST}|{self._prompts}|{key}"
        return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:40]

    def _encode(self, image: Image.Image) -> dict[str, Tensor]:
        encoded = self._backbone.encode_image(image)
        # It runs in inference mode, whose tensors no gradient may pass: copies are ordinary ones.
        tensors = {"tokens": encoded.tokens_TC.clone()}
        tensors |= {f"map.{number}": each.clone() for number, each in enumerate(encoded.features.maps)}
        if self._prompts:
            kept = read_prompt(self._backbone, tensors["tokens"])
            tensors |= {f"prompt.{number:04}": each for number, each in enumerate(kept)}
        return tensors

    def _read(self, tensors: dict[str, Tensor]) -> SeenImage:
        maps = tuple(tensors[name].float() for name in sorted(tensors) if name.startswith("map."))
        prompt = tuple(tensors[name] for name in sorted(tensors) if name.startswith("prompt."))
        return SeenImage(tensors["tokens"], DenseFeatures(maps), prompt or None)


@torch.no_grad()
def read_prompt(backbone: Backbone, tokens_TC: Tensor) -> tuple[Tensor, ...]:
    """Return the keys and values of each layer, in turn, of the prompt of forced routes about one image."""
    cache, device = full_cache(), backbone.device
    ids_1P = torch.tensor([backbone.prompt_ids(FORCED_REQUEST, [len(tokens_TC)])], device=device)
    backbone.model.model.language_model(
        inputs_embeds=backbone.embed(ids_1P, tokens_TC.to(device), image_places=len(tokens_TC)),
        position_ids=torch.arange(ids_1P.shape[1], device=device)[None],
        past_key_values=cache,
        use_cache=True,
    )
    layers: Any = cache.layers
    return tuple(each.clone() for layer in layers for each in (layer.keys, layer.values))


def joined_prompts(prompts: Sequence[Sequence[Tensor]]) -> tuple[DynamicCache, Tensor]:
    """Return one cache of the read prompts of several images, padded on the right, and which of its tokens are real."""
    lengths = [prompt[0].shape[2] for prompt in prompts]
    cache, longest = full_cache(), max(lengths)
    for layer in range(len(prompts[0]) // 2):
        keys, values = (
            torch.cat([_padded(prompt[2 * layer + part], longest) for prompt in prompts]) for part in (0, 1)
        )
        cache.update(keys, values, layer)
    known_BP = torch.arange(longest)[None] < torch.tensor(lengths)[:, None]
    return cache, known_BP


def _padded(each: Tensor, length: int) -> Tensor:
    return torch.nn.functional.pad(each, (0, 0, 0, length - each.shape[2]))
