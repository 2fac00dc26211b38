"""Results as JSON, with their masks in the form that a request asks for."""

import base64
import io
from typing import Any, Literal

from PIL import Image
from pydantic import BaseModel

from vision_agent.results.segmentation import Mask

MaskForm = Literal["rle", "polygon", "png"]
"""COCO's run lengths; rings of x, y in pixels; a black and white image."""
_MASK_FIELDS = {"size", "counts"}


def dumped(result: BaseModel, masks: MaskForm = "rle") -> Any:
    """Return a result as Python values for JSON."""
    value = result.model_dump(mode="json")
    return value if masks == "rle" else _with_masks(value, masks)


def _with_masks(value: Any, masks: MaskForm) -> Any:
    if isinstance(value, dict):
        if value.keys() == _MASK_FIELDS:
            return _mask(Mask.model_validate(value), masks)
        return {key: _with_masks(part, masks) for key, part in value.items()}
    return [_with_masks(part, masks) for part in value] if isinstance(value, list) else value


def _mask(mask: Mask, form: MaskForm) -> dict[str, Any]:
    size = list(mask.size)
    if form == "polygon":
        return {"size": size, "polygons": [[ring.tolist() for ring in part] for part in mask.polygons()]}
    file = io.BytesIO()
    Image.fromarray(mask.to_array()).save(file, "PNG")
    return {"size": size, "png": base64.b64encode(file.getvalue()).decode()}
