"""How probable each token of an answer was, and what else was likely in its place."""

from collections.abc import Mapping

from vision_agent.generation.answer_row import Alternatives
from vision_agent.generation.decoding import GenerationOutput
from vision_agent.generation.options import GenerationOptions
from vision_agent.generation.vocabulary import Vocabulary, vocabulary_of
from vision_agent.model.backbone import Backbone
from vision_agent.results.answers import TokenLogprob, TokenScore


class TokenScorer:
    """Tells the tokens of one answer, all of them or those that are new while it grows.

    Marks, such as routing tokens and the end of an answer, are no text and are left out; so is what a stop text cut.
    """

    def __init__(self, backbone: Backbone, options: GenerationOptions, row: int = 0) -> None:
        """`row`: the answer's place in its batch."""
        self._backbone = backbone
        self._options = options
        self._row = row
        self._read = 0  # tokens
        self._written = b""  # by these

    def new(self, output: GenerationOutput) -> tuple[TokenScore, ...] | None:
        """Return the tokens since the last call, with their probabilities; None where they were not asked for."""
        if self._options.top_logprobs is None:
            return None
        vocabulary = vocabulary_of(self._backbone.tokenizer)
        ids = output.answers[self._row][self._read :]
        names = {number: mark for mark, number in vocabulary.marks.items()}
        before = len(self._written)
        self._written += vocabulary.write(ids)
        room = _kept(self._written, self._options.stop) - before
        scores = []
        for index, token in enumerate(ids, start=self._read):
            piece = vocabulary.pieces[token] if token < len(vocabulary.pieces) else b""
            if not piece or room <= 0:
                continue
            room -= len(piece)
            likely = _named(vocabulary, names, output.tops[self._row][index])
            logprob = output.logprobs[self._row][index]
            scores.append(TokenScore(text=_text(piece), bytes=tuple(piece), logprob=min(0.0, logprob), top=likely))
        self._read += len(ids)
        return tuple(scores)


def _kept(data: bytes, stop: tuple[str, ...]) -> int:
    """How many of an answer's bytes come before the first stop text."""
    places = (data.find(each.encode()) for each in stop)
    return min((place for place in places if place >= 0), default=len(data))


def _named(vocabulary: Vocabulary, names: Mapping[int, str], likely: Alternatives) -> tuple[TokenLogprob, ...]:
    """What alternatives write; `names` are the texts of marks, which may be likely too."""
    told = []
    for token, logprob in likely:
        if logprob == float("-inf"):  # forbidden
            continue
        piece = vocabulary.pieces[token] if token < len(vocabulary.pieces) else b""
        data = piece or names.get(token, "").encode()
        told.append(TokenLogprob(text=_text(data), bytes=tuple(data), logprob=min(0.0, logprob)))
    return tuple(told)


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")
