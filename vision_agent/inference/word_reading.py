"""Questions about writing, for a model that cannot read: the `[OCR]` route reads, and the answer is made of its words.

"What does the sign say?" is answered from the words on the sign, where the model finds one, and otherwise from all
words in the image. Nothing is made up: what is not read is not said.
"""

import re
from collections.abc import Mapping

from PIL import Image

from vision_agent.documents.result import OcrResult, box_around
from vision_agent.extract.question_answering import DocumentAnswer
from vision_agent.inference.conversation import Conversation
from vision_agent.inference.predictor import Predictor
from vision_agent.results.box import Box
from vision_agent.results.detections import Detections
from vision_agent.routing.adapter import Route

_ROUTE = "ocr"
_WRITING = r"(?:text|writing|words?|letters|inscription|numbers?|licen[cs]e plate|number plate)"
_ASKS = re.compile(
    r"\bwhat\b.*\b(?:says?|read)\b(?! (?:you|i|we)\b)"
    r"|\bwhat(?: is|'s| are| was)\b.*\b(?:written|printed|spelled|engraved)\b"
    rf"|\bwhat(?: is|'s| are) (?:the )?{_WRITING}\b.*\b(?:on|in|of|at|say|read)\b"
    rf"|\b(?:which|what) {_WRITING}\b.*\b(?:on|in|is|are|do|does)\b"
    r"|\bread\b.*\b(?:the|this|that|it|all|out|me|what|any)\b"
    r"|\b(?:transcribe|ocr|spell out)\b",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\b(?:numbers?|digits?|plates?|phone|price|year|date|time)\b", re.IGNORECASE)
_NO_NUMBER = re.compile(r"\bhow many\b", re.IGNORECASE)
_THINGS = re.compile(
    r"\b(?:on|of|at|read|does|do|in)\s+(?:the|this|that|a|an|its|his|her)\s+([a-z][a-z -]*?)"
    r"(?=\s+(?:says?|reads?|in|on|at|of|have|has|show|tell|written|please|for|to)\b|[?.!,]|$)",
    re.IGNORECASE,
)
_NO_THING = frozenset("picture image photo photograph text writing words word letters scene number numbers it".split())
_MARGIN = 0.1  # of a box's sides: writing may reach over the edge of what was found
_NOT_ON_IT = 0.5  # how sure the words are the right ones, where what they should stand on was not found


class WordReader:
    """Answers questions about writing from the words that the `[OCR]` route reads.

    Args:
        routes: the loaded routes by name; routes that are loaded later count too.
        predictor: runs the route, and finds what the writing is on.
    """

    def __init__(self, routes: Mapping[str, Route], predictor: Predictor, model: str) -> None:
        self._routes = routes
        self._predictor = predictor
        self._model = model

    def applies_to(self, conversation: Conversation, question: str) -> bool:
        """Return whether this is a question about the writing in one image, which the route can read."""
        if _ROUTE not in self._routes or len(conversation.images) != 1 or _NO_NUMBER.search(question):
            return False
        return _ASKS.search(question) is not None

    def answer(self, conversation: Conversation, question: str) -> DocumentAnswer:
        """Return the words, marked as untrusted; `found` is False where nothing is written.

        Raises:
            MissingExtraError: the reader's package is not installed.
        """
        (image,) = conversation.images
        read: OcrResult = self._predictor.run_route(self._routes[_ROUTE], ("text",), image, None)
        seen = self._carrier(question, image)
        lines = read.lines
        on_it = [line for line in lines if seen and any(_holds(each.box, line.box) for each in seen)]
        chosen = on_it or lines
        if _NUMBER.search(question):
            chosen = [line for line in chosen if re.search(r"\d", line.text)]
        sure = sum(line.score for line in chosen) / len(chosen) if chosen else 0.0
        asked_of_something = bool(_named(question))
        return DocumentAnswer(
            text=" ".join(line.text for line in chosen) or "nothing that can be read",
            finish_reason="stop",
            prompt_tokens=0,
            completion_tokens=0,
            confidence=min(1.0, sure * (_NOT_ON_IT if asked_of_something and not on_it else 1.0)),
            model=self._model,
            evidence=() if seen is None else (seen,),
            found=bool(chosen),
            page=1 if chosen else None,
            box=box_around([line.quad for line in chosen]) if chosen else None,
            quads=tuple(word.quad for line in chosen for word in line.words),
            excerpt=" ".join(line.text for line in chosen),
            pages=(1,),
            extractive=True,
        )

    def _carrier(self, question: str, image: Image.Image) -> Detections | None:
        """What the writing is asked to be on; None where the question names nothing, or it is not found."""
        for name in _named(question):
            found = self._predictor.detect((name,), image, None)
            if found:
                return found
        return None


def _named(question: str) -> list[str]:
    names = [match[1].strip().lower() for match in _THINGS.finditer(question)]
    return [name for name in names if name and not set(name.split()) & _NO_THING]


def _holds(box: Box, line: Box) -> bool:
    """Whether the middle of a line lies in a box, or just beside it."""
    (x, y) = line.center
    wide, high = _MARGIN * (box.x1 - box.x0), _MARGIN * (box.y1 - box.y0)
    return box.x0 - wide <= x <= box.x1 + wide and box.y0 - high <= y <= box.y1 + high
