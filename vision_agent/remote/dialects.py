"""One request in the words of each engine: chat completions with what OpenAI's API has no field for.

Facts: vLLM's `vllm/entrypoints/openai` (structured_outputs since 0.11, return_token_ids), SGLang's
`srt/entrypoints/openai/protocol.py`, LMDeploy's `serve/openai/protocol.py`.
"""

import base64
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from vision_agent.errors import InputError, bad_argument
from vision_agent.generation.options import GenerationOptions
from vision_agent.inference.conversation import Conversation
from vision_agent.model.prompt import PLACEHOLDER
from vision_agent.model.tile_bounds import MULTI_SCALE, TileBound
from vision_agent.plugins.constraint import WrittenGrammar
from vision_agent.remote.engine_info import EngineKind

Json = dict[str, Any]
TOP = 20  # of the likeliest tokens, the most that OpenAI's API tells


@dataclass(frozen=True)
class ChatAsked:
    """One question to an engine.

    Attributes:
        system: the system message; None for none.
        options: how the answer is written.
        grammar: what the answer is held to.
        pattern: a regular expression that it is held to.
        begun: the answer so far, which is continued.
        marks: special tokens stay in the text.
        top: how many of the likeliest tokens are told.
        logprobs: the logprobs of tokens are told.
    """

    conversation: Conversation
    options: GenerationOptions
    system: str | None = None
    grammar: WrittenGrammar | None = None
    pattern: str | None = None
    begun: str = ""
    marks: bool = False
    logprobs: bool = False
    top: int = 0


def request_body(kind: EngineKind, model: str, asked: ChatAsked, *, stream: bool = False) -> Json:
    """Return the body of a request for chat completions.

    Raises:
        InputError: a setting that no engine has, or not this one.
    """
    options, conversation = asked.options, asked.conversation
    if options.num_beams > 1:
        raise InputError(bad_argument("num_beams", "1: remote engines search no beams", options.num_beams))
    if conversation.combine and len(conversation.images) > 1:
        raise InputError(bad_argument("combine", "False: remote engines give each image its own place", True))
    body: Json = {
        "model": model,
        "messages": _messages(kind, asked),
        "max_tokens": options.max_new_tokens,
        "stream": stream,
        **_sampling(kind, options),
        **_tiles(kind, conversation),
    }
    if stream:
        body["stream_options"] = {"include_usage": True}
    if options.stop:
        body["stop"] = list(options.stop)
    if asked.logprobs:
        body |= {"logprobs": True}
        body |= {"top_logprobs": asked.top} if asked.top else {}
    if asked.marks:
        body["skip_special_tokens"] = False
    if kind == "vllm":
        body["return_token_ids"] = True
    if asked.begun and kind in ("vllm", "sglang"):  # LMDeploy continues an answer that stands last
        body["continue_final_message"] = True
        body |= {"add_generation_prompt": False} if kind == "vllm" else {}
    if kind == "vision-agent":
        body["routes"] = []
    pattern = asked.pattern
    if asked.grammar is not None:
        if asked.grammar.schema is not None:
            body["response_format"] = _schema_format(asked.grammar.schema)
        elif kind in ("vllm", "sglang", "lmdeploy"):
            # As here, a space may stand before a choice: in many vocabularies words begin with one.
            pattern = f" ?(?:{'|'.join(map(re.escape, asked.grammar.choices))})"
        else:
            body["response_format"] = _schema_format({"type": "string", "enum": list(asked.grammar.choices)})
    if pattern is not None:
        body |= _pattern_field(kind, pattern)
    return body


def said_text(kind: EngineKind, asked: ChatAsked, text: str) -> str:
    """Return an answer's text; a choice that could only be asked for as JSON without its quotes."""
    if asked.grammar is None or not asked.grammar.choices or kind in ("vllm", "sglang", "lmdeploy"):
        return text
    try:
        choice = json.loads(text)
    except ValueError:
        return text
    return choice if isinstance(choice, str) else text


def image_address(image: Image.Image) -> str:
    """Return an image as a `data:` address, without loss: remote pixels are those of here."""
    held = io.BytesIO()
    image.save(held, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(held.getvalue()).decode()


def _messages(kind: EngineKind, asked: ChatAsked) -> list[Json]:
    conversation = asked.conversation
    if MULTI_SCALE in conversation.max_tiles:
        raise InputError(bad_argument("tiles", "left out: a remote engine cuts images itself", MULTI_SCALE))
    messages: list[Json] = [{"role": "system", "content": asked.system}] if asked.system else []
    images = iter(zip(conversation.images, conversation.max_tiles, strict=True))
    for index, (question, answer) in enumerate(conversation.turns):
        count = conversation.places[index] if index < len(conversation.places) else None
        count = count if conversation.images else 0
        messages.append({"role": "user", "content": _parts(kind, question, images, count)})
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
    if asked.begun:
        messages.append({"role": "assistant", "content": asked.begun})
    return messages


def _parts(kind: EngineKind, question: str, images: Any, count: int | None) -> str | list[Json]:
    """A question as text, or as parts where it has images; engines write the line break after an image themselves."""
    pieces = question.split(PLACEHOLDER, -1 if count is None else count) if count != 0 else [question]
    if len(pieces) == 1:
        return question
    parts: list[Json] = []
    for place, piece in enumerate(pieces):
        if place:
            image, most = next(images)
            shown: Json = {"url": image_address(image)}
            if most is not None and kind in ("lmdeploy", "vision-agent"):
                shown["max_dynamic_patch"] = most
            parts.append({"type": "image_url", "image_url": shown})
            piece = piece.removeprefix("\n")
        if piece:
            parts.append({"type": "text", "text": piece})
    return parts


def _tiles(kind: EngineKind, conversation: Conversation) -> Json:
    """Where an engine has one bound on tiles for all images of a request."""
    bounds = set(conversation.max_tiles)
    if kind not in ("vllm", "sglang", "openai") or bounds <= {None}:
        return {}
    if kind == "openai":
        raise InputError(
            bad_argument("max_tiles", "left out: this engine has no field for it", max(map(int, _set(bounds))))
        )
    if len(bounds) > 1:
        raise InputError(
            bad_argument("max_tiles", f"the same for all images: {kind} has one for a request", conversation.max_tiles)
        )
    (most,) = bounds
    return {"mm_processor_kwargs": {"max_dynamic_patch": most}} if kind == "vllm" else {"max_dynamic_patch": most}


def _set(bounds: set[TileBound]) -> list[int]:
    return [bound for bound in bounds if isinstance(bound, int)]


def _sampling(kind: EngineKind, options: GenerationOptions) -> Json:
    """All that an engine would take from the checkpoint's generation settings otherwise is said."""
    penalty = options.repetition_penalty
    if kind == "openai" and penalty != 1.0:
        raise InputError(bad_argument("repetition_penalty", "1: this engine has no field for it", penalty))
    settings: Json = (
        {} if kind == "openai" or (kind == "vision-agent" and penalty == 1.0) else {"repetition_penalty": penalty}
    )
    if not options.do_sample:
        if kind == "lmdeploy":  # the likeliest alone is drawn from; its temperature would change logprobs
            return settings | {"temperature": 1.0, "top_k": 1, "top_p": 1.0}
        return settings | {"temperature": 0.0, "top_p": 1.0}
    settings |= {"temperature": options.temperature, "top_p": options.top_p}
    if options.top_k and kind == "openai":
        raise InputError(bad_argument("top_k", "0: this engine has no field for it", options.top_k))
    if kind in ("vllm", "sglang", "lmdeploy"):
        every = {"vllm": 0, "sglang": -1, "lmdeploy": 0}[kind]
        settings["top_k"] = options.top_k or every
    elif options.top_k:
        settings["top_k"] = options.top_k
    if options.seed is not None:
        settings["seed"] = options.seed
    return settings


def _schema_format(schema: Mapping[str, Any]) -> Json:
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": dict(schema)}}


def _pattern_field(kind: EngineKind, pattern: str) -> Json:
    if kind == "vllm":
        return {"structured_outputs": {"regex": pattern}}
    if kind == "sglang":
        return {"regex": pattern}
    if kind == "lmdeploy":
        return {"response_format": {"type": "regex_schema", "regex_schema": pattern}}
    raise InputError(f"an engine of the kind {kind!r} holds no answer to a regular expression")


def choice_of(reply: Any) -> Mapping[str, Any] | None:
    """Return the first choice of an answer or of an event; None where there is none."""
    choices = reply.get("choices") if isinstance(reply, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else None


def usage_of(reply: Any) -> tuple[int, int]:
    """Return the tokens of the prompt and of the answer, as an engine counts them; 0 where it does not say."""
    usage = reply.get("usage") if isinstance(reply, dict) else None
    numbers = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")] if isinstance(usage, dict) else []
    read, written = (number if type(number) is int and number >= 0 else 0 for number in [*numbers, 0, 0][:2])
    return read, written


def entries_of(choice: Mapping[str, Any]) -> Sequence[Any]:
    """Return what a choice says of its tokens."""
    told = choice.get("logprobs")
    content = told.get("content") if isinstance(told, dict) else None
    return content if isinstance(content, list) else ()
