"""Reads the small files of a SAM checkpoint, with errors that name them."""

import json
from pathlib import Path
from typing import Any

from vision_agent.errors import CheckpointError, first_line

Channels = tuple[float, float, float]
IMAGENET: tuple[Channels, Channels] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def normalisation(folder: Path, default: tuple[Channels, Channels]) -> tuple[Channels, Channels]:
    """Return mean and deviation of the pixels: those of the folder's processor, else the published model's."""
    mean, std = default
    for file in ("processor_config.json", "preprocessor_config.json"):
        if (folder / file).is_file():
            content = read_json(folder / file)
            content = content.get("image_processor") or content
            return tuple(content.get("image_mean") or mean), tuple(content.get("image_std") or std)
    return mean, std


def read_json(file: Path) -> dict[str, Any]:
    """Parse the file. Raises CheckpointError where it is missing or damaged."""
    folder = str(file.parent)
    if not file.is_file():
        raise CheckpointError(f"the folder {folder!r} has no {file.name}, so it is no SAM checkpoint")
    try:
        return dict(json.loads(file.read_text("utf-8")))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{file.name} of {folder!r} is damaged: {first_line(error)}") from error
