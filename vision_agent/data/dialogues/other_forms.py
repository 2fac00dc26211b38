"""Lines as other trainers have them, in InternVL's own form: `messages` and `query` of ms-swift, OpenAI's speakers.

What is written about boxes stays as it is: InternVL's are `<box>[[x1, y1, x2, y2]]</box>`, 0-1000.
"""

from typing import Any

_SPEAKERS = {"user": "human", "assistant": "gpt"}
_ROLE = {"role", "content"}


def in_internvls_form(said: dict[str, Any]) -> dict[str, Any]:
    """Return a line with `conversations`, `image` and `video`; what is in no known form stays, to be told of later."""
    said = dict(said)
    if "conversations" not in said:
        turns = _messages(said.get("messages")) if "messages" in said else _rounds(said)
        if turns is not None:
            said["conversations"] = turns
    turns = said.get("conversations")
    if isinstance(turns, list):
        said["conversations"] = [_named(turn) for turn in turns]
    for name, names in (("image", "images"), ("video", "videos")):
        if name not in said and isinstance(said.get(names), list | str):
            said[name] = _paths(said[names])
    if isinstance(said.get("video"), list) and len(said["video"]) < 2:
        said["video"] = said["video"][0] if said["video"] else None
    return said


def _named(turn: Any) -> Any:
    """A turn with InternVL's name of its speaker."""
    if not isinstance(turn, dict) or not isinstance(turn.get("from"), str):
        return turn
    return {**turn, "from": _SPEAKERS.get(turn["from"], turn["from"])}


def _messages(messages: Any) -> Any:
    """ms-swift's and OpenAI's `messages`: `role` and `content`."""
    if not isinstance(messages, list):
        return messages
    return [
        {"from": each["role"], "value": each["content"]} if isinstance(each, dict) and _ROLE <= each.keys() else each
        for each in messages
    ]


def _rounds(said: dict[str, Any]) -> list[dict[str, Any]] | None:
    """ms-swift's `system`, `history`, `query`, `response`; None where a line has no `query` and `response`."""
    if not {"query", "response"} <= said.keys():
        return None
    history = said.get("history") or []
    pairs = [*history, [said["query"], said["response"]]] if isinstance(history, list) else [[None, None]]
    turns = [{"from": "system", "value": said["system"]}] if said.get("system") else []
    for pair in pairs:
        question, answer = pair if isinstance(pair, list) and len(pair) == 2 else (pair, None)
        turns += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return turns


def _paths(images: Any) -> Any:
    """Paths, which ms-swift also writes as `{"path": ...}`."""
    if isinstance(images, str):
        return images
    return [each["path"] if isinstance(each, dict) and "path" in each else each for each in images]
