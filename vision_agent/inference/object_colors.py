"""The colours of an object: those of the pixels of its mask."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vision_agent.geometry.frames import box_clip
from vision_agent.inference.colors import colour_shares
from vision_agent.inference.predictor import Predictor
from vision_agent.plugins.decoder import PromptedDecoder
from vision_agent.results.box import Box
from vision_agent.routing.adapter import Route

_MASKS = "seg"


def object_colours(routes: Mapping[str, Route], predictor: Predictor, image: Image.Image, box: Box) -> dict[str, float]:
    """Return the share of each colour among the pixels of the object in a box, largest first; empty where none is told.

    Args:
        routes: the loaded routes by name. Without one for masks that takes boxes, the middle of the box counts.
        box: pixels of the upright image.
    """
    inside = np.round(box_clip(np.array(box.xyxy), image.size)).astype(int)
    x0, y0, x1, y1 = inside.tolist()
    if x0 >= x1 or y0 >= y1:
        return {}
    masks = routes.get(_MASKS)
    if masks is not None and isinstance(masks.decoder, PromptedDecoder):
        (found,) = predictor.segment_prompts(image, [inside.tolist()], None, None)
        mask_HW = found.mask.to_array()
    else:
        mask_HW = _middle(inside, image.size)
    return colour_shares(np.asarray(image)[y0:y1, x0:x1][mask_HW[y0:y1, x0:x1]])


def _middle(box: NDArray[np.int_], size: tuple[int, int]) -> NDArray[np.bool_]:
    x0, y0, x1, y1 = box.tolist()
    mask_HW = np.zeros(size[::-1], dtype=bool)
    margin_x, margin_y = (x1 - x0) // 5, (y1 - y0) // 5
    mask_HW[y0 + margin_y : y1 - margin_y, x0 + margin_x : x1 - margin_x] = True
    return mask_HW
