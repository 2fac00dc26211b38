"""From routing tokens to results: the one way to a decoder, whoever asks.

The hidden states of routing tokens are read first: those of a forced token by `forced_states`, those of a token that
the model wrote by `emitted_routes` or from an answer's cache. `decode` then hands them to the route's decoder, with
what the decoder prepared of the image.

Shape suffixes: K routing tokens, N states of each, C hidden size.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from vision_agent.errors import RouteError
from vision_agent.generation.decoding import overflow_error
from vision_agent.geometry.frames import TileGrid
from vision_agent.inference.detail import Detail, looks_closer, prepare_closer
from vision_agent.inference.engine import InferenceEngine
from vision_agent.inference.image_cache import CachedImage
from vision_agent.model.backbone import Backbone
from vision_agent.model.tile_bounds import TileBound
from vision_agent.plugins.cancellation import raise_if_cancelled
from vision_agent.plugins.decoder import DecodeRequest, DenseFeatures
from vision_agent.routing.adapter import Route
from vision_agent.routing.states import Forced

T = TypeVar("T")

_NO_IMAGE = TileGrid(1, 1, 1, 1)  # the grid of a route that is read without an image


@dataclass(frozen=True)
class RouteStates:
    """The hidden states of one route's tokens, and what they are about.

    Attributes:
        states_KNC: fp32, in the order of the phrases.
        phrases: the phrase of each token, K.
        images: those that the tokens are about; none for words alone. A decoder is given the first.
        scores: the probability of each token, K, where the model wrote them itself; None where they were forced.
    """

    states_KNC: Tensor
    phrases: tuple[str, ...]
    images: Sequence[CachedImage] = ()
    scores: tuple[float, ...] | None = None

    def request(self, model: str, threshold: float | None = None) -> DecodeRequest:
        """Return the request that goes with the states; `model` is the checkpoint's name."""
        grid = self.images[0].encoded.grid if self.images else _NO_IMAGE
        return DecodeRequest(self.phrases, grid, model, threshold, self.scores)


def forced_states(
    engine: InferenceEngine,
    route: Route,
    phrases: Sequence[str],
    images: Sequence[Image.Image | CachedImage] = (),
    max_tiles: TileBound = None,
) -> RouteStates:
    """Read a route forced for each phrase, about the same images, without generation.

    The prompt with its images is read once: its keys and values are kept in the engine's prefix cache. Phrases are
    put as `Route.asked` says.

    Raises:
        CancelledError: nobody waits for the result any longer.
    """
    raise_if_cancelled()
    own = [image for image in images if not isinstance(image, CachedImage)]
    encoded = iter(engine.encode_images(own, max_tiles) if own else ())
    cached = [image if isinstance(image, CachedImage) else next(encoded) for image in images]
    tokens = [each.encoded.tokens_TC for each in cached]
    with torch.inference_mode():
        tokens_TC = torch.cat(tokens) if tokens else torch.empty(0, engine.backbone.hidden_size)
    marks = tuple(mark for each in cached for mark in each.token_marks)
    forced = Forced(route, tokens_TC, tuple(map(len, tokens)), tuple(map(route.asked, phrases)), marks)
    return RouteStates(engine.read_forced(forced), tuple(phrases), cached)


def as_asked(engine: InferenceEngine, route: Route, read: RouteStates) -> RouteStates:
    """Return the states of phrases that the model wrote; those that `Route.asked` changes are read again, forced."""
    if all(route.asked(phrase) == phrase for phrase in read.phrases):
        return read
    return replace(read, states_KNC=forced_states(engine, route, read.phrases, read.images).states_KNC)


def decode(
    engine: InferenceEngine,
    route: Route,
    read: RouteStates,
    request: DecodeRequest | None = None,
    *,
    only_known: bool = True,
    detail: Detail | None = None,
) -> Any:
    """Return what the route's decoder makes of states.

    Args:
        request: `read`'s own if None.
        only_known: nothing is looked for by a phrase that the route was not taught a word of (see `KnownWords`).
        detail: how closely the image is looked at; None for what the decoder's scores were fitted with.

    Raises:
        AnswerError: the states, or what the decoder makes of them, are NaN or infinite.
        CancelledError: nobody waits for the result any longer.
    """
    asked = request or read.request(engine.backbone.name)

    @torch.inference_mode()
    def decoded() -> Any:
        raise_if_cancelled()
        made = None
        if read.images:
            made = prepared(engine, read.images[0], route, detail, read.states_KNC)
        else:
            _check_finite(engine.backbone, read.states_KNC)
        with overflow_told(engine.backbone):
            if route.words is None:
                return route.decoder.decode(read.states_KNC, made, asked)
            rows = [row for row, phrase in enumerate(read.phrases) if not only_known or route.words.finds(phrase)]
            return route.decoder.decode(read.states_KNC[rows], made, _of_rows(asked, rows))

    found = engine.run(decoded)
    if route.words is None:
        return found
    unknown = tuple(dict.fromkeys(word for phrase in read.phrases for word in route.words.unknown(phrase)))
    return found.model_copy(update={"phrases": asked.phrases, "unknown_words": unknown})


def _of_rows(request: DecodeRequest, rows: Sequence[int]) -> DecodeRequest:
    """The request about some of its phrases."""
    scores = None if request.scores is None else tuple(request.scores[row] for row in rows)
    return replace(request, phrases=tuple(request.phrases[row] for row in rows), scores=scores)


def prepared(
    engine: InferenceEngine,
    image: CachedImage,
    route: Route,
    detail: Detail | None,
    states_KNC: Tensor | None = None,
) -> Any:
    """Return what a route's decoder makes of an image alone; made once for each look and kept with the image.

    Args:
        states_KNC: what is looked for, which is checked with it: the host waits for both at once.

    Raises:
        AnswerError: the states, or what is made, are NaN or infinite.
    """
    name, decoder = route.spec.name, route.decoder
    with torch.inference_mode():
        if name not in image.prepared:
            features = (image.features() if decoder.needs_features else DenseFeatures(())).float()
            made = decoder.prepare_image(features, image.image)
            _check_finite(engine.backbone, made, states_KNC)
            image.prepared[name] = made
        else:
            _check_finite(engine.backbone, states_KNC)
        first = image.prepared[name]
        if not looks_closer(detail, image.image, engine.backbone, decoder):
            return first
        if name not in image.closer:
            raise_if_cancelled()
            image.closer[name] = prepare_closer(first, image.image, engine.backbone, decoder)
        return image.closer[name]


@contextmanager
def overflow_told(backbone: Backbone) -> Iterator[None]:
    """Turn a decoder's error about NaN and infinite numbers into one that names the remedy."""
    try:
        yield
    except FloatingPointError as error:
        raise overflow_error(backbone) from error


def _check_finite(backbone: Backbone, *made: object) -> None:
    """Raise AnswerError for numbers that are none: NaN compares as false, so there would be no box, silently.

    The host waits for all of them once.
    """
    fields = [field for each in made for field in (vars(each).values() if _has_fields(each) else [each])]
    tensors = [each for field in fields for each in (field if isinstance(field, tuple | list) else [field])]
    numbers = [each for each in tensors if isinstance(each, Tensor) and each.is_floating_point() and each.numel()]
    if not numbers:
        return
    device = numbers[0].device
    if not bool(torch.stack([each.isfinite().all().to(device) for each in numbers]).all()):
        raise overflow_error(backbone)


def _has_fields(made: object) -> bool:
    return hasattr(made, "__dict__") and not isinstance(made, Tensor)


def checked(route: Route, result: object, expected: type[T]) -> T:
    """Return a decoder's result. Raises RouteError where it is not of the expected class."""
    if not isinstance(result, expected):
        raise RouteError(f"the decoder of {route.spec.token!r} gives {type(result).__name__}, not {expected.__name__}")
    return result


def counted_from(route: Route) -> float | None:
    """Return the least score of the boxes that are counted; None for all that the route's decoder finds."""
    settings = route.decoder.settings
    return settings.get("counted") or settings.get("threshold")
