"""Routes that the model was trained to take by itself: it is asked for a phrase and writes the routing token.

Sa2VA is such a model: asked "Please segment the dog in this image." it writes "Sure, [SEG].", or no token where there
is no dog. All phrases are asked in one batch and all their tokens are read in one forward pass.

Shape suffixes: K routing tokens, N states of each, C hidden size.
"""

from collections.abc import Mapping, Sequence

import torch
from PIL import Image

from vision_agent.generation.options import GenerationOptions
from vision_agent.inference.conversation import Conversation
from vision_agent.inference.decode import RouteStates
from vision_agent.inference.engine import InferenceEngine
from vision_agent.model.prompt import PLACEHOLDER
from vision_agent.routing.adapter import Route
from vision_agent.routing.states import Emitted, read_emitted

_TOKENS = 64  # of an answer; "Sure, the segmentation result is [SEG]." has twelve


def read_emitted_route(
    engine: InferenceEngine,
    routes: Mapping[str, Route],
    route: Route,
    phrases: Sequence[str],
    images: Sequence[Image.Image],
    *,
    video: bool = False,
) -> RouteStates:
    """Ask for each phrase on the same images, in its decoder's words, and read the routing tokens of the answers.

    Args:
        routes: all loaded routes; only `route` may be taken.
        video: the images are frames of a video, and each is read as one tile.

    Returns:
        states of the tokens that were output. A phrase whose answer has no token is not among its phrases.

    Raises:
        InputError: the prompt does not fit the model's context.
    """
    conversations = [
        Conversation.build(_question(route, phrase, len(images), video), images, max_tiles=1 if video else None)
        for phrase in phrases
    ]
    backbone = engine.backbone
    others = [each.token_id for each in routes.values() if each is not route]
    output, cached = engine.generate(conversations, GenerationOptions(max_new_tokens=_TOKENS), others)
    emitted = [
        Emitted(row, index, route.spec.name)
        for row, answer in enumerate(output.answers)
        for index, token in enumerate(answer)
        if token == route.token_id
    ]

    @torch.inference_mode()
    def read() -> list[torch.Tensor]:
        if emitted:
            output.fill_cache(backbone)
        return read_emitted(backbone, routes, output.cache, output.mask_BP, output.answers, emitted)

    states = engine.run(read)
    empty = torch.empty(0, route.spec.states_per_token, backbone.hidden_size, device=backbone.device)
    return RouteStates(
        states_KNC=torch.stack(states).float() if states else empty,
        phrases=tuple(phrases[item.row] for item in emitted),
        scores=tuple(output.probability(item.row, item.index) for item in emitted),
        images=cached[0],
    )


def _question(route: Route, phrase: str, images: int, video: bool) -> str:
    question = route.decoder.request(phrase, video=video) or phrase
    return f"{PLACEHOLDER}\n" * images + question if video else question  # Sa2VA's frames are not numbered
