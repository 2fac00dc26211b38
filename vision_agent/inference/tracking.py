"""Finds objects in the first frames of a video and tracks them from there."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from PIL import Image

from vision_agent.errors import RouteError
from vision_agent.images.video import VideoFrames
from vision_agent.inference.decode import RouteStates, forced_states
from vision_agent.inference.emitted_routes import read_emitted_route
from vision_agent.inference.engine import InferenceEngine
from vision_agent.plugins.cancellation import until_cancelled
from vision_agent.plugins.decoder import Decoder
from vision_agent.results.segmentation import Segmentation
from vision_agent.results.video_segmentation import VideoSegmentation
from vision_agent.routing.adapter import Route

PROMPTED_FRAMES = 5  # the first frames of a video, those that the language model reads; Sa2VA's number


def segment_clip(
    engine: InferenceEngine, routes: Mapping[str, Route], route: Route, phrases: Sequence[str], clip: VideoFrames
) -> VideoSegmentation:
    """Find phrases in the first frames of a clip and track what they find through it.

    A frame that was sampled several times, of a file that has fewer than were asked for, is taken once.

    Raises:
        CancelledError: nobody waits for the result any longer; asked after every frame.
        RouteError: the route's decoder does not track objects through a video.
        InputError: frames of several sizes, or a prompt that does not fit the model's context.
    """
    if type(route.decoder).track is Decoder.track:
        raise RouteError(
            f"the decoder {route.spec.decoder!r} of {route.spec.token!r} does not track objects through a video; load "
            "a Sa2VA checkpoint, or an adapter of the decoder 'sam' with SAM 2"
        )
    clip = _each_once(clip)
    first = clip.images[:PROMPTED_FRAMES]
    read = _read(engine, routes, route, phrases, first)

    @torch.inference_mode()
    def tracked() -> tuple[Segmentation, ...]:
        found = route.decoder.track(read.states_KNC, clip.images, len(first), read.request(engine.backbone.name))
        return tuple(until_cancelled(found))

    frames = engine.run(tracked)
    return VideoSegmentation(
        frames=frames,
        indices=clip.indices,
        seconds=clip.seconds,
        phrases=tuple(phrases),
        model=engine.backbone.name,
    )


def _each_once(clip: VideoFrames) -> VideoFrames:
    """The clip with every frame once, in order."""
    kept = [place for place, index in enumerate(clip.indices) if index not in clip.indices[:place]]
    return replace(
        clip,
        images=tuple(clip.images[place] for place in kept),
        indices=tuple(clip.indices[place] for place in kept),
        seconds=None if clip.seconds is None else tuple(clip.seconds[place] for place in kept),
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
