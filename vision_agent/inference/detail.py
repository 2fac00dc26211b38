"""How closely an image is looked at: a second look at the whole of it, on a larger canvas.

The towers of published checkpoints see one size of tile, and cut an image into several. The default's tower is a
convolutional network, which sees any size: the same weights, on a larger canvas, show smaller objects to decoders that
join what they find in both (`Decoder.looks_closer`).
"""

from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from PIL import Image

from vision_agent.errors import InputError, bad_argument

if TYPE_CHECKING:  # the command line reads the words above without torch
    from vision_agent.model.backbone import Backbone
    from vision_agent.plugins.decoder import Decoder

Detail: TypeAlias = Literal["low", "auto", "high"]
"""How closely: one look ("low"), a second look at everything ("high"), or at what may hold more than one look shows
("auto")."""

_LEAST_SIDE = 320  # pixels of the longer side from which a second look is worth its time


def check_detail(detail: object) -> Detail | None:
    """Return the `detail` of a verb. Raises InputError for what is neither None nor one of its words."""
    if detail is None:
        return None
    if not isinstance(detail, str) or detail not in get_args(Detail):
        raise InputError(bad_argument("detail", 'None, "low", "auto" or "high"', detail))
    return detail  # type: ignore[return-value]  # one of its words, as was checked


def looks_closer(detail: Detail | None, image: Image.Image, backbone: "Backbone", decoder: "Decoder") -> bool:
    """Whether there is a second look at an image; `detail` None for the decoder's own."""
    detail = detail or decoder.usual_detail
    if detail == "low" or not decoder.looks_closer or backbone.closer_side is None:
        return False
    return detail == "high" or max(image.size) >= _LEAST_SIDE


def prepare_closer(first: Any, image: Image.Image, backbone: "Backbone", decoder: "Decoder") -> Any:
    """Return what a decoder makes of both looks at an image; `first` is what it made of the first one."""
    features = backbone.closer_features(image).float()
    return decoder.join(first, decoder.prepare_image(features, image))
