"""Where a checkpoint is: a folder or the hub's cache, whose single files are read with errors that name them."""

from pathlib import Path
from typing import Any

from transformers.utils.hub import cached_file

from vision_agent.errors import CheckpointError, first_line
from vision_agent.model.checkpoint_files import read_object, tensor_names
from vision_agent.model.fingerprint import file_fingerprint

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


class CheckpointFiles:
    """Reads single files of a checkpoint, from a folder or the hub cache, with errors that name them."""

    def __init__(self, source: str, hub: dict[str, Any]) -> None:
        self.source, self.hub = source, hub
        folder = Path(source)
        if folder.exists() and not folder.is_dir():
            raise CheckpointError(f"the checkpoint {source!r} is a file; expected a folder or a hub name")
        if folder.is_dir() and not (folder / "config.json").is_file():
            raise CheckpointError(f"the folder {source!r} has no config.json, so it is no checkpoint")

    def path(self, name: str) -> Path | None:
        try:
            found = cached_file(self.source, name, _raise_exceptions_for_missing_entries=False, **self.hub)
        except OSError as error:
            raise CheckpointError(
                f"the checkpoint {self.source!r} is neither a folder nor a hub name that can be reached: "
                f"{first_line(error)}"
            ) from error
        return Path(found) if found else None

    def json(self, name: str) -> dict[str, Any]:
        content = self.optional_json(name)
        if content is None:
            raise CheckpointError(f"the checkpoint {self.source!r} has no {name}")
        return content

    def optional_json(self, name: str) -> dict[str, Any] | None:
        path = self.path(name)
        if path is None:
            return None
        return read_object(path, self.source)

    def tensor_names(self) -> frozenset[str]:
        """Names of the tensors in the weight files; none where there are only `.bin` files."""
        single = self.path(_SINGLE)
        return tensor_names(single, None if single else self.optional_json(_INDEX), self.source)

    def has_bare_index(self) -> bool:
        """Whether there is an index without "metadata", as tools that split files write it: transformers needs it."""
        index = None if self.path(_SINGLE) else self.optional_json(_INDEX)
        return index is not None and "metadata" not in index

    def folder(self) -> Path:
        """The folder with all files of the checkpoint, downloaded if need be."""
        if Path(self.source).is_dir():
            return Path(self.source)
        from huggingface_hub import snapshot_download

        wanted = ["*.json", "*.safetensors", "*.bin", "*.model", "*.txt"]
        try:
            return Path(snapshot_download(self.source, allow_patterns=wanted, **self.hub))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.source!r} could not be downloaded: {first_line(error)}") from error

    def weights_folder(self) -> Path:
        """The folder that the weights of a loaded checkpoint were read from."""
        found = self.path("config.json")
        return Path(self.source) if found is None else found.parent

    def former_fingerprint(self) -> str:
        """Of the only weight file; "" where there are several."""
        single = self.path(_SINGLE)
        return file_fingerprint(single) if single else ""
