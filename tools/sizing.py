"""Results small enough for a language model: cut to a number of bytes, with a note of what was left out."""

import json
from typing import Any

MAX_BYTES = 8000
"""Most bytes of a result's text, as UTF-8."""

_SHORTEST = 40  # characters that a shortened text keeps at least


def to_text(content: dict[str, Any]) -> str:
    """Return compact JSON, without escapes for letters of other alphabets."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def fit(content: dict[str, Any], max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Cut the content so that its JSON has at most `max_bytes` bytes.

    A list called `items` loses its last ones first; where the content has an `offset`, `next_offset` says where to go
    on. What is then still too long has its longest texts shortened, each with a mark.
    """
    if _size(content) <= max_bytes:
        return content
    items = content.get("items")
    if isinstance(items, list) and len(items) > 1:
        content = _fewer_items(content, items, max_bytes)
    while _size(content) > max_bytes:
        longest = max((len(text) for text in _texts(content)), default=0)
        if longest <= _SHORTEST:
            # Many short texts, such as the names of a mapping: only their beginning can be shown.
            shown = to_text(content).encode()[: max_bytes // 4].decode(errors="ignore")
            return {"note": "The result is too long to show; this is its beginning.", "beginning": shown}
        content = _shortened(content, max(_SHORTEST, longest // 2))
    return content


def _size(content: dict[str, Any]) -> int:
    return len(to_text(content).encode())


def _fewer_items(content: dict[str, Any], items: list[Any], max_bytes: int) -> dict[str, Any]:
    """As many of the first items as fit, at least one."""
    begin = content.get("offset")

    def cut(count: int) -> dict[str, Any]:
        cut_to: dict[str, Any] = {"note": f"Cut to {count} of {len(items)} items here; ask for less to see the others."}
        if isinstance(begin, int):
            note = f"Cut to {count} of {len(items)} items here; call again with offset={begin + count} for the others."
            cut_to = {"next_offset": begin + count, "note": note}
        return {**content, **cut_to, "items": items[:count]}

    least, most = 1, len(items)  # `least` is taken even if it does not fit
    while least < most:
        middle = (least + most + 1) // 2
        if _size(cut(middle)) <= max_bytes:
            least = middle
        else:
            most = middle - 1
    return cut(least)


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for part in parts for text in _texts(part)]


def _shortened(value: Any, longest: int) -> Any:
    if isinstance(value, str) and len(value) > longest:
        return f"{value[: longest - 20]}… [{len(value) - longest + 20} more]"
    if isinstance(value, dict):
        return {key: _shortened(part, longest) for key, part in value.items()}
    return [_shortened(part, longest) for part in value] if isinstance(value, list) else value
