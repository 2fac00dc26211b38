"""Builds the tokenizer of an original folder from its own files, without the checkpoint's code.

The official code runs *slow* tokenizers: it cuts the text at the added tokens and gives each piece between them to
sentencepiece (InternLM2, Llama, Yi, Phi-3) or to byte-level BPE (Qwen2). The pipelines here are fast and give the same
ids. They are plain `tokenizers` pipelines, so a saved one works with transformers alone.

Sentencepiece tokenizers differ in where a space is put before the text, "▁" in their vocabulary:

* before every piece between added tokens (Llama tokenizers marked `legacy`, if the model file asks for it);
* before the whole text only (other Llama tokenizers, Phi-3). If the text opens with an added token that is not listed
  as a special token, as Phi-3's `<|system|>` is not, the space stands alone before it: a lone "▁" in the ids;
* nowhere (InternLM2, whose model file does not ask for it).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from vision_agent.errors import CheckpointError
from vision_agent.model.checkpoint_files import read_object
from vision_agent.model.original.sentencepiece_file import PieceType, SentencePieceModel, read_sentencepiece

SPACE = "▁"
IMAGE_TOKENS = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
_NAMED = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
# Named tokens that the tokenizer classes have where their files do not name any.
_DEFAULT_NAMES = {
    "InternLM2Tokenizer": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"},
    "LlamaTokenizer": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "Qwen2Tokenizer": {"eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
}
# How Qwen2 cuts text into words before merging bytes.
_QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class _Files:
    """What the tokenizer files of a folder say.

    Attributes:
        kind: class name without `Fast`.
        settings: `tokenizer_config.json`.
        added: id -> added token.
        names: role, such as `"eos_token"`, -> token.
        specials: the tokens listed as special: the named ones and the additional ones.
    """

    folder: Path
    kind: str
    settings: dict[str, Any]
    added: dict[int, AddedToken]
    names: dict[str, str]
    specials: tuple[str, ...]


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Load the tokenizer of an original folder.

    Called with a whole prompt it gives the official ids, BOS included where the official tokenizer puts one.

    Raises:
        CheckpointError: a file that is missing or damaged, a tokenizer of another kind, or one that splits the image
            tokens.
    """
    files = _read_files(folder)
    if (folder / "tokenizer.model").is_file():
        tokenizer = _from_sentencepiece(files)
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        tokenizer = _from_merges(files)
    elif (folder / "tokenizer.json").is_file():
        tokenizer = _from_pipeline(files)
    else:
        raise CheckpointError(
            f"the folder {str(folder)!r} has no tokenizer: expected tokenizer.model, vocab.json with merges.txt, "
            "or tokenizer.json"
        )
    for token in IMAGE_TOKENS.values():
        if tokenizer.encode(token, add_special_tokens=False)[-1:] != [tokenizer.get_vocab().get(token)]:
            raise CheckpointError(f"the tokenizer in {str(folder)!r} has no special token {token!r}")
    return tokenizer


# Files ---------------------------------------------------------------------------------------------------------------


def _read_files(folder: Path) -> _Files:
    settings = _json(folder / "tokenizer_config.json")
    # Files written before the added tokens were kept in the settings have them in files of their own.
    listed = {**_json(folder / "special_tokens_map.json"), **settings}
    own_file = _json(folder / "added_tokens.json")
    kind = str(settings.get("tokenizer_class") or "").removesuffix("Fast")
    try:
        names = dict(_DEFAULT_NAMES.get(kind, {}))
        names |= {role: _content(listed[role]) for role in _NAMED if listed.get(role) is not None}
        additional = [_content(token) for token in listed.get("additional_special_tokens") or []]
        specials = tuple(dict.fromkeys([*names.values(), *additional]))
        if "added_tokens_decoder" in settings:
            added = {int(index): _added_token(token) for index, token in settings["added_tokens_decoder"].items()}
        else:
            added = {
                int(index): AddedToken(token, normalized=False, special=token in specials)
                for token, index in own_file.items()
            }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"the special tokens in tokenizer_config.json make no sense: {error!r}") from error
    return _Files(folder, kind, settings, added, names, specials)


def _json(path: Path) -> dict[str, Any]:
    return read_object(path, str(path.parent)) if path.is_file() else {}


def _content(token: str | dict[str, Any]) -> str:
    return token if isinstance(token, str) else str(token["content"])


def _added_token(token: dict[str, Any]) -> AddedToken:
    flags = {name: bool(token.get(name, False)) for name in ("lstrip", "rstrip", "single_word", "special")}
    return AddedToken(token["content"], normalized=False, **flags)


# Sentencepiece -------------------------------------------------------------------------------------------------------


def _from_sentencepiece(files: _Files) -> PreTrainedTokenizerFast:
    model = read_sentencepiece(files.folder / "tokenizer.model")
    if files.kind not in ("InternLM2Tokenizer", "LlamaTokenizer"):
        raise CheckpointError(
            f"tokenizer_config.json names the class {files.kind!r} beside tokenizer.model; expected "
            "'InternLM2Tokenizer' or 'LlamaTokenizer'"
        )
    if not model.is_bpe or model.space_is_suffix:
        raise CheckpointError("tokenizer.model is not a byte-pair model with leading spaces; those are all published")
    prefix: Literal["pieces", "text", "never"] = "pieces" if model.dummy_prefix else "never"
    # An absent flag, or null, means legacy.
    if files.kind == "LlamaTokenizer" and files.settings.get("legacy") is False:
        prefix = "text"

    vocabulary = {piece.text: index for index, piece in enumerate(model.pieces)}
    added = _complete_added(files, vocabulary)
    # InternLM2 gives spare pieces of its model file new names.
    for index, token in added.items():
        if index < len(model.pieces):
            vocabulary.pop(model.pieces[index].text, None)
        vocabulary[token.content] = index
    unknown = next((piece.text for piece in model.pieces if piece.kind == PieceType.UNKNOWN), None)
    pipeline = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=_merges(model, vocabulary),
            unk_token=unknown if unknown in vocabulary else None,
            fuse_unk=True,
            byte_fallback=any(piece.kind == PieceType.BYTE for piece in model.pieces),
        )
    )
    tokens = [added[index] for index in sorted(added)]
    known = {token.content for token in tokens}
    # Such pieces come out of the text whole, before any merge.
    tokens += [
        AddedToken(piece.text, normalized=False, special=False)
        for piece in model.pieces
        if piece.kind == PieceType.USER_DEFINED
        and SPACE not in piece.text
        and piece.text not in known
        and piece.text in vocabulary
    ]
    if prefix == "text":
        _prefix_text(pipeline, model, tokens, files.specials)
    else:
        _prefix_pieces(pipeline, model, tokens, always=prefix == "pieces")
    text_of_ids = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefix != "never":
        text_of_ids.append(decoders.Strip(content=" ", left=1))
    pipeline.decoder = decoders.Sequence(text_of_ids)
    return _wrap(
        files,
        pipeline,
        add_bos_token=bool(files.settings.get("add_bos_token", True)),
        add_eos_token=bool(files.settings.get("add_eos_token", False)),
    )


def _merges(model: SentencePieceModel, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """All ways to make a piece out of two others, best score first: what sentencepiece does without a list."""
    mergeable = {
        piece.text: piece.score
        for piece in model.pieces
        if piece.kind in (PieceType.NORMAL, PieceType.USER_DEFINED) and piece.text in vocabulary
    }
    ranked = [
        (-score, vocabulary[text], cut, text)
        for text, score in mergeable.items()
        for cut in range(1, len(text))
        if text[:cut] in mergeable and text[cut:] in mergeable
    ]
    return [(text[:cut], text[cut:]) for _, _, cut, text in sorted(ranked)]


def _prefix_pieces(pipeline: Tokenizer, model: SentencePieceModel, tokens: list[AddedToken], *, always: bool) -> None:
    """Normalise each piece between added tokens by itself, and take the added tokens."""
    steps: list[Any] = [normalizers.Precompiled(model.charsmap)] if model.charsmap else []
    if model.trims_spaces:
        steps += [normalizers.Replace(Regex(rf"\A +|[ {SPACE}]+\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if always:
        steps.append(normalizers.Prepend(SPACE))
    pipeline.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    pipeline.add_tokens(tokens)


def _prefix_text(
    pipeline: Tokenizer, model: SentencePieceModel, tokens: list[AddedToken], specials: Iterable[str]
) -> None:
    """Put a space before the whole text, unless the text opens with a special token, and take the added tokens.

    The normaliser sees the whole text only if all added tokens are looked for after it, and it is applied to their
    own names too: hence the first condition, which leaves those alone.
    """
    names = "|".join(re.escape(token.content) for token in tokens)
    opening = "|".join(re.escape(token) for token in specials)
    steps: list[Any] = [normalizers.Precompiled(model.charsmap)] if model.charsmap else []
    steps.append(normalizers.Replace(SPACE, " "))
    steps.append(normalizers.Replace(Regex(rf"\A(?!(?:{names})\z)(?!{opening})(?=[\s\S])"), SPACE))
    pipeline.normalizer = normalizers.Sequence(steps)
    cuts: list[Any] = []
    if model.trims_spaces:
        cuts = [
            pre_tokenizers.Split(Regex(rf"[ {SPACE}]+\z"), behavior="removed"),
            pre_tokenizers.Split(Regex(" +(?= )"), behavior="removed"),
        ]
    spaces = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="never", split=False)
    pipeline.pre_tokenizer = pre_tokenizers.Sequence([*cuts, spaces])
    pipeline.add_tokens(
        [
            AddedToken(
                token.content,
                rstrip=token.rstrip,
                lstrip=token.lstrip,
                single_word=token.single_word,
                normalized=True,
                special=token.special,
            )
            for token in tokens
        ]
    )


# Byte-level ----------------------------------------------------------------------------------------------------------


def _from_merges(files: _Files) -> PreTrainedTokenizerFast:
    if files.kind not in ("Qwen2Tokenizer", ""):
        raise CheckpointError(
            f"tokenizer_config.json names the class {files.kind!r} beside vocab.json; expected 'Qwen2Tokenizer'"
        )
    try:
        vocabulary = {str(token): int(index) for token, index in _json(files.folder / "vocab.json").items()}
        lines = (files.folder / "merges.txt").read_text("utf-8").split("\n")
        pairs = [line.split() for line in lines if line.strip() and not line.startswith("#version")]
        merges = [(left, right) for left, right in pairs]
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"vocab.json or merges.txt is damaged: {error}") from error
    added = _complete_added(files, vocabulary)
    for index, token in added.items():
        vocabulary[token.content] = index
    try:
        pipeline = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    except Exception as error:  # the library raises bare exceptions
        raise CheckpointError(f"merges.txt does not fit vocab.json: {error}") from error
    pipeline.normalizer = normalizers.NFC()
    pipeline.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN2_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    pipeline.decoder = decoders.ByteLevel()
    pipeline.add_tokens([added[index] for index in sorted(added)])
    return _wrap(files, pipeline, add_bos_token=False, add_eos_token=False)


def _from_pipeline(files: _Files) -> PreTrainedTokenizerFast:
    """A `tokenizer.json` is a pipeline already (Llama 3); its own post-processor puts BOS."""
    try:
        pipeline = Tokenizer.from_file(str(files.folder / "tokenizer.json"))
    except Exception as error:  # the library raises bare exceptions
        raise CheckpointError(f"tokenizer.json is damaged: {error}") from error
    pipeline.no_padding()
    pipeline.no_truncation()
    pipeline.add_tokens([files.added[index] for index in sorted(files.added)])
    for index, token in files.added.items():
        if pipeline.token_to_id(token.content) != index:
            raise CheckpointError(
                f"tokenizer_config.json gives {token.content!r} the id {index}, tokenizer.json gives "
                f"{pipeline.token_to_id(token.content)}"
            )
    return _wrap(files, pipeline)


# Both ----------------------------------------------------------------------------------------------------------------


def _complete_added(files: _Files, vocabulary: dict[str, int]) -> dict[int, AddedToken]:
    """The added tokens, and the special ones that no file lists as added, which get the next free ids."""
    added = dict(files.added)
    known = {token.content for token in added.values()}
    free = max([*vocabulary.values(), *added]) + 1
    for token in files.specials:
        if token in known:
            continue
        index = vocabulary.get(token, free)
        free += index == free
        added[index] = AddedToken(token, normalized=False, special=True)
    return added


def _wrap(files: _Files, pipeline: Tokenizer, **bos_eos: bool) -> PreTrainedTokenizerFast:
    limit = files.settings.get("model_max_length")
    named = set(files.names.values())
    return PreTrainedTokenizerFast(
        tokenizer_object=pipeline,
        additional_special_tokens=[token for token in files.specials if token not in named],
        padding_side="left",
        clean_up_tokenization_spaces=False,
        **({"model_max_length": int(limit)} if limit else {}),
        **files.names,
        **bos_eos,
    )
