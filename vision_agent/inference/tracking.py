"""Finds objects in the first frames of a video and tracks them from there."""

from collections.abc import Mapping, Sequence

import torch
from PIL import Image

from vision_agent.errors import RouteError
from vision_agent.images.video import VideoFrames
from vision_agent.inference.decode import RouteStates, forced_states
from vision_agent.inference.emitted_routes import read_emitted_route
from vision_agent.inference.engine import InferenceEngine
from vision_agent.plugins.decoder import Decoder
from vision_agent.results.video_segmentation import VideoSegmentation
from vision_agent.routing.adapter import Route

PROMPTED_FRAMES = 5  # the first frames of a video, those that the language model reads; Sa2VA's number


def segment_clip(
    engine: InferenceEngine, routes: Mapping[str, Route], route: Route, phrases: Sequence[str], clip: VideoFrames
) -> VideoSegmentation:
    """Find phrases in the first frames of a clip and track what they find through it.

    Raises:
        RouteError: the route's decoder does not track objects through a video.
        InputError: frames of several sizes, or a prompt that does not fit the model's context.
    """
    if type(route.decoder).track is Decoder.track:
        raise RouteError(
            f"the decoder {route.spec.decoder!r} of {route.spec.token!r} does not track objects through a video; load "
            "a Sa2VA checkpoint, or an adapter of the decoder 'sam' with SAM 2"
        )
    first = clip.images[:PROMPTED_FRAMES]
    read = _read(engine, routes, route, phrases, first)
    with engine.lock, torch.inference_mode():
        tracked = route.decoder.track(read.states_KNC, clip.images, len(first), read.request(engine.backbone.name))
        frames = tuple(tracked)
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
) -> RouteStates:
    if route.decoder.request(phrases[0], video=True) is not None:
        return read_emitted_route(engine, routes, route, phrases, images, video=True)
    return forced_states(engine, route, phrases, images, max_tiles=1)
