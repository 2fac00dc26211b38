"""Adapters: a route with its token rows, queries and decoder, saved as one folder beside or apart from a base model.

adapter.json          the RouteSpec, the decoder's settings, the base model's fingerprint, the words it knows
adapter.safetensors   token.input, token.output (when untied), queries.weight, decoder.*

Weights that an adapter beside it has too may be left out: see `routing/shared_tensors.py`.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vision_agent.errors import AdapterMismatchError, CheckpointError, RouteError
from vision_agent.model.backbone import Backbone
from vision_agent.model.device_map import make_resident
from vision_agent.model.int8_packed import PackedHead
from vision_agent.model.tensor_files import save_file
from vision_agent.plugins.decoder import Decoder
from vision_agent.plugins.registry import load_decoder
from vision_agent.plugins.route import RouteSpec
from vision_agent.routing.known_words import KnownWords
from vision_agent.routing.layout import QueryBank
from vision_agent.routing.shared_tensors import SharedTensors, find_shared, load_shared

if TYPE_CHECKING:
    from vision_agent.model.original.sa2va import OwnRoute

_FORMAT = 1


class Route(nn.Module):
    """A route in a loaded model: its spec, the id of its token, its query bank, its decoder, the words it knows.

    `words` is None where every phrase is looked for.
    """

    def __init__(
        self, spec: RouteSpec, token_id: int, queries: QueryBank, decoder: Decoder, words: KnownWords | None = None
    ) -> None:
        super().__init__()
        self.spec = spec
        self.token_id = token_id
        self.queries = queries
        self.decoder = decoder
        self.words = words

    def asked(self, phrase: str) -> str:
        """Return how a phrase is put to the model: a known plural in the singular, and grey, as names were taught.

        As they stand "dogs" finds some where none are, and "gray car" none where there is one.
        """
        return phrase if self.words is None else self.words.as_taught(phrase)


class AdapterInfo(BaseModel):
    """The content of `adapter.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = _FORMAT
    route: RouteSpec
    decoder_settings: dict[str, Any]
    hidden_size: int
    base_name: str
    base_fingerprint: str
    words: KnownWords | None = None
    shared: SharedTensors | None = None


def add_token(backbone: Backbone, token: str) -> int:
    """Give a routing token an id, with rows at the mean of the others. Returns the id; keeps an existing token's.

    Raises:
        RouteError: the text is an ordinary word of the vocabulary.
    """
    tokenizer, model = backbone.tokenizer, backbone.model
    # Before the tokenizer grows: rows that wait on disk could neither be added nor written.
    make_resident(model)
    known = tokenizer.get_vocab().get(token)
    if known is not None:
        if known not in tokenizer.added_tokens_decoder:
            raise RouteError(f"{token!r} is an ordinary token of {backbone.name!r} and cannot be a route")
        return int(known)
    tokenizer.add_tokens([token], special_tokens=True)
    token_id = int(tokenizer.convert_tokens_to_ids(token))
    table: Tensor = model.get_input_embeddings().weight
    mean_rows = [weight.detach().float().mean(dim=0) for weight in _token_tables(backbone)]
    if token_id >= table.shape[0]:
        head = model.get_output_embeddings()
        model.resize_token_embeddings(token_id + 1, mean_resizing=False)
        if isinstance(head, PackedHead):
            model.set_output_embeddings(PackedHead(model.get_output_embeddings()))
    with torch.no_grad():
        for weight, row in zip(_token_tables(backbone), mean_rows, strict=True):
            weight[token_id] = row.to(weight.dtype)
    return token_id


def new_route(backbone: Backbone, spec: RouteSpec, generator: torch.Generator | None = None, **settings: Any) -> Route:
    """Return an untrained route for this backbone; `settings` are those of its decoder's `for_backbone`."""
    token_id = add_token(backbone, spec.token)
    queries = QueryBank(spec.num_queries, backbone.hidden_size)
    queries.initialise(backbone.model.get_input_embeddings().weight.detach(), generator)
    decoder = load_decoder(spec.decoder).for_backbone(spec, backbone.hidden_size, backbone.feature_widths, **settings)
    return Route(spec, token_id, queries, decoder)


def build_own_route(own: "OwnRoute", backbone: Backbone) -> Route:
    """Build a route that came with the weights of its base model, whose vocabulary has its token already.

    Raises:
        CheckpointError: the route's weights do not fit its decoder.
        UnknownDecoderError: its decoder is not installed.
    """
    decoder = load_decoder(own.spec.decoder)(**own.settings)
    try:
        decoder.load_state_dict(own.weights)
    except RuntimeError as error:
        raise CheckpointError(f"{backbone.name!r} does not fit the decoder of {own.spec.token!r}: {error}") from error
    token_id = int(backbone.tokenizer.convert_tokens_to_ids(own.spec.token))
    queries = QueryBank(own.spec.num_queries, backbone.hidden_size)
    route = Route(own.spec, token_id, queries.to(backbone.dtype), decoder.float())
    return route.eval().requires_grad_(False).to(backbone.device)


def save_adapter(folder: str | Path, route: Route, backbone: Backbone, dtype: torch.dtype = torch.float16) -> None:
    """Write a route as a folder. Files appear whole or not at all, and never beside those of an older route."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tables = _token_tables(backbone)
    tensors = {"token.input": tables[0][route.token_id], "queries.weight": route.queries.weight}
    if len(tables) > 1:
        tensors["token.output"] = tables[1][route.token_id]
    tensors |= {f"decoder.{name}": tensor for name, tensor in route.decoder.state_dict().items()}
    info = AdapterInfo(
        route=route.spec,
        decoder_settings=route.decoder.settings,
        hidden_size=backbone.hidden_size,
        base_name=backbone.name,
        base_fingerprint=backbone.fingerprint,
        words=route.words,
    )
    stored = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in tensors.items()}
    _write_tensors(folder, stored)
    _write_info(folder, info)


def change_settings(folder: str | Path, **settings: Any) -> None:
    """Change settings of a saved adapter's decoder, such as `threshold`."""
    folder = Path(folder)
    info = _read_info(folder)
    changed = info.model_copy(update={"decoder_settings": info.decoder_settings | settings})
    _build_decoder(folder, changed)  # settings that the decoder does not take must not be written
    _write_info(folder, changed)


def rebase_adapter(
    folder: str | Path, backbone: Backbone, replaced: Mapping[str, Tensor], settings: Mapping[str, Any]
) -> None:
    """Tie a saved adapter to another base model with the same language weights.

    Args:
        replaced: tensors for the adapter's own, by their names in its file; those are left out of which it has no part.
        settings: of its decoder; those are left out that it does not have.
    """
    folder = Path(folder)
    info = _read_info(folder)
    settings = {name: value for name, value in settings.items() if name in info.decoder_settings}
    shared = info.shared
    if settings:
        parts = tuple(f"decoder.{name}." for name in settings)
        tensors, shared = _read_tensors(folder, info), None
        new = {name: tensor.detach().cpu() for name, tensor in replaced.items() if name.startswith(parts)}
        like = next(iter(tensors.values()))
        tensors |= {name: tensor.to(like.dtype).contiguous() for name, tensor in new.items()}
        _write_tensors(folder, tensors)
    changed = {"base_name": backbone.name, "base_fingerprint": backbone.fingerprint, "shared": shared}
    _write_info(folder, info.model_copy(update={**changed, "decoder_settings": info.decoder_settings | settings}))


def share_tensors(folder: str | Path, adapter: str, ours: str, theirs: str) -> None:
    """Leave out of a saved adapter the weights that the one named `adapter` beside it has too.

    Args:
        ours, theirs: prefixes of the names of weights that are compared, such as "decoder.finder." and "decoder.".

    Raises:
        CheckpointError: the other adapter is missing or damaged.
    """
    folder = Path(folder)
    info = _read_info(folder)
    tensors = _read_tensors(folder, info)
    shared = find_shared(folder, tensors, adapter, ours, theirs)
    left_out = {ours + name for name in shared.names}
    if not left_out and info.shared is None:
        return
    _write_tensors(folder, {name: tensor for name, tensor in tensors.items() if name not in left_out})
    _write_info(folder, info.model_copy(update={"shared": shared if left_out else None}))


def read_tensors(folder: str | Path) -> dict[str, Tensor]:
    """Return all weights of a saved adapter by name, those that it shares with one beside it too.

    Raises:
        CheckpointError: missing or damaged files.
    """
    return _read_tensors(Path(folder), _read_info(Path(folder)))


def read_words(folder: str | Path) -> KnownWords | None:
    """Return the words that a saved adapter's route knows; None for one that looks for every phrase."""
    return _read_info(Path(folder)).words


def write_words(folder: str | Path, words: KnownWords | None) -> None:
    """Write the words that a saved adapter's route knows; None for one that looks for every phrase."""
    folder = Path(folder)
    _write_info(folder, _read_info(folder).model_copy(update={"words": words}))


def read_spec(folder: str | Path) -> RouteSpec:
    """Return the route of a saved adapter. Raises CheckpointError for missing or damaged files."""
    return _read_info(Path(folder)).route


def load_adapter(folder: str | Path, backbone: Backbone) -> Route:
    """Load a route onto a backbone; other routes stay as they are.

    Raises:
        CheckpointError: missing, damaged or half-written files, or weights that do not fit the decoder.
        AdapterMismatchError: trained on another base model.
        UnknownDecoderError: its decoder is not installed.
        RouteError: the model runs in a remote engine.
    """
    folder = Path(folder)
    info = _read_info(folder)
    if backbone.is_remote:
        raise RouteError(
            f"{info.route.token!r} cannot be added to a model in a remote engine, whose hidden states its decoder "
            "reads: name its folder in `adapters` of `VisionAgent.remote`, for engines that hand them out, or load the "
            "checkpoint here"
        )
    tensors = _read_tensors(folder, info)
    if info.hidden_size != backbone.hidden_size or not _trained_on(backbone, info.base_fingerprint):
        raise AdapterMismatchError(
            f"the adapter {str(folder)!r} was trained on {info.base_name!r} ({info.base_fingerprint!r}), "
            f"not on {backbone.name!r} ({backbone.fingerprint!r}); its weights, and those of `lora`, must be the same"
        )
    queries = QueryBank(info.route.num_queries, info.hidden_size)
    decoder = _build_decoder(folder, info)
    _load_strictly(folder, queries, tensors, "queries.")
    _load_strictly(folder, decoder, tensors, "decoder.")
    token_id = add_token(backbone, info.route.token)
    with torch.no_grad():
        for weight, name in zip(_token_tables(backbone), ("token.input", "token.output"), strict=False):
            if name not in tensors:
                raise CheckpointError(f"the adapter {str(folder)!r} lacks the tensor {name!r}")
            weight[token_id] = tensors[name].to(weight)
    # Decoders stay in fp32: they are small, and coordinates suffer in half precision.
    route = Route(info.route, token_id, queries.to(backbone.dtype), decoder.float(), info.words)
    return route.eval().requires_grad_(False).to(backbone.device)


def _trained_on(backbone: Backbone, fingerprint: str) -> bool:
    """Whether a fingerprint is this model's; adapters saved before version 0.2 have that of its weight file."""
    return fingerprint == backbone.fingerprint or (fingerprint != "" and fingerprint == backbone.former_fingerprint)


def _read_info(folder: Path) -> AdapterInfo:
    for name in ("adapter.json", "adapter.safetensors"):
        if not (folder / name).is_file():
            raise CheckpointError(f"the adapter {str(folder)!r} has no {name}; is it half-written?")
    try:
        info = AdapterInfo.model_validate_json((folder / "adapter.json").read_text("utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise _damaged(folder, error) from error
    if info.format != _FORMAT:
        raise CheckpointError(f"the adapter {str(folder)!r} has format {info.format!r}; this version reads {_FORMAT}")
    return info


def _read_tensors(folder: Path, info: AdapterInfo) -> dict[str, Tensor]:
    try:
        own = load_file(folder / "adapter.safetensors")
    except SafetensorError as error:
        raise _damaged(folder, error) from error
    return own if info.shared is None else load_shared(folder, info.shared) | own


def _write_tensors(folder: Path, tensors: dict[str, Tensor]) -> None:
    partial = folder / "adapter.safetensors.partial"
    save_file(tensors, partial)
    # Over an older adapter: new weights beside old settings would load, and be wrong.
    (folder / "adapter.json").unlink(missing_ok=True)
    os.replace(partial, folder / "adapter.safetensors")


def _write_info(folder: Path, info: AdapterInfo) -> None:
    partial = folder / "adapter.json.partial"
    partial.write_text(info.model_dump_json(indent=2) + "\n", "utf-8")
    os.replace(partial, folder / "adapter.json")


def _damaged(folder: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"the adapter {str(folder)!r} is damaged: {str(error).splitlines()[0]}")


def _build_decoder(folder: Path, info: AdapterInfo) -> Decoder:
    try:
        return load_decoder(info.route.decoder)(**info.decoder_settings)
    except TypeError as error:
        raise CheckpointError(
            f"the adapter {str(folder)!r} has settings its decoder {info.route.decoder!r} does not take: {error}"
        ) from error


def _load_strictly(folder: Path, module: nn.Module, tensors: dict[str, Tensor], prefix: str) -> None:
    state = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"the adapter {str(folder)!r} does not fit its decoder: {error}") from error


def _token_tables(backbone: Backbone) -> list[Tensor]:
    """The input table and, when it is another tensor, the output table."""
    tables = [backbone.model.get_input_embeddings().weight, backbone.model.get_output_embeddings().weight]
    return tables[:1] if tables[0] is tables[1] else tables
