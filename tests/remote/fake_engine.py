"""An engine's HTTP server as vLLM, SGLang or LMDeploy have it, answered by this package's own model.

Wire formats follow the engines' published protocols: what they ignore is ignored, what they lack is 404, their errors
have their shapes. A regular expression holds answers to its letters and reaches no special token, as theirs. Events
are sent in pieces that cut lines and characters. `Faults` break what is said of them.
"""

import asyncio
import base64
import io
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import regex  # type: ignore[import-untyped]
import torch
import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from vision_agent import GenerationOptions, VisionAgent
from vision_agent.generation.decoding import GenerationOutput, PromptInputs, generate
from vision_agent.generation.grammar import json_constraint
from vision_agent.generation.vocabulary import vocabulary_of
from vision_agent.model.backbone import Backbone
from vision_agent.model.tokenizing import tokenized
from vision_agent.plugins.constraint import Constraint, ConstraintState

NAME = "my-internvl"
CONTEXT = 1024


@dataclass
class Faults:
    """What goes wrong; nothing by default. `busy` requests get 429 (or `busy_status`), then it is well again."""

    busy: int = 0
    busy_status: int = 429
    retry_after: str | None = "0"
    cut: bool = False
    silent: float = 0.0
    comments: bool = False
    nan: bool = False
    html: bool = False
    redirect: str | None = None
    giant: bool = False
    broken_json: bool = False
    error_event: bool = False
    no_reason: bool = False
    logprobs_off: bool = False
    no_images: bool = False
    nan_states: bool = False
    wrong_width: bool = False
    no_states: bool = False
    few_states: bool = False
    words_for_states: bool = False
    before_norm: bool = False


@dataclass
class FakeEngine:
    """One engine.

    Attributes:
        dialect: "vllm", "sglang", "lmdeploy", or "openai" for what a proxy lets through.
        key: the key that is needed; None for none.
        asked: the bodies of requests for chat completions.
        asked_states: the bodies of requests for hidden states.
        states: whether it was started to hand out hidden states.
    """

    agent: VisionAgent
    dialect: str = "vllm"
    key: str | None = None
    faults: Faults = field(default_factory=Faults)
    asked: list[dict[str, Any]] = field(default_factory=list)
    asked_states: list[dict[str, Any]] = field(default_factory=list)
    states: bool = True
    closed: list[bool] = field(default_factory=list)
    names: tuple[str, ...] = (NAME,)
    tokenizer: Any = None

    @property
    def backbone(self) -> Backbone:
        return self.agent.backbone

    def app(self) -> Starlette:
        routes = [Route("/v1/models", self.models), Route("/v1/chat/completions", self.chat, methods=["POST"])]
        if self.dialect == "vllm":
            routes += [Route("/version", self.version), Route("/tokenize", self.tokenize, methods=["POST"])]
            routes += [Route("/pooling", self.pooling, methods=["POST"])]
        elif self.dialect == "sglang":
            routes += [Route("/get_model_info", self.model_info), Route("/server_info", self.server_info)]
            routes += [Route("/tokenize", self.tokenize, methods=["POST"])]
            routes += [Route("/generate", self.generate, methods=["POST"])]
        elif self.dialect == "lmdeploy":
            routes += [Route("/v1/encode", self.encode, methods=["POST"])]
        return Starlette(routes=routes)

    # --- small endpoints

    async def models(self, request: Request) -> Response:
        if refused := self.refused(request):
            return refused
        if self.faults.html:
            return Response("<!doctype html><html><body>Welcome</body></html>", media_type="text/html")
        if self.faults.redirect:
            return RedirectResponse(self.faults.redirect)
        owner = {"openai": "someone"}.get(self.dialect, self.dialect)
        data = [{"id": name, "object": "model", "owned_by": owner, "max_model_len": CONTEXT} for name in self.names]
        return JSONResponse({"object": "list", "data": data})

    async def version(self, request: Request) -> Response:
        return JSONResponse({"version": "0.33.0"})

    async def model_info(self, request: Request) -> Response:
        return JSONResponse({"model_path": "/models/x", "tokenizer_path": "/models/x", "is_generation": True})

    async def server_info(self, request: Request) -> Response:
        return JSONResponse({"version": "0.5.23", "enable_return_hidden_states": self.states})

    # --- hidden states

    async def generate(self, request: Request) -> Response:
        """SGLang's own way in: a prompt of embeddings, and its states beside the text."""
        body = await request.json()
        self.asked_states.append(body)
        if refused := self.busy() or self.refused(request):
            return refused
        embedded = torch.tensor(body["input_embeds"])[None]
        states = await asyncio.to_thread(self.states_of, embedded)
        told: dict[str, Any] = {"prompt_tokens": embedded.shape[1], "completion_tokens": 1}
        if self.states and not self.faults.no_states:
            wanted = body.get("return_hidden_states")
            kept = states[-1:] if wanted == "last" else states
            if wanted:
                told["hidden_states"] = kept if wanted == "last" else [kept, [0.0] * len(states[0])]
        return Response(json.dumps({"text": "a", "meta_info": told}), media_type="application/json")

    async def pooling(self, request: Request) -> Response:
        """vLLM's states of all tokens of a prompt, of one that was started with `--runner pooling`."""
        body = await request.json()
        self.asked_states.append(body)
        if not self.states:
            return self.problem(404, "The model does not support Pooling API")
        if refused := self.busy() or self.refused(request):
            return refused
        assert body["task"] == "token_embed" and body["encoding_format"] == "float"
        states = await asyncio.to_thread(self.pooled, body)
        data = [] if self.faults.no_states else [{"index": 0, "object": "pooling", "data": states}]
        return Response(json.dumps({"object": "list", "data": data}), media_type="application/json")

    def pooled(self, body: dict[str, Any]) -> list[Any]:
        table = self.backbone.model.get_input_embeddings()
        if "messages" not in body:
            return self.states_of(table(torch.tensor([self.ids_of(body["input"])])))
        answer = body["messages"][-1]["content"]
        text = "".join(part["text"] for part in answer if part["type"] == "text")
        given = [torch.load(io.BytesIO(base64.b64decode(part["prompt_embeds"]))) for part in answer[1:]]
        messages = [*body["messages"][:-1], {"role": "assistant", "content": text}]
        ids, encoded, _ = self.prompt(body | {"messages": messages})
        return self.states_of(torch.cat([self.embedded(ids, encoded), *(each[None] for each in given)], dim=1))

    def states_of(self, embedded: torch.Tensor) -> list[Any]:
        """States of a causal pass, as the faults have them."""
        model, faults = self.backbone.model.model.language_model, self.faults
        raw: list[torch.Tensor] = []
        hook = model.norm.register_forward_pre_hook(lambda _, given: raw.append(given[0]))
        with torch.inference_mode():
            found = model(inputs_embeds=embedded, use_cache=False).last_hidden_state[0]
        hook.remove()
        states: list[Any] = (raw[0][0] if faults.before_norm else found).tolist()
        if faults.nan_states:
            states[-1][3] = float("nan")
        if faults.wrong_width:
            states = [row[:-8] for row in states]
        if faults.few_states:
            states = states[-1:]
        return [["a" for _ in row] for row in states] if faults.words_for_states else states

    def busy(self) -> Response | None:
        faults = self.faults
        if not faults.busy:
            return None
        faults.busy -= 1
        headers = {"retry-after": faults.retry_after} if faults.retry_after is not None else None
        return self.problem(faults.busy_status, "no room", headers)

    # --- small endpoints, too

    async def tokenize(self, request: Request) -> Response:
        body = await request.json()
        ids = self.ids_of(body["prompt"])
        return JSONResponse({"tokens": ids, "count": len(ids), "max_model_len": CONTEXT})

    async def encode(self, request: Request) -> Response:
        ids = self.ids_of((await request.json())["input"])
        return JSONResponse({"input_ids": ids, "length": len(ids)})

    def ids_of(self, text: str) -> list[int]:
        ids: list[int] = tokenized(self.tokenizer or self.backbone.tokenizer, text, add_special_tokens=False)[
            "input_ids"
        ]
        return ids

    def refused(self, request: Request) -> Response | None:
        if self.key is None or request.headers.get("authorization") == f"Bearer {self.key}":
            return None
        return self.problem(401, f"wrong key in {request.headers.get('authorization')!r}")

    def problem(self, status: int, message: str, headers: dict[str, str] | None = None) -> Response:
        said: dict[str, Any] = {"message": message, "type": "BadRequestError", "param": None, "code": status}
        body = {"object": "error", **said} if self.dialect == "lmdeploy" else {"error": said}
        return JSONResponse(body, status, headers)

    # --- chat

    async def chat(self, request: Request) -> Response:
        if refused := self.refused(request):
            return refused
        body = await request.json()
        self.asked.append(body)
        faults = self.faults
        if refused := self.busy():
            return refused
        if body["model"] not in self.names:
            return self.problem(404, f"The model `{body['model']}` does not exist.")
        if body.get("logprobs") and faults.logprobs_off:
            return self.problem(400, "logprobs are requested but not enabled (logprobs_mode)")
        if faults.no_images and "image_url" in json.dumps(body["messages"]):
            return self.problem(400, "my-internvl is not a multimodal model")
        if faults.silent and not body["stream"]:
            await asyncio.sleep(faults.silent)
        if faults.giant:
            return StreamingResponse(_endless(), media_type="application/json")
        if faults.broken_json and not body["stream"]:
            return Response('{"choices": [', media_type="application/json")
        said = await asyncio.to_thread(self.written, body)
        if body["stream"]:
            return StreamingResponse(self.events(body, said), media_type="text/event-stream")
        message = {"role": "assistant", "content": said["text"]}
        choice = {"index": 0, "message": message, "finish_reason": said["reason"], "logprobs": said["logprobs"]}
        if body.get("return_token_ids"):
            choice["token_ids"] = said["ids"]
        reply = {"id": "chatcmpl-1", "object": "chat.completion", "model": NAME, "choices": [choice]}
        return Response(json.dumps(reply | {"usage": said["usage"]}), media_type="application/json")

    async def events(self, body: dict[str, Any], said: dict[str, Any]) -> AsyncIterator[bytes]:
        done = False
        try:
            for piece in self.pieces(body, said):
                for first in range(0, len(piece), 7):
                    yield piece[first : first + 7]
                    await asyncio.sleep(0)
                if self.faults.silent:
                    for _ in range(40):
                        await asyncio.sleep(self.faults.silent / 40)
                        if self.faults.comments:
                            yield b": still here\n\n"
            done = True
        finally:
            self.closed.append(not done)

    def pieces(self, body: dict[str, Any], said: dict[str, Any]) -> Iterator[bytes]:
        def event(**choice: Any) -> bytes:
            whole = {"index": 0, "delta": {}, "finish_reason": None, "logprobs": None, **choice}
            content = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": NAME, "choices": [whole]}
            return f"data: {json.dumps(content, ensure_ascii=False)}\r\n\r\n".encode()

        yield event(delta={"role": "assistant", "content": ""})
        text = said["text"]
        for first in range(0, len(text), 5):
            yield event(delta={"content": text[first : first + 5]})
            if self.faults.cut:
                return
            if self.faults.error_event:
                yield b'data: {"error": {"message": "CUDA out of memory", "code": 500}}\n\n'
                return
        if not self.faults.no_reason:
            yield event(finish_reason=said["reason"], logprobs=said["logprobs"])
        if (body.get("stream_options") or {}).get("include_usage"):
            yield f"data: {json.dumps({'choices': [], 'usage': said['usage']})}\n\n".encode()
        yield b"data: [DONE]\n\n"

    def written(self, body: dict[str, Any]) -> dict[str, Any]:
        """The model's answer to a request."""
        backbone = self.backbone
        ids, encoded, tokens_TC = self.prompt(body)
        options, constraint = self.options(body), self.constraint(body)
        output = generate(backbone, [PromptInputs(tuple(ids), tokens_TC)], options, constraints=[constraint])
        return self.told(body, output, ids, encoded)

    def prompt(self, body: dict[str, Any]) -> tuple[list[int], list[Any], torch.Tensor | None]:
        """The ids of a request's messages, its images, and all their tokens."""
        backbone = self.backbone
        turns, images, most, begun, system = self.read(body)
        grids = [backbone.grid_for(*image.size, bound) for image, bound in zip(images, most, strict=True)]
        counts = [grid.tile_count * backbone.tokens_per_tile for grid in grids]
        prompt = backbone.prompt(turns, counts)
        if system is not None and self.dialect != "openai":
            assert system in prompt.text, "another system message than the checkpoint's would change its prompts"
        begin = tokenized(backbone.tokenizer, begun, add_special_tokens=False)["input_ids"] if begun else []
        ids = [*prompt.ids, *begin]
        encoded = [backbone.encode_image(image, bound) for image, bound in zip(images, most, strict=True)]
        return ids, encoded, torch.cat([each.tokens_TC for each in encoded]) if encoded else None

    def told(
        self, body: dict[str, Any], output: GenerationOutput, ids: list[int], encoded: list[Any]
    ) -> dict[str, Any]:
        backbone = self.backbone
        (answer,), (logprobs,) = output.answers, output.logprobs
        ended = bool(answer) and answer[-1] in backbone.end_ids
        shown = [token for token in answer if token not in backbone.end_ids]
        marks = body.get("skip_special_tokens") is False
        text = backbone.tokenizer.decode(shown, skip_special_tokens=not marks, clean_up_tokenization_spaces=False)
        for stop in body.get("stop") or ():
            text = text.split(stop)[0]
        entries = None
        if body.get("logprobs"):
            top = self.top(ids, encoded, body.get("top_logprobs") or 0)
            entries = [self.entry(token, logprob) for token, logprob in zip(answer, logprobs, strict=True)]
            entries[0]["top_logprobs"] = top
        usage = {"prompt_tokens": len(ids), "completion_tokens": len(answer), "total_tokens": len(ids) + len(answer)}
        return {
            "text": text,
            "ids": answer,
            "reason": "stop" if ended or output.finish_reasons[0] == "stop" else "length",
            "logprobs": None if entries is None else {"content": entries},
            "usage": usage,
        }

    def entry(self, token: int, logprob: float) -> dict[str, Any]:
        vocabulary = vocabulary_of(self.backbone.tokenizer)
        names = {number: text.encode() for text, number in vocabulary.marks.items()}
        known = token < len(vocabulary.pieces)  # a table of words may have more rows than there are words
        data = names.get(token) or (vocabulary.pieces[token] if known else b"")
        told = float("nan") if self.faults.nan else logprob
        return {"token": data.decode("utf-8", "replace"), "bytes": list(data), "logprob": told, "top_logprobs": []}

    def top(self, ids: list[int], encoded: list[Any], count: int) -> list[dict[str, Any]]:
        if not count:
            return []
        backbone, embedded = self.backbone, self.embedded(ids, encoded)
        with torch.inference_mode():
            states = backbone.model.model.language_model(inputs_embeds=embedded).last_hidden_state[0, -1]
            scores = backbone.model.get_output_embeddings()(states).float().log_softmax(-1).topk(count)
        return [self.entry(int(i), float(p)) for p, i in zip(scores.values, scores.indices, strict=True)]

    def embedded(self, ids: list[int], encoded: list[Any]) -> torch.Tensor:
        backbone = self.backbone
        embedded: torch.Tensor = backbone.model.get_input_embeddings()(torch.tensor([ids]))
        places = torch.tensor(ids) == backbone.model.config.image_token_id
        if encoded:
            embedded[0, places] = torch.cat([each.tokens_TC for each in encoded])
        return embedded

    def read(self, body: dict[str, Any]) -> tuple[list[Any], list[Image.Image], list[int | None], str, str | None]:
        messages = list(body["messages"])
        system = messages.pop(0)["content"] if messages[0]["role"] == "system" else None
        begun = messages.pop()["content"] if messages[-1]["role"] == "assistant" else ""
        if begun and self.dialect in ("vllm", "sglang"):
            assert body["continue_final_message"] is True
        turns: list[Any] = []
        images: list[Image.Image] = []
        most: list[int | None] = []
        shared = body.get("max_dynamic_patch") if self.dialect == "sglang" else None
        if self.dialect == "vllm":
            shared = (body.get("mm_processor_kwargs") or {}).get("max_dynamic_patch")
        for message in messages:
            if message["role"] == "assistant":
                turns[-1] = (turns[-1][0], message["content"])
                continue
            parts = message["content"]
            question = ""
            for part in [{"type": "text", "text": parts}] if isinstance(parts, str) else parts:
                if part["type"] == "image_url":
                    data = base64.b64decode(part["image_url"]["url"].partition(",")[2])
                    images.append(Image.open(io.BytesIO(data)).convert("RGB"))
                    own = part["image_url"].get("max_dynamic_patch") if self.dialect == "lmdeploy" else None
                    most.append(own or shared)
                    question += "<image>\n"
                else:
                    question += part["text"]
            turns.append((question, None))
        return turns, images, most, begun, system

    def options(self, body: dict[str, Any]) -> GenerationOptions:
        settings: dict[str, Any] = {"max_new_tokens": body["max_tokens"], "max_repeats": None}
        settings["repetition_penalty"] = body.get("repetition_penalty", 1.05)  # as a checkpoint may say
        settings["stop"] = tuple(body.get("stop") or ())
        greedy = body.get("temperature", 1.0) == 0 or body.get("top_k") == 1
        if not greedy:
            drawn = {name: body[name] for name in ("temperature", "top_p", "seed") if name in body}
            settings |= {"do_sample": True, "top_k": max(0, body.get("top_k", 40)), **drawn}
        return GenerationOptions(**settings)

    def constraint(self, body: dict[str, Any]) -> Constraint | None:
        form = body.get("response_format") or {}
        if form.get("type") == "json_schema":
            schema = form["json_schema"]["schema"]
            return json_constraint(self.backbone.tokenizer, schema, self.backbone.end_ids)
        pattern = {
            "vllm": (body.get("structured_outputs") or {}).get("regex"),
            "sglang": body.get("regex"),
            "lmdeploy": form.get("regex_schema"),
        }.get(self.dialect)
        return None if pattern is None else Pattern(self.backbone, pattern)


async def _endless() -> AsyncIterator[bytes]:
    yield b'{"choices": "'
    while True:
        yield b"x" * 2**20
        await asyncio.sleep(0)


class Pattern(Constraint):
    """Answers that a regular expression matches, letter by letter; special tokens are no letters."""

    def __init__(self, backbone: Backbone, pattern: str) -> None:
        self.pieces = vocabulary_of(backbone.tokenizer).pieces
        self.end_ids = backbone.end_ids
        self.pattern = regex.compile(pattern)

    def start(self) -> ConstraintState:
        return _PatternState(self)


class _PatternState(ConstraintState):
    def __init__(self, pattern: Pattern) -> None:
        self._pattern = pattern
        self._text = b""

    @property
    def complete(self) -> bool:
        return self._pattern.pattern.fullmatch(self._text.decode("utf-8", "replace")) is not None

    def mask(self, scores_V: torch.Tensor) -> torch.Tensor:
        kept = torch.full_like(scores_V, -torch.inf)
        complete = self.complete
        for token in scores_V.argsort(descending=True).tolist():
            piece = self._pattern.pieces[token] if token < len(self._pattern.pieces) else b""
            ends = token in self._pattern.end_ids
            said = (self._text + piece).decode("utf-8", "replace")
            if (ends and complete) or (piece and not ends and self._pattern.pattern.fullmatch(said, partial=True)):
                kept[token] = scores_V[token]
                break  # greedy: the best is enough
        return kept

    def accept(self, token: int) -> None:
        if token not in self._pattern.end_ids:
            self._text += self._pattern.pieces[token]


@contextmanager
def running(engine: FakeEngine) -> Iterator[str]:
    """Serve on a free port; gives the address."""
    config = uvicorn.Config(engine.app(), host="127.0.0.1", port=0, log_level="error", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            threading.Event().wait(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
