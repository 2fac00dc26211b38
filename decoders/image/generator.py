"""The default's own image maker, decoder of `[GEN]` (`GeneratorDecoder`) and `[EDIT]` (`EditorDecoder`).

A mapper turns query states into condition tokens; a small generator (`model`) turns those into images. Both routes
draw with one network: `[GEN]` holds it and shares it with `[EDIT]`, so the second adapter is small.

Shape suffixes: K prompts, N states a token, C hidden size, T condition tokens, D their width, H W of an image.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from vision_agent.errors import RouteError
from vision_agent.plugins.decoder import Decoder, DecodeRequest, DenseFeatures, finite
from vision_agent.plugins.image_decoder import ImageDecoder, ImageRequest, finished
from vision_agent.plugins.route import RouteSpec
from vision_agent.results.generated import GeneratedImages, Progress

from .mapper import DISTILLATION, PlacedMapper
from .model import Generator, TaughtGenerator

STEPS = 16


class _NetworkDecoder(ImageDecoder):
    """What both routes share: the mapper, the loss, the drawing."""

    largest_side = 512
    name: str
    guidance: float

    def __init__(self, states: int, hidden_size: int, tokens: int, width: int) -> None:
        super().__init__()
        self.mapper = PlacedMapper(states, hidden_size, tokens, width)

    @property
    @abstractmethod
    def network(self) -> Generator:
        """The network that draws."""

    def unknown_words(self, prompt: str) -> tuple[str, ...]:
        return self.network.words.unknown(prompt)

    def loss(self, states_KNC: Tensor, rows_K: Sequence[int], prepared: Any, targets: Sequence[Any]) -> Tensor:
        """Return noise loss plus a tenth of the distance to the words' own condition.

        Args:
            rows_K: the target of each state.
            targets: `(taught, sample)`: the condition (T, D) that the word encoder gives, and the training sample.
        """
        condition_KTD = self.mapper(states_KNC)
        chosen = [targets[row] for row in rows_K]
        noise = self.network.flow_loss([sample for _, sample in chosen], condition_KTD)
        taught = torch.stack([taught for taught, _ in chosen]).to(condition_KTD)
        return noise + DISTILLATION * F.mse_loss(condition_KTD, taught)

    def _drawn(self, states_KNC: Tensor, request: ImageRequest, image: Image.Image | None) -> GeneratedImages:
        options = request.options
        steps = STEPS if options.steps is None else options.steps
        guidance = self.guidance if options.guidance is None else options.guidance
        device = states_KNC.device
        drawn = self.network.draw(
            self.mapper(states_KNC),
            [(options.seed or 0) + number for number in range(len(states_KNC))],
            steps=steps,
            guidance=guidance,
            size=None if options.size is None else (options.size[1], options.size[0]),
            under_3HW=None if image is None else _from_image(image).to(device),
            mask_HW=None if request.mask is None else torch.from_numpy(request.mask).to(device),
            away_BTD=None
            if request.away_1NC is None
            else self.mapper(request.away_1NC).expand(len(states_KNC), -1, -1),
            progress=None if request.progress is None else _previews(request.progress),
        )
        return finished(self, self.name, list(map(_to_image, drawn)), request, steps=steps, guidance=guidance)


class GeneratorDecoder(_NetworkDecoder):
    """Images from words.

    Args:
        states: N, how many states a routing token has.
        hidden_size: C of the query states.
        generator: settings of `Generator`.
        guidance: default guidance.
    """

    needs_image = False
    name = "generator"

    def __init__(self, states: int, hidden_size: int, generator: Mapping[str, Any], guidance: float = 2.0) -> None:
        network = Generator(**generator)
        super().__init__(states, hidden_size, *network.condition_shape)
        self.settings = {
            "states": states,
            "hidden_size": hidden_size,
            "generator": network.settings,
            "guidance": guidance,
        }
        self.guidance = guidance
        self.generator = network

    @classmethod
    def for_backbone(
        cls, route: RouteSpec, hidden_size: int, feature_widths: tuple[int, ...], **settings: Any
    ) -> "GeneratorDecoder":
        """Return a new decoder; `settings`: a trained generator as `network=`, or `generator=` for a new one."""
        network = cast(Generator | None, settings.pop("network", None))
        if network is not None:
            settings["generator"] = network.settings
        decoder = cls(route.states_per_token, hidden_size, **settings)
        if network is not None:
            decoder.generator.load_state_dict(network.state_dict())
        return decoder

    @staticmethod
    def taught(settings: Mapping[str, Any]) -> TaughtGenerator:
        """Return a new network with its word encoder, to be trained; `settings` are those of `Generator`."""
        return TaughtGenerator(Generator(**settings))

    @property
    def network(self) -> Generator:
        return self.generator

    def prepare(self, features: DenseFeatures) -> None:
        """Return None: words alone decide."""

    @torch.inference_mode()
    def decode(self, states_KNC: Tensor, prepared: Any, request: DecodeRequest) -> GeneratedImages:
        return self._drawn(states_KNC, ImageRequest.of(request), None)


class EditorDecoder(_NetworkDecoder):
    """Changes an image by words, with the network of another route's decoder.

    Args:
        states: N, how many states a routing token has.
        hidden_size: C of the query states.
        tokens, width: T and D of the network's condition.
        shared_with: name of the route that holds the network.
        guidance: default guidance.
    """

    needs_image = True
    needs_features = False
    name = "editor"

    def __init__(
        self, states: int, hidden_size: int, tokens: int, width: int, shared_with: str = "gen", guidance: float = 1.5
    ) -> None:
        super().__init__(states, hidden_size, tokens, width)
        self.settings = {
            "states": states,
            "hidden_size": hidden_size,
            "tokens": tokens,
            "width": width,
            "shared_with": shared_with,
            "guidance": guidance,
        }
        self.shared_with, self.guidance = shared_with, guidance
        self._shared: list[Generator] = []  # in a list, so that it is no part of this module's weights

    @classmethod
    def for_backbone(
        cls, route: RouteSpec, hidden_size: int, feature_widths: tuple[int, ...], **settings: Any
    ) -> "EditorDecoder":
        """Return a new decoder; `settings`: the network to share as `network=`, or `tokens=` and `width=`."""
        network = cast(Generator | None, settings.pop("network", None))
        if network is not None:
            settings["tokens"], settings["width"] = network.condition_shape
        decoder = cls(route.states_per_token, hidden_size, **settings)
        decoder._shared = [] if network is None else [network]
        return decoder

    def share_network(self, other: Decoder) -> None:
        """Take a network. Raises RouteError where the other decoder has none that fits the mapper."""
        network = getattr(other, "network", None)
        shape = (self.settings["tokens"], self.settings["width"])
        if not isinstance(network, Generator) or network.condition_shape != shape:
            holder = f"[{str(self.shared_with).upper()}] of {type(other).__name__}"
            raise RouteError(f"{holder} has no network for conditions of shape {shape}")
        self._shared = [network]

    @property
    def network(self) -> Generator:
        if not self._shared:
            raise RouteError(f"no network: the route {self.shared_with!r}, which holds it, is not loaded")
        return self._shared[0]

    def prepare(self, features: DenseFeatures) -> Any:
        """Raise RouteError: features are not enough, because the image itself is changed."""
        raise RouteError("an edit needs the image itself; see `prepare_image`")

    def prepare_image(self, features: DenseFeatures, image: Image.Image) -> Image.Image:
        """Return the image as it is."""
        return image

    @torch.inference_mode()
    def decode(self, states_KNC: Tensor, prepared: Any, request: DecodeRequest) -> GeneratedImages:
        return self._drawn(states_KNC, ImageRequest.of(request), cast(Image.Image, prepared))


def _from_image(image: Image.Image) -> Tensor:
    """RGB -> (3, H, W), 0..1."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255


def _to_image(image_3HW: Tensor) -> Image.Image:
    pixels_HW3 = finite(image_3HW.float().permute(1, 2, 0).cpu().numpy())
    return Image.fromarray((pixels_HW3 * 255).round().clip(0, 255).astype(np.uint8))


def _previews(progress: Progress) -> Callable[[int, int, Tensor], None]:
    return lambda step, steps, image: progress(step, steps, _to_image(image))
