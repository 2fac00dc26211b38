"""A native model's tensors under their original names: the rules of `weights`, read backwards."""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vision_agent.errors import CheckpointError
from vision_agent.model.empty_model import fillable
from vision_agent.model.original.weights import LANGUAGE_RULES, VISION_RULES, Rule, load_by_rules
from vision_agent.model.weight_files import WeightFile, listed_names

_GROUP = re.compile(r"\((?!\?)([^()]*)\)")  # of a rule's pattern, which are never inside one another
_REFERENCE = re.compile(r"\\(\d)")


def original_tensors(model: Any, architecture: str) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Yield the original name of every tensor, and what makes it: fused tensors take memory only then.

    Args:
        model: a native model that holds its weights.
        architecture: the language model's class name, a key of `LANGUAGE_RULES`.

    Raises:
        CheckpointError: tensors that have no place in the original format.
    """
    left: dict[str, Any] = dict(fillable(model))
    for rule in (*VISION_RULES, *LANGUAGE_RULES[architecture]):
        if not rule.names:
            continue
        for original, names in _found(rule, left).items():
            pieces = [left.pop(name) for name in names]
            yield original, partial(_joined, rule, pieces, model.config)
    if left:
        raise CheckpointError(f"the original format has no place for: {listed_names(set(left))}")


def original_fingerprint(empty: Any, files: list[WeightFile], architecture: str) -> str:
    """Return the fingerprint of written weights; names and shapes are compared with a model on the device "meta".

    Raises:
        CheckpointError: the weights do not fit.
    """
    rules = (*VISION_RULES, *LANGUAGE_RULES[architecture])
    return load_by_rules(fillable(empty), files, rules, empty.config).digest()


def _joined(rule: Rule, pieces: list[Tensor], config: Any) -> Tensor:
    with torch.no_grad():
        return pieces[0] if rule.join is None else rule.join(pieces, config)


def _found(rule: Rule, native: Mapping[str, Any]) -> dict[str, list[str]]:
    """The original tensors that a rule is about, each with its native ones in the rule's order."""
    groups = _GROUP.findall(rule.pattern)
    # What a pattern matches, with references to groups instead of them.
    numbers = iter(range(1, len(groups) + 1))
    original = _GROUP.sub(lambda _: f"\\g<g{next(numbers)}>", rule.pattern).replace("\\.", ".")
    pattern = re.compile(_as_pattern(rule.names[0], groups))
    found: dict[str, list[str]] = {}
    for name in native:
        match = pattern.fullmatch(name)
        if match is None:
            continue
        key = match.expand(original)
        names = rule.native_names(key) or ()
        missing = [each for each in names if each not in native]
        if missing:
            raise CheckpointError(f"the original format joins {name} with {listed_names(missing)}, which is missing")
        found[key] = list(names)
    return found


def _as_pattern(name: str, groups: list[str]) -> str:
    """A native name with references to groups, as a pattern that names those groups."""
    pieces, seen = [], set()
    for index, piece in enumerate(_REFERENCE.split(name)):
        if index % 2 == 0:
            pieces.append(re.escape(piece))
        elif piece in seen:
            pieces.append(f"(?P=g{piece})")
        else:
            seen.add(piece)
            pieces.append(f"(?P<g{piece}>{groups[int(piece) - 1]})")
    return "".join(pieces)
