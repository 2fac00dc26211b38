"""Figures of free routing: requests in wordings that were never trained, on images that were never seen.

Twenty wordings of each of six kinds (`data.text.held_out`), each on a photo of its own with an object that is in it.
The model's own words are read, up to its first routing token, so the figures are the same whether or not the decoders
of all routes are loaded.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from vision_agent.agent import VisionAgent
from vision_agent.data.dataset import ImageSources
from vision_agent.data.text.held_out import HELD_OUT
from vision_agent.evaluate.figures import Figure
from vision_agent.generation.decoding import PromptInputs, generate
from vision_agent.generation.options import GenerationOptions
from vision_agent.inference.evidence import EVIDENCE_REQUESTS
from vision_agent.model.backbone import Backbone
from vision_agent.model.prompt import with_placeholders

_TOKEN = re.compile(r"\[[A-Z][A-Z0-9_]*\]")
_KINDS = {
    "det": "places",
    "seg": "outlines",
    "ocr": "writing",
    "gen": "new images",
    "edit": "edits of images",
    "text": "words",
}


class FreeRoute(NamedTuple):
    """Where a request went by itself.

    Attributes:
        route: name of the first route; `"text"` for plain words, and where the model looks before it speaks.
        phrase: what stands before the first routing token; `""` without one.
        written: all that the model wrote, its tokens included.
    """

    route: str
    phrase: str
    written: str


def free_route(backbone: Backbone, request: str, image: Image.Image, longest: int = 40) -> FreeRoute:
    """Return answer a request with all routes allowed, and read which one it takes.

    Args:
        image: upright RGB.
        longest: most tokens of the answer.
    """
    seen = backbone.encode_image(image)
    prompt = backbone.prompt(((with_placeholders(request, 1), None),), [len(seen.tokens_TC)])
    options = GenerationOptions(max_new_tokens=longest, stop=EVIDENCE_REQUESTS)
    answer = generate(backbone, [PromptInputs(prompt.ids, seen.tokens_TC)], options).answers[0]
    tokens = {number: text for text, number in backbone.tokenizer.get_added_vocab().items() if _TOKEN.fullmatch(text)}
    words = [token for token in answer if token not in backbone.end_ids]
    written = backbone.decode_text(words)
    place = next((place for place, token in enumerate(words) if token in tokens), None)
    if place is None:
        return FreeRoute("text", "", written)
    looks = backbone.decode_text(words[place + 1 :]).strip().startswith(EVIDENCE_REQUESTS)
    route = "text" if looks else tokens[words[place]].strip("[]").lower()
    return FreeRoute(route, backbone.decode_text(words[:place]).strip(), written)


def routing_figures(agent: VisionAgent, data: Path, split: str, limit: int | None = None) -> Iterable[Figure]:
    """Yield the shares of right routes and of copied phrases, for each kind of request and over all.

    Args:
        data: folder of the archives.
        limit: at most this many wordings of a kind.
    """
    images = ImageSources(data, split, cutouts="val")
    records = images.photo_records
    right: dict[str, list[bool]] = {}
    copied: list[bool] = []
    number = 0
    for kind, wordings in HELD_OUT.items():
        right[kind] = []
        for wording in tqdm(wordings[:limit], desc=f"routing, {kind}"):
            scene = images.photos.scene(records[number % len(records)], colours=False)
            names = sorted(set(scene.names)) or ["dog"]
            name = names[np.random.default_rng((13, number)).integers(len(names))]
            number += 1
            went = free_route(agent.backbone, wording.request.format(name), scene.image)
            right[kind].append(went.route == kind)
            if wording.phrase is not None:
                copied.append(went.phrase == wording.phrase.format(name))
    of = "requests in wordings never trained"
    everything = [hit for hits in right.values() for hit in hits]
    yield Figure(name="free routing: route accuracy", value=float(np.mean(everything)), count=len(everything), of=of)
    for kind, hits in right.items():
        yield Figure(name=f"... of requests for {_KINDS[kind]}", value=float(np.mean(hits)), count=len(hits), of=of)
    yield Figure(
        name="... phrase copied exactly (all kinds but words)",
        value=float(np.mean(copied)),
        count=len(copied),
        of=of,
    )
