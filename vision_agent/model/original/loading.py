"""Loads a folder in InternVL's original format as transformers' native model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast

from vision_agent.errors import CheckpointError
from vision_agent.model.checkpoint_files import check_folder, check_settings, read_object
from vision_agent.model.empty_model import Places
from vision_agent.model.original.configuration import (
    OriginalSettings,
    is_tied,
    language_architecture,
    native_config,
    read_settings,
)
from vision_agent.model.original.embedded_lora import merge_embedded
from vision_agent.model.original.tokenizers import IMAGE_TOKENS, load_tokenizer
from vision_agent.model.original.weights import Rule, empty_original, load_weights
from vision_agent.model.weight_files import open_weights


@dataclass(frozen=True)
class OriginalCheckpoint(OriginalSettings):
    """A loaded checkpoint: the settings of its `config.json`, and

    Attributes:
        model: a transformers `InternVLForConditionalGeneration`, in eval mode, on its device.
        tokenizer: gives the official ids of a whole prompt.
        end_ids: ids that end an answer. Officially that is the template's stop token and no other; the language
            model's own end token does not stop.
        fingerprint: of the weights: see `vision_agent.model.fingerprint`.
    """

    model: Any
    tokenizer: PreTrainedTokenizerFast
    end_ids: list[int]
    fingerprint: str


def read_content(folder: Path) -> dict[str, Any]:
    """Read the `config.json` of a folder.

    Raises:
        CheckpointError: there is none, it is damaged, or it holds settings of another kind than any model has.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"the folder {str(folder)!r} has no config.json, so it is no checkpoint")
    content = read_object(path, str(folder))
    check_settings(content)
    return content


def check_vocabulary(
    folder: Path, vocabulary: Mapping[str, int], content: dict[str, Any], settings: OriginalSettings
) -> None:
    """See that every token of the tokenizer has a row in the model, and that one ends answers.

    Raises:
        CheckpointError: ids beyond the table of words, or no token that ends answers.
    """
    rows, last = content["llm_config"]["vocab_size"], max(vocabulary.values())
    if last >= rows:
        raise CheckpointError(f"the tokenizer in {str(folder)!r} has ids up to {last}, but the model has {rows} rows")
    stop = settings.template.stop
    if stop not in vocabulary:
        raise CheckpointError(f"the tokenizer in {str(folder)!r} has no {stop!r}, which ends answers in its template")


def load_original(
    folder: Path,
    content: dict[str, Any],
    *,
    dtype: torch.dtype,
    attn_implementation: str,
    int8: bool = False,
    places: Places | None = None,
    settings: OriginalSettings | None = None,
    beside: Sequence[Rule] = (),
) -> OriginalCheckpoint:
    """Load a folder in the original format. No code of the checkpoint is run.

    Args:
        folder: `config.json`, weights and tokenizer files.
        content: the parsed `config.json`.
        dtype: of the model; tensors are converted to it one at a time.
        attn_implementation: as transformers takes it; what `config.json` says of it is not used.
        int8: round the language model to int8 while it is read, tensor by tensor.
        places: the device that tensors go to one at a time, or those of modules by their native names.
        settings: None for those that `config.json` says.
        beside: rules of tensors in the weight files that other models read.

    Raises:
        CheckpointError: a missing or damaged file, an unsupported architecture or setting, weights or a tokenizer
            that do not fit. All but damage inside a weight file is found before weights are read.
    """
    check_folder(folder, str(folder))
    settings = read_settings(content) if settings is None else settings
    architecture = language_architecture(content)
    tokenizer = load_tokenizer(folder)
    vocabulary = tokenizer.get_vocab()
    files = merge_embedded(open_weights(folder), content)
    tied = is_tied(content, {key for file in files for key in file.keys()})
    config = native_config(content, image_token_id=vocabulary[IMAGE_TOKENS["context_image_token"]], tied=tied)
    check_vocabulary(folder, vocabulary, content, settings)
    stop = settings.template.stop
    tokenizer.chat_template = settings.template.chat_template()
    model = empty_original(config, dtype=dtype, attn_implementation=attn_implementation, int8=int8, places=places)
    fingerprint = load_weights(model, files, architecture, beside)
    model.generation_config = GenerationConfig(
        eos_token_id=vocabulary[stop], pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    return OriginalCheckpoint(
        **vars(settings), model=model, tokenizer=tokenizer, end_ids=[vocabulary[stop]], fingerprint=fingerprint
    )
