"""Lines that run from right to left: characters as they stand, put into the order in which they are read.

A PDF tells where each character stands; in which order the file names them differs from program to program. So the
order is taken from the places, by the rules of Unicode's bidirectional algorithm read backwards: in a line of Hebrew or
Arabic, numbers and words of other scripts run from left to right, and all else from right to left.
"""

import unicodedata
from collections.abc import Sequence

_RIGHT = frozenset(("R", "AL"))
_OPEN, _CLOSE = "([{<«", ")]}>»"


def is_right_to_left(character: str) -> bool:
    """Return whether a character is a letter of a script that runs from right to left."""
    return unicodedata.bidirectional(character[:1] or " ") in _RIGHT


def right_to_left_share(text: str) -> float:
    """Return the share of such letters among all letters of a text, 0-1."""
    letters = [each for each in text if each.isalpha()]
    return sum(map(is_right_to_left, letters)) / len(letters) if letters else 0.0


def reading_order(characters: Sequence[str], *, to_left: bool) -> list[int]:
    """Return the indices of characters that stand from left to right, in the order in which they are read.

    Args:
        characters: as they stand; a space between words is one of them.
        to_left: whether the line as a whole runs from right to left.
    """
    kinds = _kinds(characters, to_left=to_left)
    runs: list[list[int]] = []
    for index, kind in enumerate(kinds):
        if runs and kinds[runs[-1][-1]] == kind:
            runs[-1].append(index)
        else:
            runs.append([index])
    if to_left:
        runs.reverse()
    return [index for run in runs for index in (run if kinds[run[0]] == "L" else run[::-1])]


def words_in_order(words: Sequence[str]) -> list[int]:
    """Return the indices of words that stand from left to right, in the order in which they are read."""
    if right_to_left_share(" ".join(words)) <= 0.5:
        return list(range(len(words)))
    order: list[int] = []
    run: list[int] = []  # words of other scripts beside each other keep their order
    for index in reversed(range(len(words))):
        if any(each.isalpha() for each in words[index]) and not any(map(is_right_to_left, words[index])):
            run.insert(0, index)
            continue
        order += [*run, index]
        run = []
    return order + run


def brackets_turned(characters: Sequence[str]) -> list[str]:
    """Return characters in reading order with brackets that open before they close: files name them either way."""
    wrong = right = depth = mirrored = 0
    for each in characters:
        step = (each in _OPEN) - (each in _CLOSE)
        depth, mirrored = depth + step, mirrored - step
        wrong, right = wrong + (depth < 0), right + (mirrored < 0)
    if wrong <= right:
        return list(characters)
    return [
        _CLOSE[_OPEN.index(each)] if each in _OPEN else _OPEN[_CLOSE.index(each)] if each in _CLOSE else each
        for each in characters
    ]


def _kinds(characters: Sequence[str], *, to_left: bool) -> list[str]:
    """L or R for each character."""
    classes = [unicodedata.bidirectional(each[:1] or " ") for each in characters]
    kinds = ["R" if each in _RIGHT else "L" if each in ("L", "EN", "AN") else "" for each in classes]
    numbers = [each in ("EN", "AN") for each in classes]
    count = len(classes)
    for index in range(1, count - 1):  # "12.50", "2024/05/01"
        if classes[index] in ("CS", "ES") and numbers[index - 1] and numbers[index + 1]:
            kinds[index], numbers[index] = "L", True
    for index, each in enumerate(classes):  # "-5", "100 %"
        near = [at for at in (index - 1, index + 1) if 0 <= at < count and classes[at] in ("EN", "AN")]
        if each in ("ET", "ES") and near:
            kinds[index], numbers[index] = "L", True
    base = "R" if to_left else "L"
    index = 0
    while index < count:
        if kinds[index]:
            index += 1
            continue
        end = index
        while end < count and not kinds[end]:
            end += 1
        before, after = kinds[index - 1] if index else base, kinds[end] if end < count else base
        # Numbers beside each other follow the line: only a word keeps what follows it on its side.
        joined = before == after and not (to_left and before == "L" and _only_numbers(numbers, kinds, index, end))
        kinds[index:end] = [before if joined else base] * (end - index)
        index = end
    return kinds


def _only_numbers(numbers: Sequence[bool], kinds: Sequence[str], begin: int, end: int) -> bool:
    """Whether what stands on both sides of [begin, end) is numbers alone, as far as the run goes."""
    left = begin - 1
    while left >= 0 and kinds[left] == "L" and numbers[left]:
        left -= 1
    right = end
    while right < len(kinds) and kinds[right] == "L" and numbers[right]:
        right += 1
    return not (left >= 0 and kinds[left] == "L") and not (right < len(kinds) and kinds[right] == "L")
