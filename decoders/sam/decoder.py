"""The `[SEG]` route by Segment Anything: a state of the language model becomes a prompt token, and SAM makes the mask.

A small network maps each state of a routing token to a token of the kind SAM's own prompt encoder makes, as in LISA
(https://arxiv.org/abs/2308.00692) and Sa2VA (https://arxiv.org/abs/2501.04001). It is all that is trained and all that
an adapter holds; SAM stays as it was published and is loaded from its own path.

Shape suffixes: K phrases, N states of a routing token, C hidden size, E width of a prompt token, M proposals, h and w
small masks.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from vision_agent.errors import AdapterMismatchError, ConfigError, InputError, RouteError, bad_argument
from vision_agent.geometry.rle import RunLengths
from vision_agent.model.devices import choose_dtype
from vision_agent.plugins.decoder import Decoder, DecodeRequest, DenseFeatures
from vision_agent.plugins.route import RouteSpec
from vision_agent.results.segmentation import Mask, Segmentation

from .loading import fingerprints, load_network
from .loss import mask_loss
from .memory import track
from .network import OBJECTS_AT_ONCE
from .prompts import Prompts

Found = list[tuple[RunLengths, float]]


@dataclass(frozen=True)
class PreparedImage:
    """An image after SAM's encoder.

    Attributes:
        features: of the canvas, fp32.
        image_size: (width, height) of the upright original, pixels.
    """

    features: tuple[Tensor, ...]
    image_size: tuple[int, int]


class SamDecoder(Decoder):
    """Masks by SAM from the states of a route.

    Args:
        hidden_size: C of the states.
        checkpoint: path of SAM's weights, as `load_network` takes them.
        fingerprint: of the weights it was trained with; others are refused. "" takes those that are there.
        request: what the model is asked for a phrase, with `{phrase}` in it, where it was trained to write the routing
            token itself; None where the token is forced after the phrase.
        video_request: the same about the first frames of a video.
        threshold: default least score.
    """

    name = "sam"
    needs_features = False

    def __init__(
        self,
        hidden_size: int,
        checkpoint: str,
        fingerprint: str = "",
        request: str | None = None,
        video_request: str | None = None,
        threshold: float = 0.0,
    ) -> None:
        """
        Raises:
            CheckpointError, MissingExtraError: SAM's weights cannot be loaded.
            AdapterMismatchError: they are others than those it was trained with.
        """
        super().__init__()
        found = _checked_fingerprint(checkpoint, fingerprint)
        self.settings: dict[str, Any] = {
            "hidden_size": hidden_size,
            "checkpoint": checkpoint,
            "fingerprint": found,
            "request": request,
            "video_request": video_request,
            "threshold": threshold,
        }
        # No torch module of this one: its weights belong to SAM's checkpoint and not to an adapter.
        self.network = load_network(Path(checkpoint))
        self.network.place(torch.device("cpu"), torch.float32)
        width = self.network.token_width
        self.prompt = nn.Sequential(nn.Linear(hidden_size, hidden_size), nn.ReLU(), nn.Linear(hidden_size, width))

    @classmethod
    def for_backbone(
        cls,
        route: RouteSpec,
        hidden_size: int,
        feature_widths: tuple[int, ...],
        *,
        checkpoint: str | Path | None = None,
        **settings: Any,
    ) -> Self:
        """Return a new, untrained decoder.

        Args:
            checkpoint: path of SAM's weights.
            settings: other keywords of the class.

        Raises:
            ConfigError: no checkpoint.
        """
        if checkpoint is None:
            raise ConfigError(bad_argument("checkpoint", "the path of a SAM checkpoint", checkpoint))
        return cls(hidden_size, str(checkpoint), **settings)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """SAM goes where this module goes, but keeps its own number formats."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        device = next(self.prompt.parameters()).device
        if device.type != "meta":
            self.network.place(device, choose_dtype(device, "auto", parameters=self.network.parameter_count))
        return self

    def request(self, phrase: str, *, video: bool = False) -> str | None:
        template = self.settings["video_request" if video else "request"]
        return None if template is None else str(template).replace("{phrase}", phrase)

    def prepare(self, features: DenseFeatures) -> PreparedImage:
        """Raise RouteError: SAM encodes the image itself; use `prepare_image`."""
        raise RouteError("SAM encodes the image itself: call `prepare_image`, not `prepare`")

    @torch.no_grad()
    def prepare_image(self, features: DenseFeatures, image: Image.Image) -> PreparedImage:
        return PreparedImage(self.network.encode(image), image.size)

    def tokens(self, states_KNC: Tensor) -> Tensor:
        """Map states to prompt tokens (K, N, E). Raises RouteError for states of another width."""
        if states_KNC.ndim != 3 or states_KNC.shape[-1] != self.settings["hidden_size"]:
            expected = f"(phrases, states, {self.settings['hidden_size']})"
            raise RouteError(f"this decoder was made for states {expected}, but got {tuple(states_KNC.shape)}")
        tokens_KNE: Tensor = self.prompt(states_KNC)
        return tokens_KNE

    def decode(self, states_KNC: Tensor, prepared: PreparedImage, request: DecodeRequest) -> Segmentation:
        """Return one segment for each phrase whose mask has any pixel and whose score is high enough.

        The score is the model's own of its routing token where it wrote that, otherwise SAM's rating of the mask.
        """
        if len(states_KNC) != len(request.phrases):
            raise RouteError(f"{len(request.phrases)} phrases, but states of {len(states_KNC)} routing tokens")
        found = list(self._found(states_KNC, prepared))
        scores = _ratings(found) if request.scores is None else request.scores
        least = self.settings["threshold"] if request.threshold is None else request.threshold
        kept = [n for n, (runs, _) in enumerate(found) if len(runs.edges) and scores[n] >= least]
        return self._result(
            [found[n] for n in kept],
            [request.phrases[n] for n in kept],
            [scores[n] for n in kept],
            request,
            prepared.image_size,
        )

    def decode_boxes(
        self,
        boxes: npt.ArrayLike,
        prepared: PreparedImage,
        request: DecodeRequest,
        labels: Sequence[str] | None = None,
        scores: Sequence[float] | None = None,
    ) -> Segmentation:
        """Return one segment for each box.

        Args:
            boxes: (n, 4) xyxy in pixels of the upright original.
            request: its phrases are for the result alone.
            labels: what the n objects are; "object" if None.
            scores: how sure it is that they are there; None for SAM's rating of each mask.

        Raises:
            InputError: as `SamSegmenter.segment` raises it.
        """
        prompts = Prompts.check(boxes, None, None, prepared.image_size)
        return self._prompted(prompts, prepared, request, labels, scores)

    def decode_points(
        self,
        points: npt.ArrayLike,
        prepared: PreparedImage,
        request: DecodeRequest,
        point_labels: npt.ArrayLike | None = None,
        labels: Sequence[str] | None = None,
    ) -> Segmentation:
        """Return one segment for each object's points; `SamSegmenter.segment` says what is accepted."""
        prompts = Prompts.check(None, points, point_labels, prepared.image_size)
        return self._prompted(prompts, prepared, request, labels, None)

    def track(
        self, states_KNC: Tensor, frames: Sequence[Image.Image], prompted: int, request: DecodeRequest
    ) -> Iterator[Segmentation]:
        """Track what the routing tokens stand for through a video, by SAM 2's memory.

        Args:
            states_KNC: states that were read with the first frames in view.
            frames: upright RGB images of one size, in order.
            prompted: how many of the first frames are prompted with the tokens; they are tracked in the rest.

        Yields:
            for each frame one segment for each phrase, in their order, with an empty mask where it is not visible.

        Raises:
            RouteError: SAM's checkpoint has no memory for videos.
            InputError: frames of several sizes.
        """
        with torch.inference_mode():
            for found in track(self.network, frames, self.tokens(states_KNC), prompted):
                yield self._result(found, request.phrases, request.scores, request, frames[0].size)

    def loss(
        self,
        states_KNC: Tensor,
        rows_K: Sequence[int],
        prepared: Sequence[PreparedImage],
        targets: Sequence[Tensor],
    ) -> Tensor:
        """Return Sa2VA's loss, 2 x binary cross-entropy + 0.5 x dice, averaged over objects; 0 without any.

        Args:
            prepared: one an image.
            targets: one an image, (its phrases, H, W) bools that cover the whole image at any resolution, in the
                order of its states.

        Raises:
            RouteError: another number of masks than of phrases.
        """
        total = states_KNC.sum() * 0 + sum(parameter.sum() for parameter in self.parameters()) * 0
        for number, (image, truth_GHW) in enumerate(zip(prepared, targets, strict=True)):
            mine = torch.tensor([row == number for row in rows_K], dtype=torch.bool, device=states_KNC.device)
            if int(mine.sum()) != len(truth_GHW):
                raise RouteError(f"image {number} has {int(mine.sum())} phrases, but {len(truth_GHW)} true masks")
            if len(truth_GHW):
                tokens_GNE = self.tokens(states_KNC[mine])
                logits_GMhw, ratings_GM = self.network.masks_of_tokens(image.features, tokens_GNE)
                shown = self.network.shown(image.image_size)
                losses_G = mask_loss(_rated_best(logits_GMhw, ratings_GM), truth_GHW, shown, self.network.side)
                total = total + losses_G.sum() / len(rows_K)
        return total

    def _found(self, states_KNC: Tensor, prepared: PreparedImage) -> Iterator[tuple[RunLengths, float]]:
        for first in range(0, len(states_KNC), OBJECTS_AT_ONCE):
            tokens_KNE = self.tokens(states_KNC[first : first + OBJECTS_AT_ONCE])
            logits_KMhw, ratings_KM = self.network.masks_of_tokens(prepared.features, tokens_KNE)
            yield from self.network.best(logits_KMhw, ratings_KM, prepared.image_size)

    def _prompted(
        self,
        prompts: Prompts,
        prepared: PreparedImage,
        request: DecodeRequest,
        labels: Sequence[str] | None,
        scores: Sequence[float] | None,
    ) -> Segmentation:
        found: Found = []
        for first in range(0, len(prompts), OBJECTS_AT_ONCE):
            some = prompts.rows(slice(first, first + OBJECTS_AT_ONCE))
            found += self.network.decode(prepared.features, some, prepared.image_size)
        names = ["object"] * len(found) if labels is None else labels
        for name, values in (("labels", names), ("scores", scores)):
            if values is not None and len(values) != len(found):
                raise InputError(bad_argument(name, f"{len(found)} of them, one for each object", values))
        return self._result(found, names, scores, request, prepared.image_size, prompts)

    def _result(
        self,
        found: Found,
        labels: Sequence[str],
        scores: Sequence[float] | None,
        request: DecodeRequest,
        image_size: tuple[int, int],
        prompts: Prompts | None = None,
    ) -> Segmentation:
        masks = [Mask.from_runs(runs) for runs, _ in found]
        ratings = _ratings(found)
        return Segmentation.from_masks(
            masks,
            ratings if scores is None else list(scores),
            labels,
            xyxy=None if prompts is None else prompts.boxes_of(masks),
            mask_scores=ratings,
            image_size=image_size,
            model=request.model,
            phrases=tuple(dict.fromkeys(request.phrases)),
            decoder=self.name,
        )


def _ratings(found: Found) -> list[float]:
    return [min(max(rating, 0.0), 1.0) for _, rating in found]  # SAM 1 rates without a bound


def _rated_best(logits_GMhw: Tensor, ratings_GM: Tensor) -> Tensor:
    """The proposal (G, h, w) that SAM rates best, which is the one that will be used."""
    return logits_GMhw[torch.arange(len(logits_GMhw), device=logits_GMhw.device), ratings_GM.detach().argmax(1)]


def _checked_fingerprint(checkpoint: str, expected: str) -> str:
    """The fingerprint of SAM's weights; prompt tokens mean nothing to others."""
    found = fingerprints(Path(checkpoint))
    if expected and found and expected not in found:
        raise AdapterMismatchError(
            f"the prompts of this route were trained for other SAM weights ({expected!r}) than those at "
            f"{checkpoint!r} ({found[0]!r}); name the right ones with `change_settings(folder, checkpoint=...)`"
        )
    return found[0] if found else expected
