"""InternVL-14B-224px as an embedder: InternVL-C, or InternVL-G with what QLLaMA's queries see.

Texts are read as it was trained: after "summarize:", with an end token, at most 80 tokens. Those who leave one of them
out get noise.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vision_agent.errors import CheckpointError, InputError, bad_argument, first_line
from vision_agent.model.devices import choose_device

from .embedder import identity_of, preparation_of, unit_rows
from .internvl_towers import InternVLTowers

_PREFIX = "summarize:"
_LONGEST = 80  # tokens
_READ = 2**20  # bytes at the start of a pickled file
_SAFE, _PICKLED = "*.safetensors", "pytorch_model*.bin"
# What the checkpoint has beside: matching of pairs, captions, and what is computed from the config.
_LEFT_OUT = ("itm_head.", "qllama.lm_head.")
_COMPUTED = ".rotary_emb.inv_freq"


class InternVLRetrieval:
    """Images and texts in one space, by InternVL-C or InternVL-G. See `vision_agent.plugins.embedder.Embedder`.

    Attributes:
        name: of the folder, with "-G" where the queries are used.
        width: D, numbers in a vector.
        fingerprint: of the weights, of what prepares images and texts, and of C or G.
    """

    embeds_texts = True
    logit_bias: float | None = None

    def __init__(self, towers: InternVLTowers, processor: Any, tokenizer: Any, name: str, fingerprint: str) -> None:
        self.name, self.fingerprint = name, fingerprint
        self._towers, self._processor, self._tokenizer = towers, processor, tokenizer
        self._by_queries = False
        self.logit_scale: float | None = float(towers.logit_scale.detach().float().exp())
        self.width = int(towers.text_projection.shape[1])

    @staticmethod
    def reads(folder: Path) -> bool:
        """Return whether a folder holds such a model, by its config.json."""
        try:
            content = json.loads((folder / "config.json").read_text("utf-8"))
        except (OSError, ValueError):
            return False
        return isinstance(content, dict) and isinstance(content.get("qllama_config"), dict)

    @classmethod
    def from_pretrained(
        cls, path: str | Path, device: str | torch.device = "auto", *, by_queries: bool = False
    ) -> Self:
        """Load a folder. Nothing is downloaded, and no code in it is run.

        Args:
            path: in the layout of OpenGVLab/InternVL-14B-224px.
            device: `"auto"` (CUDA, then MPS, then CPU) or any torch device.
            by_queries: InternVL-G, better at finding images by sentences, in place of InternVL-C.

        Raises:
            CheckpointError: nothing there, another kind of model, or damaged or missing files.
            ConfigError: a device that does not exist here.
        """
        folder = Path(path)
        if not cls.reads(folder):
            raise CheckpointError(f"{str(folder)!r} is no InternVL-14B-224px: its config.json has no `qllama_config`")
        place = choose_device(device)
        towers = _loaded(folder, torch.float32 if place.type == "cpu" else torch.bfloat16)
        processor, tokenizer = preparation_of(folder)
        made = cls(towers.to(place), processor, tokenizer, folder.resolve().name, _identity(folder))
        if by_queries:
            made._by_queries = True
            made.name, made.fingerprint = f"{made.name}-G", f"{made.fingerprint}-g"
        return made

    def embed_images(self, images: Sequence[Image.Image]) -> npt.NDArray[np.float32]:
        """Return float32 (N, D), rows of length one, of upright RGB images."""

        def embed(some: Sequence[Image.Image]) -> Tensor:
            pixels = self._processor(images=list(some), return_tensors="pt")["pixel_values"]
            return self._towers.images(self._placed(pixels), by_queries=self._by_queries)

        return unit_rows(images, embed, self.width, self.name)

    def embed_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return float32 (N, D), rows of length one.

        Raises:
            InputError: a text of more tokens than were trained.
        """
        rows = [self._ids(text, f"text[{index}]") for index, text in enumerate(texts)]

        def embed(some: Sequence[list[int]]) -> Tensor:
            ids = torch.zeros(len(some), max(map(len, some)), dtype=torch.long)
            for place, row in enumerate(some):
                ids[place, : len(row)] = torch.tensor(row)
            return self._towers.texts(ids.to(self._towers.query_tokens.device))

        return unit_rows(rows, embed, self.width, self.name)

    def _ids(self, text: str, name: str) -> list[int]:
        tokenizer = self._tokenizer
        inside = tokenizer(_PREFIX + text, add_special_tokens=False)["input_ids"]
        ids = [tokenizer.bos_token_id, *inside, tokenizer.eos_token_id]
        if len(ids) > _LONGEST:
            expected = f"of at most {_LONGEST} tokens, as many as {self.name!r} reads"
            raise InputError(bad_argument(name, expected, f"{len(ids)} tokens: {text}"))
        return ids

    def _placed(self, pixels: Tensor) -> Tensor:
        weights = self._towers.query_tokens
        return pixels.to(weights.device, weights.dtype)


def _identity(folder: Path) -> str:
    """What tells checkpoints apart; of pickled ones, whose tensors lie anywhere, sizes and first bytes."""
    if any(folder.glob(_SAFE)):
        return identity_of(folder)
    parts = [(folder / "config.json").read_bytes()]
    for file in sorted(folder.glob(_PICKLED)):
        with open(file, "rb") as stream:
            parts.append(f"{file.name} {file.stat().st_size}".encode() + stream.read(_READ))
    return hashlib.sha256(b"\n".join(parts)).hexdigest()[:32]


def _loaded(folder: Path, dtype: torch.dtype) -> InternVLTowers:
    """The towers on the CPU. Raises CheckpointError."""
    files = sorted(folder.glob(_SAFE)) or sorted(folder.glob(_PICKLED))
    if not files:
        raise CheckpointError(f"the folder {str(folder)!r} has no weights: expected {_SAFE} or {_PICKLED}")
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        with torch.device("meta"):
            towers = InternVLTowers(config)
        wanted = set(towers.state_dict())
        for file in files:
            part = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
            known = {
                name: each.to(dtype)
                for name, each in part.items()
                if not name.startswith(_LEFT_OUT) and not name.endswith(_COMPUTED)
            }
            if extra := sorted(known.keys() - wanted):
                raise CheckpointError(f"the weights in {str(folder)!r} have {extra[0]!r}, which the model has not")
            towers.load_state_dict(known, strict=False, assign=True)
            wanted -= known.keys()
    except CheckpointError:
        raise
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError, EOFError) as error:
        raise CheckpointError(f"the embedder {str(folder)!r} could not be loaded: {first_line(error)}") from error
    missing = sorted(name for name, each in towers.state_dict().items() if each.is_meta)
    if missing:
        raise CheckpointError(f"the weights in {str(folder)!r} lack {missing[0]!r} and {len(missing) - 1} more")
    return towers.eval().requires_grad_(False)
