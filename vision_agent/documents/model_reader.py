"""Reading by the vision-language model itself: a big checkpoint reads handwriting and odd layouts that OCR does not.

It writes text without places, so each word's quad is the whole page, and its score is the answer's confidence.
"""

from typing import Protocol

from PIL import Image

from vision_agent.documents.result import Block, Line, Page, Word, quad_of
from vision_agent.documents.source import PageImage
from vision_agent.generation.options import GenerationOptions
from vision_agent.results.answers import Answer
from vision_agent.results.box import Box

REQUEST = (
    "Read all text in the image, line by line, exactly as it is written, from top to bottom. "
    "Leave an empty line between paragraphs. Answer with the text alone."
)
_MOST_TOKENS = 2048  # a dense page


class Ask(Protocol):
    """`VisionAgent.ask`, for one image."""

    def __call__(self, question: str, image: Image.Image, *, options: GenerationOptions) -> Answer: ...


class ModelReader:
    """Reads a page by asking the model for its text."""

    name = "model"

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def page(self, image: PageImage) -> Page:
        """Return the page's text in the model's words, a block for each paragraph."""
        width, height = image.image.size
        answer = self._ask(REQUEST, image.image, options=GenerationOptions(max_new_tokens=_MOST_TOKENS))
        whole = quad_of((0, 0, width, height))
        blocks = []
        for paragraph in answer.text.replace("\r", "").split("\n\n"):
            lines = tuple(
                Line(
                    words=tuple(Word(text=word, quad=whole, score=answer.confidence) for word in line.split()),
                    quad=whole,
                    score=answer.confidence,
                )
                for line in paragraph.splitlines()
                if line.strip()
            )
            if lines:
                blocks.append(Block(kind="text", box=Box(x0=0, y0=0, x1=width, y1=height), lines=lines))
        return Page(
            number=image.number,
            width=width,
            height=height,
            blocks=tuple(blocks),
            scale=image.scale,
            file=image.file,
        )
