"""Adds tokens to the tokenizer files of an original folder, wherever its kind of tokenizer keeps them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from vision_agent.errors import CheckpointError
from vision_agent.model.checkpoint_files import read_object

_SPECIAL = "additional_special_tokens"


def add_tokens(folder: Path, tokens: Mapping[str, int]) -> None:
    """Write special tokens with their ids into the files that a folder has, in place.

    Raises:
        CheckpointError: damaged files, or a tokenizer that would give a token another id.
    """
    settings = folder / "tokenizer_config.json"
    content = read_object(settings, str(folder)) if settings.is_file() else {}
    _list_special(content, tokens)
    if "added_tokens_decoder" in content:
        content["added_tokens_decoder"] |= {str(index): _entry(token) for token, index in tokens.items()}
    _write(settings, content)
    special = folder / "special_tokens_map.json"
    if special.is_file():
        named = read_object(special, str(folder))
        _list_special(named, tokens)
        _write(special, named)
    own = folder / "added_tokens.json"
    if own.is_file() or "added_tokens_decoder" not in content:
        _write(own, (read_object(own, str(folder)) if own.is_file() else {}) | dict(tokens))
    if (folder / "tokenizer.json").is_file():
        _add_to_pipeline(folder / "tokenizer.json", tokens)


def _add_to_pipeline(path: Path, tokens: Mapping[str, int]) -> None:
    pipeline = Tokenizer.from_file(str(path))
    for token, index in sorted(tokens.items(), key=lambda pair: pair[1]):
        pipeline.add_special_tokens([AddedToken(token, normalized=False, special=True)])
        if pipeline.token_to_id(token) != index:
            raise CheckpointError(
                f"{path.name} would give {token!r} the id {pipeline.token_to_id(token)}, but its row is {index}"
            )
    pipeline.save(str(path))


def _list_special(content: dict[str, Any], tokens: Mapping[str, int]) -> None:
    listed = list(content.get(_SPECIAL) or [])
    known = {each if isinstance(each, str) else each.get("content") for each in listed}
    content[_SPECIAL] = [*listed, *(token for token in tokens if token not in known)]


def _entry(token: str) -> dict[str, Any]:
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    return {"content": token, **flags, "special": True}


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
