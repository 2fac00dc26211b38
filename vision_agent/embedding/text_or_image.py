"""What a string is that is given for an image or a text."""

import re
from pathlib import Path
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["auto", "image", "text"]

_IMAGE = re.compile(
    r"data:|[a-z][a-z0-9+.-]*://|.*\.(?:jpe?g|jpe|png|webp|bmp|gif|tiff?|avif|hei[cf]|jp2|p[gbnp]m)$", re.IGNORECASE
)


def is_text(item: str, kind: Kind) -> bool:
    """Return whether a string is a text, and no image; see `VisionAgent.embed`."""
    if kind != "auto":
        return kind == "text"
    try:
        return not (_IMAGE.match(item) or (len(item) < 1000 and Path(item).is_file()))
    except (OSError, ValueError):
        return True
