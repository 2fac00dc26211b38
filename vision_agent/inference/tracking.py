"""Finds things in the first frames of a video and follows them from there."""

from collections.abc import Mapping, Sequence

import torch
from PIL import Image

from vision_agent.errors import RouteError
from vision_agent.images.video import VideoFrames
from vision_agent.inference.emitted_routes import EmittedRoutes, read_emitted_route
from vision_agent.inference.engine import InferenceEngine
from vision_agent.plugins.decoder import Decoder, DecodeRequest
from vision_agent.results.video_segmentation import VideoSegmentation
from vision_agent.routing.adapter import Route
from vision_agent.routing.states import read_forced

PROMPTED_FRAMES = 5  # the first frames of a video that the language model sees, as Sa2VA has it


def segment_clip(
    engine: InferenceEngine, routes: Mapping[str, Route], route: Route, phrases: Sequence[str], clip: VideoFrames
) -> VideoSegmentation:
    """Find phrases in the first frames of a clip and follow them through it.

    Raises:
        RouteError: the route's decoder does not follow things through a video.
        InputError: frames of several sizes, or a prompt that does not fit the model's context.
    """
    if type(route.decoder).track is Decoder.track:
        raise RouteError(
            f"the decoder {route.spec.decoder!r} of {route.spec.token!r} does not follow things through a video; load "
            "a Sa2VA checkpoint, or an adapter of the decoder 'sam' with SAM 2"
        )
    first = clip.images[:PROMPTED_FRAMES]
    asked = _read(engine, routes, route, phrases, first)
    grid = asked.seen[0].encoded.grid
    request = DecodeRequest(asked.phrases, grid, engine.backbone.name, scores=asked.scores or None)
    with engine.lock, torch.inference_mode():
        frames = tuple(route.decoder.track(asked.states_KNC, clip.images, len(first), request))
    return VideoSegmentation(
        frames=frames,
        indices=clip.indices,
        seconds=clip.seconds,
        phrases=tuple(phrases),
        model=engine.backbone.name,
    )


def _read(
    engine: InferenceEngine,
    routes: Mapping[str, Route],
    route: Route,
    phrases: Sequence[str],
    images: Sequence[Image.Image],
) -> EmittedRoutes:
    if route.decoder.request(phrases[0], video=True) is not None:
        return read_emitted_route(engine, routes, route, phrases, images, video=True)
    with engine.lock, torch.inference_mode():
        seen = [engine.see(image, 1) for image in images]
        tokens_TC = torch.cat([each.encoded.tokens_TC for each in seen])
        counts = [len(each.encoded.tokens_TC) for each in seen]
        states_KNC = read_forced(engine.backbone, route, tokens_TC, counts, phrases)
    return EmittedRoutes(states_KNC.float(), tuple(phrases), (), seen)
