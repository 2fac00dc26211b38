"""TODO docstring."""

from typing import Any

import torch

from vision_agent.errors import RouteError
from vision_agent.inference.image_cache import SeenImage
from vision_agent.routing.adapter import Route


def prepared(seen: SeenImage, route: Route) -> Any:
    """What a route's decoder makes of an image alone; made once and kept with the image."""
    if route.spec.name not in seen.prepared:
        with torch.inference_mode():
            maps = seen.encoded.features
            seen.prepared[route.spec.name] = route.decoder.prepare_image(maps.float(), seen.image)
    return seen.prepared[route.spec.name]


def _wrong_result(route: Route, found: object, expected: str) -> RouteError:
    return RouteError(f"the decoder of {route.spec.token!r} gives {type(found).__name__}, not {expected}")


def counted_from(route: Route) -> float | None:
    """Least score of the boxes that are counted; None for all that the route's decoder finds."""
    settings = route.decoder.settings
    return settings.get("counted") or settings.get("threshold")
