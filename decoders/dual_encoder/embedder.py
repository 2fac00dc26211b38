"""CLIP, SigLIP and SigLIP 2 from a folder in the layout that transformers saves, with their own image processor and
tokenizer.

Texts are padded as each was trained: CLIP's to the longest of a batch, the others' to their full length, SigLIP's in
lower case where its tokenizer does so itself.

Shape suffixes: N images or texts, D embedding.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from vision_agent.errors import CheckpointError, InputError, bad_argument, first_line
from vision_agent.model.devices import choose_device
from vision_agent.model.fingerprint import native_fingerprint
from vision_agent.model.quiet import quiet

T = TypeVar("T")

_KINDS = ("clip", "siglip", "siglip2")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_TOKENIZERS = ("tokenizer.json", "spiece.model", "vocab.json")
_PREPARATION = ("preprocessor_config.json", "processor_config.json", *_TOKENIZERS)
_AT_ONCE = 16  # images or texts of one batch


class DualEncoder:
    """An image tower and a text tower that were trained together. See `vision_agent.plugins.embedder.Embedder`.

    Attributes:
        name: of the folder.
        width: D, numbers in a vector.
        fingerprint: of the weights and of what prepares images and texts.
    """

    embeds_texts = True

    def __init__(
        self, model: Any, image_processor: Any, tokenizer: Any, *, name: str, fingerprint: str, kind: str
    ) -> None:
        self.name = name
        self.fingerprint = fingerprint
        self._model, self._processor, self._tokenizer = model, image_processor, tokenizer
        self._longest = int(model.config.text_config.max_position_embeddings)
        self._padding = "longest" if kind == "clip" else "max_length"
        self.logit_scale: float | None = float(model.logit_scale.detach().float().exp())
        bias = getattr(model, "logit_bias", None)
        self.logit_bias: float | None = None if bias is None else float(bias.detach().float())
        self.width = 0
        self.width = int(self.embed_texts(["a"]).shape[1])

    @staticmethod
    def reads(folder: Path) -> bool:
        """Return whether a folder holds such a model, by its config.json."""
        try:
            content = json.loads((folder / "config.json").read_text("utf-8"))
        except (OSError, ValueError):
            return False
        return isinstance(content, dict) and content.get("model_type") in _KINDS

    @classmethod
    def from_pretrained(cls, path: str | Path, device: str | torch.device = "auto") -> Self:
        """Load a folder. Nothing is downloaded, no code in it is run, and weights are read from safetensors alone.

        Args:
            path: with config.json, model.safetensors (or its index), an image processor and a tokenizer.
            device: `"auto"` (CUDA, then MPS, then CPU) or any torch device.

        Raises:
            CheckpointError: nothing there, another kind of model, or damaged or missing files.
            ConfigError: a device that does not exist here.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise CheckpointError(f"there is no embedder at {str(folder)!r}: no such folder")
        if not cls.reads(folder):
            raise CheckpointError(f"{str(folder)!r} is no embedder: its config.json names none of {', '.join(_KINDS)}")
        if not any((folder / name).is_file() for name in _WEIGHTS):
            raise CheckpointError(f"the folder {str(folder)!r} has no weights: expected {' or '.join(_WEIGHTS)}")
        place = choose_device(device)
        kind = json.loads((folder / "config.json").read_text("utf-8"))["model_type"]
        model = _loaded(folder).to(place)
        processor, tokenizer = preparation_of(folder)
        return cls(model, processor, tokenizer, name=folder.resolve().name, fingerprint=identity_of(folder), kind=kind)

    def embed_images(self, images: Sequence[Image.Image]) -> npt.NDArray[np.float32]:
        """Return float32 (N, D), rows of length one, of upright RGB images."""

        def embed(some: Sequence[Image.Image]) -> Any:
            inputs = self._processor(images=list(some), return_tensors="pt")
            return self._model.get_image_features(**{key: each.to(self._device) for key, each in inputs.items()})

        return unit_rows(images, embed, self.width, self.name)

    def embed_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return float32 (N, D), rows of length one.

        Raises:
            InputError: a text of more tokens than the text tower reads.
        """
        for index, ids in enumerate(self._tokenizer(list(texts))["input_ids"] if texts else []):
            if len(ids) > self._longest:
                expected = f"of at most {self._longest} tokens, as many as {self.name!r} reads"
                raise InputError(bad_argument(f"text[{index}]", expected, f"{len(ids)} tokens: {texts[index]}"))

        def embed(some: Sequence[str]) -> Any:
            inputs = self._tokenizer(
                list(some), padding=self._padding, max_length=self._longest, truncation=True, return_tensors="pt"
            )
            return self._model.get_text_features(**{key: each.to(self._device) for key, each in inputs.items()})

        return unit_rows(texts, embed, self.width, self.name)

    @property
    def _device(self) -> torch.device:
        device: torch.device = self._model.device
        return device


def unit_rows(
    items: Sequence[T], embed: Callable[[Sequence[T]], Any], width: int, name: str
) -> npt.NDArray[np.float32]:
    """Return the vectors of items as rows of length one, (N, D), made in batches.

    Raises:
        CheckpointError: numbers that are NaN or infinite.
    """
    rows: list[Tensor] = []
    with torch.inference_mode():
        for start in range(0, len(items), _AT_ONCE):
            output = embed(items[start : start + _AT_ONCE])
            vectors_ND = output if isinstance(output, Tensor) else output.pooler_output
            rows.append(torch.nn.functional.normalize(vectors_ND.float(), dim=-1).cpu())
    if not rows:
        return np.empty((0, width), dtype=np.float32)
    vectors: npt.NDArray[np.float32] = torch.cat(rows).numpy()
    if not np.isfinite(vectors).all():
        raise CheckpointError(f"the embedder {name!r} gives numbers that are NaN or infinite")
    return vectors


def _loaded(folder: Path) -> Any:
    """The model in float32 on the CPU. Raises CheckpointError."""
    from transformers import AutoModel

    try:
        with quiet():
            model, report = AutoModel.from_pretrained(
                str(folder),
                dtype=torch.float32,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except Exception as error:  # transformers raises many kinds for a damaged folder
        raise CheckpointError(f"the embedder {str(folder)!r} could not be loaded: {first_line(error)}") from error
    wrong = sorted(report["missing_keys"]) + sorted(map(str, report["mismatched_keys"]))
    if wrong:
        raise CheckpointError(f"the weights in {str(folder)!r} do not fit their config.json: {wrong[0]} ...")
    return model.eval().requires_grad_(False)


def preparation_of(folder: Path) -> tuple[Any, Any]:
    """The folder's own image processor and tokenizer. Raises CheckpointError."""
    from transformers import AutoImageProcessor, AutoTokenizer

    if not any((folder / name).is_file() for name in _TOKENIZERS):  # transformers would make up an empty one
        raise CheckpointError(f"the folder {str(folder)!r} has no tokenizer: expected one of {', '.join(_TOKENIZERS)}")
    try:
        with quiet():
            processor = AutoImageProcessor.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
            tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # as above
        said = first_line(error)
        raise CheckpointError(
            f"the image processor or tokenizer in {str(folder)!r} could not be loaded: {said}"
        ) from error
    return processor, tokenizer


def identity_of(folder: Path) -> str:
    """What tells embedders apart: other weights, or images prepared in another way, give other vectors."""
    parts = [native_fingerprint(folder).encode()]
    parts += [name.encode() + (folder / name).read_bytes() for name in _PREPARATION if (folder / name).is_file()]
    return hashlib.sha256(b"\n".join(parts)).hexdigest()[:32]
