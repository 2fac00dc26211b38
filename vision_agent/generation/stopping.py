"""What ends an answer besides the model and its limit: texts to stop at, and a phrase that goes round in circles."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from vision_agent.generation.options import GenerationOptions
from vision_agent.model.backbone import Backbone
from vision_agent.model.tokenizing import tokenized

_LONGEST_PHRASE = 48  # tokens of what may be repeated
_LEAST_TOKENS = 24  # of a phrase and its repetitions together: "no, no, no, no" is an answer


class StopWatcher:
    """Watches answers for the texts at which they end.

    Args:
        stop: the texts.
    """

    def __init__(self, backbone: Backbone, stop: Sequence[str]) -> None:
        self._backbone = backbone
        self._stop = tuple(stop)
        longest = max((len(text.encode()) for text in self._stop), default=0)
        # A token holds at least one byte, so this many tokens hold any stop text that the last one completes.
        self._window = longest + 8

    def stops(self, answer: Sequence[int]) -> bool:
        """Return whether the answer's last token completed a stop text."""
        if not self._stop:
            return False
        text = self._backbone.decode_text(answer[-self._window :])
        return any(stop in text for stop in self._stop)


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """Return the text before the first of the stop texts."""
    places = [place for place in (text.find(item) for item in stop) if place >= 0]
    return text[: min(places)] if places else text


def cut_at_limits(text: str, options: GenerationOptions, tokenizer: PreTrainedTokenizerBase) -> tuple[str, int, bool]:
    """Return a text that no model generated as if one had: cut, its number of tokens, whether the token limit cut it.

    Args:
        tokenizer: a fast one, which knows the characters of each token.
    """
    text = cut_at_stop(text, options.stop).strip()
    read = tokenized(tokenizer, text, add_special_tokens=False, return_offsets_mapping=True)
    ends = [end for _, end in read["offset_mapping"]]
    if len(ends) <= options.max_new_tokens:
        return text, len(ends), False
    return text[: ends[options.max_new_tokens - 1]], options.max_new_tokens, True


class RepetitionWatcher:
    """Watches answers for a phrase that is written again and again.

    Args:
        most: how many times in a row a phrase may stand; None for any number of times. Short ones may stand more
            often, up to `_LEAST_TOKENS` tokens together.
    """

    def __init__(self, most: int | None) -> None:
        self._most = most

    def stops(self, answer: Sequence[int]) -> bool:
        """Return whether the answer ends in a phrase that stands there too often."""
        if self._most is None:
            return False
        size = len(answer)
        for period in range(1, min(_LONGEST_PHRASE, size // (self._most + 1)) + 1):
            span = max(period * (self._most + 1), _LEAST_TOKENS)
            # A text is periodic where it equals itself, moved by the period.
            if span <= size and answer[size - span : size - period] == answer[size - span + period :]:
                return True
        return False
