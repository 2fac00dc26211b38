"""Labels and templates of `classify`, checked."""

from collections.abc import Iterable
from itertools import islice

from vision_agent.errors import ArgumentTypeError, InputError, bad_argument, check_characters
from vision_agent.validation import LONGEST_PHRASE

MOST_LABELS = 10_000
PLACE = "{}"  # of the label in a template


def check_labels(labels: object) -> tuple[str, ...]:
    """Return the labels, each once, in alphabetical order: what is found does not depend on the order they came in.

    Raises:
        InputError: no label, too many, or an empty or overlong one.
        ArgumentTypeError: no collection of strings.
    """
    if isinstance(labels, str | bytes | dict) or not isinstance(labels, Iterable):
        raise ArgumentTypeError(bad_argument("labels", "a list of strings", labels))
    items = list(islice(labels, MOST_LABELS + 1))
    if not 1 <= len(items) <= MOST_LABELS:
        got = labels if not items else f"{len(items)} or more"
        raise InputError(bad_argument("labels", f"at least one label and at most {MOST_LABELS}", got))
    found: dict[str, str] = {}
    for index, item in enumerate(items):
        if not isinstance(item, str):
            raise ArgumentTypeError(bad_argument(f"labels[{index}]", "a string", item))
        text = " ".join(item.split())
        if not any(map(str.isalnum, text)):
            raise InputError(bad_argument(f"labels[{index}]", "some words", item))
        check_characters(f"labels[{index}]", item)
        if len(text) > LONGEST_PHRASE:
            raise InputError(bad_argument(f"labels[{index}]", f"at most {LONGEST_PHRASE} characters", item))
        key = text.casefold()
        found[key] = min(text, found.get(key, text))
    return tuple(found[key] for key in sorted(found))


def check_templates(templates: object) -> tuple[str, ...] | None:
    """Return the templates of a label, each once; None for the method's own.

    Raises:
        InputError: no template, or one without a place for the label.
        ArgumentTypeError: neither a string nor a collection of strings.
    """
    if templates is None:
        return None
    items = [templates] if isinstance(templates, str) else templates
    if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
        raise ArgumentTypeError(bad_argument("templates", "a string or a list of strings", templates))
    if not items:
        raise InputError(bad_argument("templates", "at least one template, or None", templates))
    for index, item in enumerate(items):
        if PLACE not in item:
            raise InputError(bad_argument(f"templates[{index}]", "a text with {} for the label", item))
        if len(item) > LONGEST_PHRASE:
            raise InputError(bad_argument(f"templates[{index}]", f"at most {LONGEST_PHRASE} characters", item))
    return tuple(dict.fromkeys(items))


def filled(template: str, label: str) -> str:
    """Return a template with a label in its place."""
    return template.replace(PLACE, label)
