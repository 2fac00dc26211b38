"""Routes through the hidden states of a remote engine: towers and decoders here, the language model there.

SGLang is given the embeddings of the whole prompt, with the image tokens of the tower here (`/generate` with
`return_hidden_states`); vLLM a chat whose answer is the phrase, and the routing token with its queries as embeddings
(`/pooling` with the task `token_embed`, which only an engine started with `--runner pooling` has). So the engine needs
no row of the adapter. It is causal: only routes whose states a causal model computes can be read.

Engines give states before or after the final norm. Normed ones have a mean square of one where the norm's weights are
taken out, so each answer tells which it has.

Shape suffixes: L tokens, C hidden size, K phrases, N states of each.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vision_agent.errors import AnswerError, EngineError
from vision_agent.generation.options import GenerationOptions
from vision_agent.inference.conversation import Conversation
from vision_agent.inference.engine import InferenceEngine
from vision_agent.inference.image_cache import CachedImage
from vision_agent.model.checkpoint import load_without_layers
from vision_agent.plugins.route import RouteSpec
from vision_agent.remote.dialects import ChatAsked, request_body
from vision_agent.remote.engine_info import EngineInfo
from vision_agent.remote.http_client import EngineClient
from vision_agent.routing.adapter import Route, load_adapter
from vision_agent.routing.layout import Span, state_columns
from vision_agent.routing.states import FORCED_REQUEST

_NORMED = 0.1  # how far the mean square of normed states may be from one; half precision is far within
_ONE = GenerationOptions(max_new_tokens=1)


def is_causal(spec: RouteSpec) -> bool:
    """Return whether an engine, which lets no token see a later one, computes the states of a route."""
    return spec.read != "queries" or spec.num_queries == 1 or spec.block == "causal"


def load_sight(
    source: str | Path, folders: Sequence[str | Path], *, local_files_only: bool
) -> tuple[InferenceEngine, dict[str, Route]]:
    """Load what routes need here: the image tower, the tables of words, the final norm and the adapters.

    The layers of the language model are not loaded.

    Raises:
        CheckpointError, AdapterMismatchError: what cannot be loaded, or was trained on another model.
    """
    backbone = load_without_layers(source, local_files_only=local_files_only)
    routes = {route.spec.name: route for route in (load_adapter(folder, backbone) for folder in folders)}
    return InferenceEngine(backbone, routes), routes


class RemoteStates:
    """Reads the states of forced routes from an engine.

    Args:
        client: where states are asked for.
        sight: tower and tables.
        routes: by name.
        system: the system message of prompts.
    """

    def __init__(
        self,
        client: EngineClient,
        info: EngineInfo,
        sight: InferenceEngine,
        routes: Mapping[str, Route],
        system: str | None,
    ) -> None:
        self.sight, self.routes = sight, routes
        self._client, self._info, self._system = client, info, system

    def forced(self, route: Route, phrase: str, image: CachedImage) -> Tensor:
        """Return the states (N, C), fp32, of a route forced for a phrase on an image.

        Raises:
            EngineError, BusyError: no answer, or one without states of this model's width.
            AnswerError: states that are NaN or infinite.
        """
        backbone, phrase = self.sight.backbone, route.asked(phrase)
        lead = (*backbone.text_ids(phrase), route.token_id)
        queries = route.queries.weight if route.spec.read == "queries" else None
        count = len(lead) + (0 if queries is None else len(queries))
        with torch.inference_mode():
            if self._info.kind == "sglang":
                found_LC = self._generated(image, lead, queries)
            else:
                found_LC = self._pooled(phrase, route, image, queries)
            if len(found_LC) < route.spec.states_per_token + (route.spec.read == "prev"):
                raise self._client.error(
                    f"gave {len(found_LC)} hidden states for a prompt that ends with {count} tokens"
                )
            last_LC = found_LC[state_columns(route.spec, Span(0, 0, 0, len(found_LC)))]
            return normed(last_LC.to(backbone.device), backbone.model.model.language_model.norm)

    def _generated(self, image: CachedImage, lead: Sequence[int], queries: Tensor | None) -> Tensor:
        backbone = self.sight.backbone
        tokens_TC = image.encoded.tokens_TC
        ids = [*backbone.prompt_ids(FORCED_REQUEST, [len(tokens_TC)]), *lead]
        embeds_LC = backbone.embed(torch.tensor([ids], device=backbone.device), tokens_TC)[0]
        if queries is not None:
            embeds_LC = torch.cat([embeds_LC, queries.to(embeds_LC)])
        body = {
            "input_embeds": embeds_LC.float().tolist(),
            "sampling_params": {"max_new_tokens": 1, "temperature": 0.0},
            "return_hidden_states": "last" if queries is None or len(queries) == 1 else True,
        }
        reply = self._client.post("/generate", body)
        told = reply.get("meta_info") if isinstance(reply, dict) else None
        states = told.get("hidden_states") if isinstance(told, dict) else None
        # Those of the prompt come first; a token that was written, whose state nobody asked for, may have its own.
        first = states[0] if isinstance(states, list) and states else None
        return self._checked(first if isinstance(first, list) and first and isinstance(first[0], list) else states)

    def _pooled(self, phrase: str, route: Route, image: CachedImage, queries: Tensor | None) -> Tensor:
        backbone = self.sight.backbone
        asked = ChatAsked(Conversation.build(FORCED_REQUEST, [image.image]), _ONE, self._system, begun=phrase)
        whole = request_body("vllm", self._info.model, asked)
        row_1C = backbone.model.get_input_embeddings().weight[route.token_id][None]
        block = row_1C if queries is None else torch.cat([row_1C, queries.to(row_1C)])
        answer = [
            {"type": "text", "text": phrase},
            {"type": "prompt_embeds", "prompt_embeds": packed(block)},
        ]
        messages = [*whole["messages"][:-1], {"role": "assistant", "content": answer}]
        kept = ("model", "mm_processor_kwargs", "continue_final_message", "add_generation_prompt")
        body: dict[str, Any] = {name: whole[name] for name in kept if name in whole}
        body |= {"messages": messages, "task": "token_embed", "encoding_format": "float", "use_activation": False}
        reply = self._client.post("/pooling", body)
        data = reply.get("data") if isinstance(reply, dict) else None
        first = data[0] if isinstance(data, list) and data else None
        return self._checked(first.get("data") if isinstance(first, dict) else None)

    def _checked(self, states: object) -> Tensor:
        return checked_states(self._client, states, self.sight.backbone.hidden_size)


def checked_states(client: EngineClient, states: object, width: int) -> Tensor:
    """Return what an engine gave as states (L, C).

    Raises:
        EngineError: no states, or those of another width.
        AnswerError: NaN or infinite ones.
    """
    if not isinstance(states, list) or not states or not all(isinstance(row, list) for row in states):
        raise client.error("gave no hidden states, or not as a list of numbers for each token")
    if {len(row) for row in states} != {width}:
        sizes = sorted({len(row) for row in states})
        raise client.error(f"gave hidden states of width {sizes[0]}, not {width}: it runs another checkpoint")
    try:
        found_LC = torch.tensor(states, dtype=torch.float32)
    except (TypeError, ValueError) as error:
        raise client.error("gave hidden states that are no numbers") from error
    if not bool(found_LC.isfinite().all()):
        raise AnswerError(
            f"the engine at {client.url} gave hidden states that are NaN or infinite (an overflow in half precision); "
            "start it with another `dtype`",
            "",
        )
    return found_LC


def normed(states_LC: Tensor, norm: Any) -> Tensor:
    """Return states after the final norm, whichever an engine gave."""
    weight_C = norm.weight.float()
    used_C = weight_C.abs() > 1e-6
    square_L = (states_LC[:, used_C] / weight_C[used_C]).square().mean(dim=-1)
    if bool(((square_L - 1).abs() < _NORMED).all()):
        return states_LC
    found: Tensor = norm(states_LC.to(norm.weight.dtype)).float()
    return found


def packed(tensor: Tensor) -> str:
    """Return a tensor as vLLM takes embeddings: torch's own file, in base64."""
    held = io.BytesIO()
    torch.save(tensor.detach().cpu().float().contiguous().clone(), held)
    return base64.b64encode(held.getvalue()).decode()


def probe_pooling(client: EngineClient, model: str, width: int) -> bool:
    """Return whether an engine of vLLM's gives the states of tokens. Raises EngineError for those of another width."""
    body: Mapping[str, Any] = {"model": model, "task": "token_embed", "input": "Hi", "encoding_format": "float"}
    try:
        reply = client.post("/pooling", body)
    except EngineError as error:
        if error.status not in (400, 404, 405, 422, 501):
            raise
        return False
    data = reply.get("data") if isinstance(reply, dict) else None
    first = data[0] if isinstance(data, list) and data else None
    checked_states(client, first.get("data") if isinstance(first, dict) else None, width)
    return True
