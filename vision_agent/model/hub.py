"""Finds out at once whether a checkpoint's name can be had; transformers alone retries for long without a network."""

from pathlib import Path

import httpx
from huggingface_hub import constants, is_offline_mode, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils._validators import validate_repo_id

from vision_agent.errors import CheckpointError, first_line

_SECONDS = 5.0


def check_source(source: str, cache_dir: str | Path | None = None, local_files_only: bool = False) -> bool:
    """Check that a checkpoint is a folder, or a hub name that is in the cache or can be downloaded.

    Returns:
        whether only the cache is to be used: it was asked for, or the hub cannot be reached and the cache suffices.

    Raises:
        CheckpointError: neither; the message says how to do without a network.
    """
    neither = f"the checkpoint {source!r} is neither a folder nor a hub name"
    if is_here(source) and Path(source).is_dir():
        return local_files_only
    try:
        validate_repo_id(source)
    except HFValidationError as error:
        raise CheckpointError(f"{neither}; a hub name reads 'OpenGVLab/InternVL3-2B-hf'") from error
    cached = isinstance(try_to_load_from_cache(source, "config.json", cache_dir=cache_dir), str)
    if local_files_only or is_offline_mode():
        if not cached:
            raise CheckpointError(f"{neither} in the cache, and downloads are off. {_remedy(source)}")
        return True
    problem = _problem(source)
    if problem and not cached:
        raise CheckpointError(f"{neither} that can be reached: {problem}. {_remedy(source)}")
    return bool(problem)


def is_here(source: str) -> bool:
    """Return whether a checkpoint's name is a path on this machine; one that no path can have is none."""
    try:
        return Path(source).exists()
    except (OSError, ValueError):
        return False


def _problem(source: str) -> str | None:
    """Why the hub does not give a checkpoint; None if it does."""
    address = f"{constants.ENDPOINT}/{source}/resolve/main/config.json"
    try:
        answer = httpx.head(address, headers=build_hf_headers(), timeout=_SECONDS, follow_redirects=False)
    except httpx.HTTPError as error:
        return f"{constants.ENDPOINT} cannot be reached ({first_line(error)})"
    if answer.status_code in (401, 403, 404):
        return f"{constants.ENDPOINT} has no model of this name with a config.json, or it needs a login"
    return f"{constants.ENDPOINT} answers with the status {answer.status_code}" if answer.status_code >= 500 else None


def _remedy(source: str) -> str:
    return (
        f"Without a network, run `hf download {source} --local-dir FOLDER` where there is one, and give the folder "
        "instead of the name"
    )
