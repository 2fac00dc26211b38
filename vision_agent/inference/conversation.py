"""TODO docstring."""

from dataclasses import dataclass

from PIL import Image

from vision_agent.model.prompt import Turn
from vision_agent.plugins.constraint import Constraint


@dataclass(frozen=True)
class Conversation:
    """What is to be answered.

    Attributes:
        turns: rounds of (question, answer), the last answer None; questions hold a placeholder for each image.
        images: upright RGB, in the order of the placeholders.
        max_tiles: most tiles of each image, None for the checkpoint's bound.
        combine: all images of a question share one placeholder.
        plain: how many of the first rounds came before any image; an `<image>` in them is plain text.
        constraint: the grammar of the answer.
        earlier_images: how many of the images came in rounds before the last.
    """

    turns: tuple[Turn, ...]
    images: tuple[Image.Image, ...] = ()
    max_tiles: tuple[int | None, ...] = ()
    combine: bool = False
    plain: int = 0
    constraint: Constraint | None = None
    earlier_images: int = 0
