"""What is to be answered: rounds of questions and answers with their images, put together in one place.

`Conversation.build` makes placeholders, images, tiles and rounds agree, for one question and for the next round of a
chat; `build_batch` does so for a list of questions.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from PIL import Image

from vision_agent.errors import InputError, bad_argument
from vision_agent.images.loading import ImageLimits, load_image
from vision_agent.images.video import frame_prompt
from vision_agent.model.prompt import PLACEHOLDER, Turn, with_placeholders
from vision_agent.model.tile_bounds import TileBound, check_tiles
from vision_agent.plugins.constraint import Constraint
from vision_agent.validation import check_request

_PLACEHOLDERS = re.compile(rf"(?:Image-\d+: )?{PLACEHOLDER}\n?")


@dataclass(frozen=True)
class Conversation:
    """What is to be answered. Made by `build`; the constructor takes what agrees already.

    Attributes:
        turns: rounds of (question, answer), the last answer None; questions hold a placeholder for each image.
        images: upright RGB, in the order of the placeholders.
        max_tiles: most tiles of each image, None for the checkpoint's bound.
        combine: all images of a question share one placeholder.
        places: how many of a round's `<image>`, counted from its beginning, stand for images; None for all of them.
            What follows is text that somebody typed.
        constraint: the grammar of the answer.
        earlier_images: how many of the images came in rounds before the last.
    """

    turns: tuple[Turn, ...] = ()
    images: tuple[Image.Image, ...] = ()
    max_tiles: tuple[TileBound, ...] = ()
    combine: bool = False
    places: tuple[int | None, ...] = ()
    constraint: Constraint | None = None
    earlier_images: int = 0

    @property
    def request(self) -> str:
        """What was asked last, without the places of its images."""
        return _PLACEHOLDERS.sub("", self.turns[-1][0]).strip()

    @classmethod
    def build(
        cls,
        question: str,
        images: Sequence[Image.Image] = (),
        *,
        after: "Conversation | None" = None,
        max_tiles: object = None,
        combine: bool = False,
        frames: bool = False,
        placed: bool = True,
        constraint: Constraint | None = None,
    ) -> "Conversation":
        """Put a question and its images together, after the rounds before it.

        Args:
            question: may place its images with `<image>`; otherwise they stand before it, numbered where the
                conversation has several. Without images, a typed `<image>` is plain text.
            images: upright RGB, those of this question alone.
            after: the conversation so far, each of its rounds answered; None for the first round.
            max_tiles: most tiles of an image of this question; one number, or one for each; or "multi-scale".
            combine: all images of the question share one placeholder.
            frames: the images are frames of a video: named `Frame1: <image>` and so on, one tile each.
            placed: an `<image>` in the question stands for an image; otherwise it is text, and the images stand before.
            constraint: the grammar of the answer.

        Raises:
            InputError: `max_tiles` out of range or of another length, or several placeholders for combined images.
        """
        before = after or cls()
        if frames:
            max_tiles = 1
            if not placed or PLACEHOLDER not in question:
                question = frame_prompt(len(images)) + question
        first = len(before.images) + 1
        # Rounds that the caller added to a history have no images.
        earlier = (*before.places, *[0] * len(before.turns))[: len(before.turns)]
        own = None if images and placed else min(len(images), 1) if combine else len(images)
        typed = "" if placed or frames else question
        shown = with_placeholders(question if not typed else "", len(images), combine=combine, first=first) + typed
        return cls(
            turns=(*before.turns, (shown, None)),
            images=(*before.images, *images),
            max_tiles=(*before.max_tiles, *check_tiles(max_tiles, len(images))),
            combine=combine,
            places=(*earlier, own),
            constraint=constraint,
            earlier_images=len(before.images),
        )


def build_batch(
    name: str,
    questions: Sequence[str],
    image: Any,
    limits: ImageLimits,
    *,
    max_tiles: object = None,
    combine: bool = False,
    constraint: Constraint | None = None,
) -> list[Conversation]:
    """Check a list of questions and build one conversation for each.

    Args:
        name: of the argument that holds the questions, for errors.
        image: what `load_images` takes, for all questions; or a list with what belongs to each.
        limits: what images are accepted.
        max_tiles, combine, constraint: as for `Conversation.build`.

    Raises:
        InputError: no question, a list of images of another length, and what `Conversation.build` refuses.
        ArgumentTypeError: questions that are no strings.
    """
    if not questions:
        raise InputError(bad_argument(name, f"at least one {name}", questions))
    if isinstance(image, Iterator) and not hasattr(image, "read"):  # it may have no end: one more than fits tells
        image = list(islice(image, len(questions) + 1))
    for index, question in enumerate(questions):
        check_request(f"{name}[{index}]", question, image)
    if isinstance(image, list | tuple):
        if len(image) != len(questions):
            expected = f"{len(questions)} images (or lists of images), one for each {name}"
            raise InputError(bad_argument("image", expected, f"{len(image)} of them"))
        images = [load_images(item, limits) for item in image]
    else:
        images = [load_images(image, limits)] * len(questions)
    return [
        Conversation.build(question, own, max_tiles=max_tiles, combine=combine, constraint=constraint)
        for question, own in zip(questions, images, strict=True)
    ]


def load_images(image: Any, limits: ImageLimits, name: str = "image") -> list[Image.Image]:
    """Load no image (None), one, or a list of them, upright; `name` is the argument's name."""
    if isinstance(image, list | tuple):
        return [load_image(item, limits=limits, name=f"{name}[{index}]") for index, item in enumerate(image)]
    return [] if image is None else [load_image(image, limits=limits, name=name)]
