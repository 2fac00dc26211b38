"""Questions about writing, for a model that cannot read: the `[OCR]` route reads, and the answer is made of its words.

"What does the sign say?" is answered from the words on the sign, where the model finds one, and otherwise from all
words in the image. Nothing is made up: what is not read is not said.
"""

import re
from collections.abc import Mapping
from difflib import get_close_matches

from PIL import Image

from vision_agent.documents.result import OcrResult, box_around
from vision_agent.errors import AnswerError
from vision_agent.extract.question_answering import DocumentAnswer
from vision_agent.inference.choice_matching import meant_by
from vision_agent.inference.conversation import Conversation
from vision_agent.inference.predictor import Predictor
from vision_agent.results.box import Box
from vision_agent.results.detections import Detections
from vision_agent.routing.adapter import Route
from vision_agent.routing.known_words import split_words

_ROUTE = "ocr"
_TEXT = (
    r"(?:text|writing|words?|letters|lettering|wording|inscription|slogan|motto|message|headline|"
    r"licen[cs]e plates?|number plates?|plate numbers?|(?:phone|telephone|house|serial|room|flight|jersey) numbers?|"
    r"opening hours|price tags?|street name|web ?site|url|e-?mail address)"
)
_NAMED = (
    r"(?:(?:brand )?name|title|label|logo|price|address|numbers?) (?:on|of|at) (?:the|this|that) "
    r"(?:shop|store|restaurant|cafe|hotel|street|station|company|ship|boat|book|product|bus|train|house|room|player|"
    r"jersey|shirt|plate|car|taxi|truck|door|gate|platform|sign|label|bottle|box|card|poster|cover|front|back)"
)
_CARRIER = (
    r"(?:it|this|that|\w*signs?|label|plate|banner|board|shirt|poster|text|paper|screen|headline|card|page|cover)"
)
_VISIBLE = r"(?:writing|text|words?|letters|lettering|inscriptions?|(?:any|some)thing (?:written|printed|to read))"
_ASKS = re.compile(
    r"\bwhat\b.*(?<!you )(?<!i )(?<!we )\b(?:says?|read)\b(?! (?:you|i|we)\b)"
    r"|\bwhat(?: is|'s|s| are| was)\b.*\b(?:written|printed|spelled|engraved)\b"
    r"|\bwhat(?:'s|s| is) on the (?:label|sign|poster|banner|licen[cs]e plate|number plate|price tag|jersey)\b"
    r"|\b(?:which|what)\b(?! (?:object|animal|thing)).*\b(?:printed|written)\b"
    rf"|\b(?:what|whats|which|read|spell|quote|decipher|recite|copy|extract|type|list|give|tell|show|get|return|need)\b"
    rf".*\b(?:{_TEXT}|{_NAMED})\b"
    rf"|\b(?:which|what) numbers?\b.*\b(?:on|in|is|are|do|does|shown|visible)\b(?! there\b)"
    r"|\bread\b.*\b(?:the|this|that|it|all|out|me|what|any)\b"
    r"|\bquote the\b|\b(?:transcribe|ocr|spell out)\b"
    r"|\bhow much (?:is|are|does|do)\b.*\b(?:cost|this|it|that)\b"
    r"|\bwhat(?:'s|s| is| does) (?:the|this|it) (?:price|cost)\b"
    rf"|^\W*(?:the |any )?(?:{_TEXT}|{_NAMED})(?:,? please)?\W*$",
    re.IGNORECASE,
)
_ASKS_WHETHER = re.compile(
    rf"\b(?:is|are) there (?:(?:any|some|a|an) )?{_VISIBLE}\b|\bis (?:any|some)thing (?:written|printed)\b"
    rf"|^\W*(?:(?:do|can) you see |does \w+ (?:\w+ )?(?:have|contain|show) )?(?:any |some ){_VISIBLE}\b",
    re.IGNORECASE,
)
_ASKS_FOR = re.compile(
    rf"^\W*(?:does|do|did)\b.*\b(?:says?|{_CARRIER} reads?)\s+(?P<said>(?!what\b).+)$"
    r"|^\W*is (?:the )?(?:words?|text|name|number)\s+(?P<word>.+?)\s+(?:written|printed|visible|there|shown|in|on)\b"
    r"|^\W*(?:is|does)\b.*[\"\u201c](?P<quoted>[^\"\u201d]+)[\"\u201d]",
    re.IGNORECASE,
)
_IN_WORDS = re.compile(
    r"\bin (?:\w+ ){0,3}words?\b|\b(?:a few|some) words (?:about|on)\b", re.IGNORECASE
)  # ask for no reading
_NUMBER = re.compile(r"\b(?:numbers?|digits?|plates?|phone|price|cost|how much|year|date|time)\b", re.IGNORECASE)
_NO_READING = re.compile(r"\bhow many\b|\b(?:what|which) (?:is the )?(?:colou?r|font|size|language)\b", re.IGNORECASE)
# Words of a kind that nothing but their place could tell.
_OF_A_KIND = re.compile(
    r"\b(?:plates?|phone|telephone|price|cost|hours|name|title|slogan|motto|street|url|web ?site|e-?mail|headline)\b",
    re.IGNORECASE,
)
_THINGS = re.compile(
    r"\b(?:on|of|at|read|does|do|in)\s+(?:the|this|that|a|an|its|his|her)\s+([a-z][a-z -]*?)"
    r"(?=\s+(?:says?|reads?|in|on|at|of|have|has|show|tell|written|please|for|to)\b|[?.!,]|$)",
    re.IGNORECASE,
)
_NO_THING = frozenset("picture image photo photograph text writing words word letters scene number numbers it".split())
_ALIKE = 0.75  # of two words, by difflib: four letters of which one is misread
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
        return _ROUTE in self._routes and len(conversation.images) == 1 and asks_to_read(question)

    def answer(
        self, conversation: Conversation, question: str, choices: Mapping[str, object] | None = None
    ) -> DocumentAnswer:
        """Return the words, marked as untrusted; `found` is False where nothing is written.

        Asked whether something is written, the text is yes or no, and the words are in `excerpt`.

        Args:
            choices: the text is the one that is written, or that means yes or no; each with its value.

        Raises:
            AnswerError: none of the choices is written.
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
        asked_of_something = bool(_named(question)) or _OF_A_KIND.search(question) is not None
        words = " ".join(line.text for line in chosen)
        text = words or "nothing that can be read"
        asked = _ASKS_FOR.search(question)
        whether = asked is not None or _ASKS_WHETHER.search(question) is not None
        if whether:
            wanted = next(filter(None, asked.groups()), "") if asked else ""
            text = "yes" if words and _is_written(wanted, words) else "no"
            sure = sure if words else _NOT_ON_IT
        if choices:
            meant = meant_by(text, choices, "is it?") if whether else _written(choices, words)
            if meant is None:
                raise AnswerError(f"what is written, {words[:80]!r}, is none of the choices {list(choices)}", words)
            text = meant
        return DocumentAnswer(
            text=text,
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
            extractive=not whether,
        )

    def _carrier(self, question: str, image: Image.Image) -> Detections | None:
        """What the writing is asked to be on; None where the question names nothing, or it is not found."""
        for name in _named(question):
            found = self._predictor.detect((name,), image, None)
            if found:
                return found
        return None


def asks_to_read(question: str) -> bool:
    """Return whether a question is about writing: what is written, or whether something is."""
    question = _IN_WORDS.sub("", question)
    if _NO_READING.search(question):
        return False
    return any(pattern.search(question) for pattern in (_ASKS, _ASKS_WHETHER, _ASKS_FOR))


def _named(question: str) -> list[str]:
    names = [match[1].strip().lower() for match in _THINGS.finditer(question)]
    return [name for name in names if name and not set(name.split()) & _NO_THING]


def _is_written(wanted: str, words: str) -> bool:
    """Whether all words that are asked for are among those that were read, but for a letter misread."""
    read = split_words(words)
    return all(get_close_matches(word, read, 1, _ALIKE) for word in split_words(wanted))


def _written(choices: Mapping[str, object], words: str) -> str | None:
    """The longest choice all of whose words were read; None where there is none."""
    written = [text for text in choices if split_words(text) and _is_written(text, words)]
    return max(written, key=len, default=None)


def _holds(box: Box, line: Box) -> bool:
    """Whether the middle of a line lies in a box, or just beside it."""
    (x, y) = line.center
    wide, high = _MARGIN * (box.x1 - box.x0), _MARGIN * (box.y1 - box.y0)
    return box.x0 - wide <= x <= box.x1 + wide and box.y0 - high <= y <= box.y1 + high
