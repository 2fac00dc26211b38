"""The first requests to an engine: which one it is, what it can do, and whether it has the given tokenizer."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from vision_agent.errors import EngineError, InputError, bad_argument
from vision_agent.generation.options import GenerationOptions
from vision_agent.inference.conversation import Conversation
from vision_agent.model.backbone import Backbone
from vision_agent.model.tokenizing import tokenized
from vision_agent.plugins.route import RouteSpec
from vision_agent.remote.dialects import ChatAsked
from vision_agent.remote.engine_info import AdapterVerdict, EngineInfo, EngineKind
from vision_agent.remote.http_client import EngineClient
from vision_agent.remote.remote_states import is_causal, probe_pooling
from vision_agent.remote.replies import Said, ask_engine
from vision_agent.routing.adapter import read_spec

# Words of several languages, numbers and InternVL's marks: tokenizers that agree here are one.
_KNOWN_TEXT = "Where's the größte Würfel? 12, 345, 1000 机器人 <ref>dog</ref><box>[[7, 89, 640, 1000]]</box>\n"
_SHORT, _LONG = "Hi", "Hi. How many wheels has a bicycle, and what are they called in 3 languages?"
_OWNED_BY: Mapping[str, EngineKind] = {
    "vllm": "vllm",
    "sglang": "sglang",
    "lmdeploy": "lmdeploy",
    "vision-agent": "vision-agent",
}
_ONE = GenerationOptions(max_new_tokens=1)
_IMAGE = Image.new("RGB", (96, 64), (90, 120, 160))


def probe(
    client: EngineClient,
    backbone: Backbone,
    tokenizer: str,
    model: str | None,
    system: str | None,
    adapters: Sequence[str | Path],
    states: EngineClient,
) -> EngineInfo:
    """Return what an engine is and can do.

    Args:
        backbone: of the checkpoint that it is said to run, without weights.
        tokenizer: where that is from, for errors.
        model: the name to ask for; None for the engine's only one.
        system: the system message of prompts.
        adapters: folders of routes' adapters, of which is told whether they can be used.
        states: where hidden states are asked for.

    Raises:
        EngineError: it is no engine, has no such model, or another tokenizer.
        InputError: it has several models, and none is named.
    """
    listed = _models(client)
    chosen = _chosen(client, [str(each["id"]) for each in listed if not each.get("parent")], listed, model)
    kind = _kind(client, chosen)
    version, hidden = _version(client, kind)
    if kind == "vllm" and adapters:
        hidden = probe_pooling(states, str(chosen["id"]), backbone.hidden_size)
    names = tuple(str(each["id"]) for each in listed)
    context = chosen.get("max_model_len")
    routes = chosen.get("routes")
    structured = kind in ("vllm", "sglang", "lmdeploy")
    info = EngineInfo(
        kind=kind,
        url=client.url,
        version=version,
        model=str(chosen["id"]),
        models=names,
        context=context if type(context) is int and context > 0 else None,
        patterns=structured,
        continues=structured,
        hidden_states=hidden,
        routes=tuple(map(str, routes)) if isinstance(routes, list) else (),
    )
    told = _tokenizer_ids(client, info, backbone, tokenizer)
    info = _counted(client, info, backbone, tokenizer, system, same_ids=told)
    return info.model_copy(update={"adapters": tuple(_verdict(info, folder) for folder in adapters)})


def _models(client: EngineClient) -> list[dict[str, Any]]:
    try:
        reply = client.get("/v1/models")
    except EngineError as error:
        if error.status != 404:
            raise
        raise client.error("has no /v1/models: it is no engine with OpenAI's API, or `url` leads elsewhere") from None
    listed = reply.get("data") if isinstance(reply, dict) else None
    if not isinstance(listed, list) or not all(isinstance(each, dict) and each.get("id") for each in listed):
        raise client.error("answered /v1/models in another form than OpenAI's")
    if not listed:
        raise client.error("has no model loaded")
    return listed


def _chosen(
    client: EngineClient, bases: Sequence[str], listed: Sequence[dict[str, Any]], model: str | None
) -> dict[str, Any]:
    names = [str(each["id"]) for each in listed]
    if model is None:
        if len(bases) != 1:
            raise InputError(bad_argument("model", f"one of the engine's models {names}", model))
        model = bases[0]
    if model not in names:
        raise client.error(f"has no model {model!r}, but {', '.join(map(repr, names))}")
    return listed[names.index(model)]


def _kind(client: EngineClient, model: Mapping[str, Any]) -> EngineKind:
    known = _OWNED_BY.get(str(model.get("owned_by")).lower())
    if known is not None:
        return known
    # A proxy may have written its own name there.
    if isinstance(_tried(client, "/get_model_info").get("model_path"), str):
        return "sglang"
    return "vllm" if isinstance(_tried(client, "/version").get("version"), str) else "openai"


def _version(client: EngineClient, kind: EngineKind) -> tuple[str | None, bool]:
    """What an engine says of its version, and whether it hands out hidden states."""
    said: dict[str, Any] = {}
    if kind == "vllm":
        said = _tried(client, "/version")
    elif kind == "sglang":
        said = _tried(client, "/server_info") or _tried(client, "/get_server_info")
    version = said.get("version")
    return version if isinstance(version, str) else None, said.get("enable_return_hidden_states") is True


def _tried(client: EngineClient, path: str) -> dict[str, Any]:
    """What stands at a path that only some versions have; nothing where there is none."""
    try:
        found = client.get(path)
    except EngineError as error:
        if error.status is None:
            raise
        return {}
    return found if isinstance(found, dict) else {}


def _tokenizer_ids(client: EngineClient, info: EngineInfo, backbone: Backbone, tokenizer: str) -> bool:
    """Whether an engine tells the ids of a text, which then are this tokenizer's. Raises EngineError for others."""
    asked: dict[str, tuple[str, dict[str, Any], str]] = {
        "lmdeploy": ("/v1/encode", {"input": _KNOWN_TEXT, "do_preprocess": False, "add_bos": False}, "input_ids")
    }
    plain = {"model": info.model, "prompt": _KNOWN_TEXT, "add_special_tokens": False}
    path, body, field = asked.get(info.kind, ("/tokenize", plain, "tokens"))
    if info.kind in ("vision-agent", "openai"):
        return False
    try:
        reply = client.post(path, body)
    except EngineError as error:
        if error.status not in (400, 404, 405, 422, 501):
            raise
        return False
    ids = reply.get(field) if isinstance(reply, dict) else None
    if not isinstance(ids, list):
        return False
    own = tokenized(backbone.tokenizer, _KNOWN_TEXT, add_special_tokens=False)["input_ids"]
    if ids != own:
        raise _other_tokenizer(client, tokenizer, len(ids), len(own))
    return True


def _counted(
    client: EngineClient,
    info: EngineInfo,
    backbone: Backbone,
    tokenizer: str,
    system: str | None,
    *,
    same_ids: bool,
) -> EngineInfo:
    """Ask for one token each after a short text, a long one and an image: the counts tell tokenizer and tiles."""
    warnings: list[str] = []
    short, logprobs = _first_said(client, info, system)
    long = _asked(client, info, system, _LONG)
    known: Literal["same ids", "same counts", "not checked"] = "same ids" if same_ids else "not checked"
    counts = [said.prompt_tokens for said in (short, long)]
    images, unseen, with_image = _sees(client, info, backbone, system, counts[0])
    if not all(counts) and with_image:  # a model that answers about images alone counts nothing without one
        counts = [with_image, _asked(client, info, system, _LONG, _IMAGE).prompt_tokens]
    if not same_ids and all(counts):
        own = [_prompt_tokens(backbone, text) for text in (_SHORT, _LONG)]
        if counts[1] - counts[0] != own[1] - own[0]:
            raise _other_tokenizer(client, tokenizer, counts[1] - counts[0], own[1] - own[0])
        known = "same counts"
    elif not same_ids:
        warnings.append("the engine tells no counts of tokens, so its tokenizer could not be compared")
    warnings += unseen
    if not logprobs:
        remedy = "; start it with --logprobs-mode raw_logprobs" if info.kind == "lmdeploy" else ""
        warnings.append(f"the engine tells no probabilities: answers have no confidence{remedy}")
    found = {"tokenizer": known, "logprobs": logprobs, "images": images, "warnings": tuple(warnings)}
    return info.model_copy(update=found)


def _first_said(client: EngineClient, info: EngineInfo, system: str | None) -> tuple[Said, bool]:
    """The first answer, and whether the engine tells logprobs."""
    try:
        said = _asked(client, info, system, _SHORT, logprobs=True)
    except EngineError as error:
        if error.status not in (400, 422):
            raise
        return _asked(client, info, system, _SHORT), False
    # Our own server tells them of what its model wrote; to a short text it may refuse to answer.
    return said, bool(said.tokens) or info.kind == "vision-agent"


def _sees(
    client: EngineClient, info: EngineInfo, backbone: Backbone, system: str | None, without: int
) -> tuple[bool | None, list[str], int]:
    """Whether an image takes the tokens there that it takes here, what is to be said, and the tokens of all."""
    try:
        said = _asked(client, info, system, _SHORT, _IMAGE)
    except EngineError as error:
        if error.status not in (400, 422, 500, 501):
            raise
        return False, [f"the engine takes no images: {error}"], 0
    whole = said.prompt_tokens
    if not (without and whole):
        return None, [], whole
    own = _prompt_tokens(backbone, _SHORT, _IMAGE) - _prompt_tokens(backbone, _SHORT)
    if whole - without == own:
        return True, [], whole
    told = (
        f"an image of {_IMAGE.width}x{_IMAGE.height} pixels takes {whole - without} tokens in the engine "
        f"and {own} here: it cuts tiles otherwise, or runs another checkpoint"
    )
    return False, [told], whole


def _asked(
    client: EngineClient,
    info: EngineInfo,
    system: str | None,
    text: str,
    image: Image.Image | None = None,
    *,
    logprobs: bool = False,
) -> Said:
    conversation = Conversation.build(text, [] if image is None else [image])
    return ask_engine(client, info, ChatAsked(conversation, _ONE, system, logprobs=logprobs))


def _prompt_tokens(backbone: Backbone, text: str, image: Image.Image | None = None) -> int:
    conversation = Conversation.build(text, [] if image is None else [image])
    grids = [backbone.grid_for(*each.size) for each in conversation.images]
    counts = [grid.tile_count * backbone.tokens_per_tile for grid in grids]
    return len(backbone.prompt(conversation.turns, counts, conversation.places).ids)


def _other_tokenizer(client: EngineClient, tokenizer: str, theirs: int, own: int) -> EngineError:
    how = f"{theirs} tokens there and {own} here" if theirs != own else f"{own} tokens, but other ones"
    return client.error(
        f"has another tokenizer than {tokenizer!r}: the same text is {how}; give `tokenizer` the folder of the "
        "checkpoint that it runs"
    )


def _verdict(info: EngineInfo, folder: str | Path) -> AdapterVerdict:
    spec: RouteSpec = read_spec(folder)
    causal = is_causal(spec)
    reason = ""
    if not causal:
        reason = (
            f"its {spec.num_queries} queries see each other (block 'full'), which no engine computes; train it with "
            "block='causal'"
        )
    elif not info.hidden_states:
        remedy = {
            "sglang": "; start it with --enable-return-hidden-states",
            "vllm": "; give `states` the address of one that was started with --runner pooling",
        }.get(info.kind, "")
        reason = f"{info.kind} as it runs hands out no hidden states, which its decoder reads{remedy}"
    return AdapterVerdict(adapter=str(folder), token=spec.token, causal=causal, usable=not reason, reason=reason)
