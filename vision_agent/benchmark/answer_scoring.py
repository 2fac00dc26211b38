"""When an answer is right: the rules of the published benchmarks, each as its reference implementation has it.

- VQA accuracy: https://github.com/GT-Vision-Lab/VQA, in the form of TextVQA's own evaluator (mmf), which InternVL uses.
- ANLS: DocVQA's and InfographicVQA's evaluation, https://rrc.cvc.uab.es/?ch=17, as InternVL and lmms-eval have it.
- Relaxed accuracy: ChartQA, https://arxiv.org/abs/2203.10244, section 5.1, as in pix2struct.
- OCRBench: https://github.com/Yuliang-Liu/MultimodalOCR. POPE: https://github.com/RUCAIBox/POPE.
- MMBench: exact matching as in VLMEvalKit, without a judge. GQA: https://cs.stanford.edu/people/dorarad/gqa.
- Counts: CountBenchQA as in lmms-eval.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files

from rapidfuzz.distance import Levenshtein

_NUMBERS = "zero one two three four five six seven eight nine ten".split()
_TEENS = "eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty".split()
_ARTICLES = {"a", "an", "the"}
_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD = re.compile(r"(?!<=\d)(\.)(?!\d)")
_COMMA_IN_NUMBER = re.compile(r"(?<=\d)(\,)+(?=\d)")
# The evaluator hands the flag re.UNICODE over where the number of replacements is expected.
_MOST_PERIODS = int(re.UNICODE)
_LEAST_SIMILARITY = 0.5
_TOLERANCE = 0.05
_FORMULAS = "Handwritten Mathematical Expression Recognition"
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_SAID = re.compile(r"(?i)(?:correct\s+)?answer\s+is\s+\**([ABCD])\**")


def vqa_words(answer: str) -> str:
    """Return an answer as VQA's evaluation compares it: lower case, digits, no articles, no punctuation."""
    text = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    told, comma = text, _COMMA_IN_NUMBER.search(text) is not None
    for mark in _MARKS:
        beside = mark + " " in told or " " + mark in told
        text = text.replace(mark, "" if beside or comma else " ")
    text = _PERIOD.sub("", text, count=_MOST_PERIODS)
    digits = {word: str(number) for number, word in enumerate(_NUMBERS)} | {"none": "0"}
    words = [digits.get(word, word) for word in text.lower().split()]
    return " ".join(_contractions().get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(answer: str, people: Sequence[str]) -> float:
    """Return how well an answer agrees with those of ten people, 0-1: three who say the same make it right.

    It is the mean over leaving out each of them.
    """
    said, others = vqa_words(answer), [vqa_words(each) for each in people]
    same = others.count(said)
    return sum(min(1.0, (same - (each == said)) / 3) for each in others) / len(others) if same else 0.0


def anls(answer: str, truths: Sequence[str]) -> float:
    """Return the normalised Levenshtein similarity with the nearest of the right answers; 0 below one half."""
    farness = min(_farness(truth, answer) for truth in truths)
    return 0.0 if 1 - farness < _LEAST_SIMILARITY else 1 - farness


def relaxed_match(answer: str, truth: str) -> bool:
    """Whether a number lies within 5 % of the right one ("12%" is 0.12), or words are the same but for case."""
    said, right = _number(answer), _number(truth)
    if said is not None and right:
        return abs(said - right) / abs(right) <= _TOLERANCE
    return answer.lower() == truth.lower()


def ocrbench_match(answer: str, truths: Sequence[str], kind: str) -> bool:
    """Whether one of the right texts stands in an answer; of formulas without blanks, of all else without case."""

    def plain(text: str) -> str:
        text = (text if kind == _FORMULAS else text.lower()).strip().replace("\n", " ")
        return text.replace(" ", "") if kind == _FORMULAS else text

    return any(plain(truth) in plain(answer) for truth in truths)


def pope_yes(answer: str) -> bool:
    """Whether an answer is taken for a yes: its first sentence has no "No", "no" or "not"."""
    words = answer.split(".")[0].replace(",", "").split(" ")
    return not {"No", "not", "no"}.intersection(words)


def gqa_answer(answer: str) -> str:
    """Return an answer as InternVL hands it to GQA's evaluation, which compares letter by letter."""
    return answer.rstrip(".").lower()


def count_answer(answer: object) -> str:
    """Return an answer to "how many" as it is compared: a number word up to twenty as its digits."""
    text = str(answer).strip().lower()
    numbers = {word: str(number) for number, word in enumerate([*_NUMBERS, *_TEENS])} | {"none": "0"}
    return numbers.get(text, text)


def chosen_option(answer: str, options: Mapping[str, str]) -> str | None:
    """Return the letter of the option that an answer names, by its letter or its text.

    None where it names none or several, "Z" for a refusal.
    """
    if "Failed to obtain answer via API" in answer:
        return _option_by_text(answer, options)
    if any(each in answer for each in _REFUSALS):
        return "Z"
    words = re.sub(r"[.()\[\],:;!*#{}]", " ", answer).split()
    named = [letter for letter in options if letter in words]
    if len(named) == 1 and words.index(named[0]) > len(words) - 5:
        return named[0]
    # A blank text is no word, so that only the letter Z itself counts.
    if not named and "Z" in words:
        return "Z"
    said = _SAID.search(answer)
    if said is not None and said[1].upper() in options:
        return said[1].upper()
    return _option_by_text(answer, options)


def _option_by_text(answer: str, options: Mapping[str, str]) -> str | None:
    if len(answer) > 2 * sum(len(text) for text in options.values()):
        return None
    named = [letter for letter, text in options.items() if text.lower() in answer.lower()]
    return named[0] if len(named) == 1 else None


def _farness(truth: str, answer: str) -> float:
    """Edits between two texts, blanks made single, over the length of the longer as it was."""
    longest = max(len(truth.upper()), len(answer.upper()))
    plain = (" ".join(text.strip().lower().split()) for text in (truth, answer))
    return edits(*plain) / longest if longest else 0.0


def edits(a: str, b: str) -> int:
    """Return the Levenshtein distance of two texts."""
    return Levenshtein.distance(a, b)


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


@cache
def _contractions() -> dict[str, str]:
    """Short forms that lack one apostrophe, and what VQA's evaluation makes of them."""
    held = json.loads(files(__package__).joinpath("contractions.json").read_text("utf-8"))
    known: dict[str, str] = dict(held["odd"])
    for right in held["regular"]:
        places = [place for place, letter in enumerate(right) if letter == "'"]
        known |= {right[:place] + right[place + 1 :]: right for place in places}
    return known
