"""Decoders: the contract between a route's hidden states and a typed result."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor, nn

from vision_agent.errors import RouteError
from vision_agent.geometry.frames import TileGrid
from vision_agent.plugins.constraint import Constraint
from vision_agent.plugins.route import RouteSpec

T = TypeVar("T", bound=np.floating[Any])


def finite(values: npt.NDArray[T]) -> npt.NDArray[T]:
    """Return what a decoder computed, as it is.

    NaN compares as false: without this check there would be no box, silently.

    Raises:
        FloatingPointError: it is NaN or infinite. The verbs make an `AnswerError` of it that names the remedy.
    """
    if not np.isfinite(values).all():
        raise FloatingPointError("a decoder's numbers are NaN or infinite")
    return values


@dataclass(frozen=True)
class DenseFeatures:
    """Feature maps of whole images, finest first, each (B, C, H, W).

    A map covers the model's input canvas edge to edge, so its cells and `geometry`'s frame "map" agree. InternViT
    gives one map (tile features before pixel shuffle, stitched); the small tower of the default gives four.
    """

    maps: tuple[Tensor, ...]

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(map_BCHW.shape[1] for map_BCHW in self.maps)

    def float(self) -> "DenseFeatures":
        """Return the same in fp32, which decoders compute in."""
        return DenseFeatures(tuple(map_BCHW.float() for map_BCHW in self.maps))


@dataclass(frozen=True)
class DecodeRequest:
    """The request to a decoder: all that it gets about one image besides its features.

    Attributes:
        phrases: one for each routing token, in the order of the states.
        grid: the image's size and tiling; converts coordinates.
        model: name for the result.
        threshold: least score to return; None for the decoder's own default.
        scores: how sure the model was of each routing token, 0-1, where it wrote them itself; None where they were
            forced.
    """

    phrases: tuple[str, ...]
    grid: TileGrid
    model: str
    threshold: float | None = None
    scores: tuple[float, ...] | None = None


@dataclass(frozen=True)
class BoxTargets:
    """True boxes of one training image, frame "unit".

    Attributes:
        boxes_G4: xyxy.
        belongs_KG: bool, which phrase of the image (in the order of its states) names which box.
        ignored_M4: regions in which a phrase's score is not trained (crowds).
        ignored_phrase_M: the phrase each region belongs to.
        sure_G: how sure it is that each box is right, 0-1; None where people marked them all.
        named_G: bool, False for boxes of objects whose name nobody knows; None where all are known.
        doubtful_D4: boxes that may hold an object or not: whatever overlaps one is not trained; None for none.
    """

    boxes_G4: Tensor
    belongs_KG: Tensor
    ignored_M4: Tensor
    ignored_phrase_M: Tensor
    sure_G: Tensor | None = None
    named_G: Tensor | None = None
    doubtful_D4: Tensor | None = None


@dataclass(frozen=True)
class MaskTargets:
    """True objects of one training image whose outline is known.

    Attributes:
        boxes_G4: xyxy, frame "unit".
        masks_GHW: bool, over the whole image.
        phrase_G: which phrase of the image (in the order of its states) names the object; -1 for none.
    """

    boxes_G4: Tensor
    masks_GHW: Tensor
    phrase_G: Tensor


class Decoder(nn.Module, ABC):
    """Base class of decoders. Subclasses are named by entry points in the group `vision_agent.decoders`.

    The constructor takes the adapter's settings as keywords (stored as `self.settings`, saved in `adapter.json`).
    """

    settings: dict[str, Any]
    # Whether its results need an image. One that makes images from words alone is read without: `prepared` is None.
    needs_image: ClassVar[bool] = True
    # Whether it reads an image's feature maps; they are kept only where a loaded route does. Others get none.
    needs_features: ClassVar[bool] = True
    # Whether it joins what it prepared of two looks at an image, the second one on a larger canvas.
    looks_closer: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def for_backbone(cls, route: RouteSpec, hidden_size: int, feature_widths: tuple[int, ...]) -> "Decoder":
        """Return a new, untrained decoder for a backbone of this hidden size and these feature maps."""

    @abstractmethod
    def prepare(self, features: DenseFeatures) -> Any:
        """Compute the part that depends on the image alone. Called once per image; the result is cached.

        Args:
            features: maps (B, C, H, W). An answer gives one image, B = 1; a training step those of its images whose
                maps have one shape, in their order, so that keeping B first in what is returned serves both.
        """

    def prepare_image(self, features: DenseFeatures, image: Image.Image) -> Any:
        """Do `prepare` for a decoder that also reads the image itself, upright RGB, as SAM does; others need not."""
        return self.prepare(features)

    @property
    def usual_detail(self) -> Literal["low", "auto", "high"]:
        """How closely images are looked at where nobody says it: as they were when the scores were fitted."""
        return "low"

    def join(self, first: Any, closer: Any) -> Any:
        """Join what `prepare_image` gave of two looks at one image, for decoders that look closer.

        Raises:
            RouteError: this one does not.
        """
        raise RouteError(f"{type(self).__name__} looks at an image once")

    def request(self, phrase: str, *, video: bool = False) -> str | None:
        """Return what the model is asked for a phrase, where it was trained to write the routing token itself.

        None where the token is forced after the phrase, which is the rule.
        """
        return None

    def track(
        self, states_KNC: Tensor, frames: Sequence[Image.Image], prompted: int, request: DecodeRequest
    ) -> Iterator[Any]:
        """Yield what the phrases stand for in each frame of a video, by states read with its first `prompted` frames.

        Raises:
            RouteError: most decoders see images alone.
        """
        raise RouteError(f"{type(self).__name__} does not track objects through a video")

    @abstractmethod
    def decode(self, states_KNC: Tensor, prepared: Any, request: DecodeRequest) -> Any:
        """Turn the states (phrases, states per token, hidden) of one image into one frozen result model."""

    def calibrated(self, scores: Mapping[str, float]) -> dict[str, Any]:
        """Return the settings to change when `vision-agent calibrate` has fitted those of the model's `[DET]` boxes.

        Most decoders do not hold a box decoder, so nothing changes.
        """
        return {}

    @abstractmethod
    def loss(self, states_KNC: Tensor, rows_K: Sequence[int], prepared: Any, targets: Sequence[Any]) -> Tensor:
        """Return the scalar loss of B images, about which K phrases are asked in all.

        Args:
            states_KNC: query states, fp32; those of the first image's phrases come first. Gradients pass through them.
            rows_K: for each state the place, from 0, of its image among the B.
            prepared: what `prepare` returned for the maps of these B images, (B, C, H, W) each, with gradients. Images
                of another shape are given in a call of their own.
            targets: B items, the `target` of each image's sample, their tensors on the device of the states.
        """


@runtime_checkable
class PromptedDecoder(Protocol):
    """What a decoder of masks has beside `decode` if it also takes boxes and points, in pixels of the original."""

    def decode_boxes(self, boxes: Any, prepared: Any, request: DecodeRequest) -> Any:
        """Return one segment for each box (n, 4)."""
        ...

    def decode_points(self, points: Any, prepared: Any, request: DecodeRequest, point_labels: Any = None) -> Any:
        """Return one segment for each object's points, (n, 2) or (n, k, 2)."""
        ...


@dataclass(frozen=True)
class WrittenAnswer:
    """An answer as written, for decoders that read words.

    Attributes:
        text: decoded, without the end token.
        token_ids: the tokens of `text`.
        logprobs: of each of them, before the constraint (natural logarithm).
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True)
class Continuation:
    """How an answer goes on that a remote engine writes under patterns, without the decoder's own grammar.

    Attributes:
        text: what stands of the answer so far, marks included; the engine continues it.
        written: the tokens of what the model wrote of it, and their logprobs.
        pattern: a regular expression of what may follow.
    """

    text: str
    written: tuple[tuple[int, float], ...]
    pattern: str


class TextDecoder(ABC):
    """Base class of decoders that read the model's own words, for checkpoints without routes.

    Named by entry points in the same group as `Decoder`. Made with the backbone it is to read.
    """

    def __init__(self, backbone: Any) -> None:
        self.backbone = backbone

    @abstractmethod
    def request(self, phrase: str) -> str:
        """Return what the model is asked for a phrase."""

    @abstractmethod
    def constraint(self, phrase: str) -> Constraint:
        """Return the grammar its answer is written under."""

    @abstractmethod
    def decode(self, answers: Sequence[WrittenAnswer], request: DecodeRequest) -> Any:
        """Turn answers, one for each of `request.phrases`, into one frozen result model."""

    def first_tokens(self, phrase: str) -> tuple[int, int]:
        """Return the first token of an answer that finds the phrase, and of one that does not.

        Raises:
            RouteError: the decoder reads no answers of remote engines, which know nothing of its grammar.
        """
        raise RouteError(f"the decoder {type(self).__name__} does not read what remote engines write")

    def continuation(self, phrase: str, written: Sequence[tuple[int, float]]) -> Continuation | None:
        """Return how an answer that finds the phrase goes on; None where it is whole.

        What breaks the decoder's own grammar is taken back, so that the answer comes out as under the grammar.

        Args:
            written: tokens and logprobs of what the model wrote itself, without what every such answer begins with.
        """
        raise RouteError(f"the decoder {type(self).__name__} does not read what remote engines write")

    def whole_answer(self, phrase: str, there: float, written: Sequence[tuple[int, float]]) -> WrittenAnswer:
        """Return the answer, with its beginning and its end, as `decode` takes it.

        `there` is the logprob of its first token.
        """
        raise RouteError(f"the decoder {type(self).__name__} does not read what remote engines write")
