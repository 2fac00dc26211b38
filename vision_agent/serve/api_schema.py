"""`/openapi.json`: what may be asked for and what comes back, from the very models that read requests and results."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from vision_agent._distribution import DISTRIBUTION
from vision_agent.serve.chat_reply import ChatChunk, ChatCompletion, ModelList, Refusal
from vision_agent.serve.chat_request import ChatRequest
from vision_agent.serve.document_page import DOCUMENT_PAGE_PATH, DocumentPage, DocumentPageRequest
from vision_agent.serve.moondream_endpoint import MOONDREAM_PATHS, MoondreamRequest
from vision_agent.serve.responses_reply import ModelResponse
from vision_agent.serve.responses_request import ResponsesRequest
from vision_agent.serve.roboflow_endpoint import (
    BOXES_PATH,
    MASKS_PATH,
    RoboflowBoxesRequest,
    RoboflowMasksRequest,
)
from vision_agent.serve.verb_endpoint import VerbEndpoint

_REF = "#/components/schemas/{model}"
_TEXT = {"type": "string"}
_JOB = {
    "type": "object",
    "properties": {
        "id": _TEXT,
        "status": {"enum": ["queued", "running", "done", "failed", "cancelled"]},
        "result": {"description": "what the request would have got at once"},
        "error": {"$ref": _REF.format(model="Reason")},
        "kept_seconds": {"type": "number"},
    },
    "required": ["id", "status"],
}
ROBOFLOW: Mapping[str, type[BaseModel]] = {BOXES_PATH: RoboflowBoxesRequest, MASKS_PATH: RoboflowMasksRequest}
"""What Roboflow's client sends, by path."""
_KEY = {"type": "http", "scheme": "bearer"}


class _Quiet(GenerateJsonSchema):
    """Of defaults that JSON has no words for, nothing is said."""

    ignored_warning_kinds = frozenset({"skipped-choice", "non-serializable-default"})  # type: ignore[assignment]


def api_schema(verbs: Sequence[VerbEndpoint]) -> dict[str, Any]:
    """Return the description of the server in OpenAPI 3.1."""
    asked = [(endpoint.model, "validation") for endpoint in verbs]
    results = dict.fromkeys((result, "serialization") for endpoint in verbs for result in endpoint.form.results)
    chat = [(ChatRequest, "validation"), *((each, "serialization") for each in (ChatCompletion, ChatChunk, ModelList))]
    pages = [(DocumentPageRequest, "validation"), (DocumentPage, "serialization")]
    responses = [(ResponsesRequest, "validation"), (ModelResponse, "serialization")]
    wanted: Any = [
        *responses,
        *((model, "validation") for model in ROBOFLOW.values()),
        *asked,
        *results,
        *chat,
        *pages,
        (MoondreamRequest, "validation"),
        (Refusal, "serialization"),
    ]
    refs, defined = models_json_schema(wanted, ref_template=_REF, schema_generator=_Quiet)
    schemas = defined["$defs"]
    if "Mask" in schemas:
        schemas["Mask"] = _masks(schemas["Mask"])
    paths: dict[str, Any] = {
        "/v1/chat/completions": {"post": _chat(refs)},
        "/v1/responses": {"post": _responses(refs)},
        "/v1/models": {"get": _got("List the model.", _json(refs[ModelList, "serialization"]))},
        "/health/live": {"get": _got("Say whether the process lives.", _json({"type": "object"}))},
        "/health/ready": {"get": _got("Say whether requests are taken.", _json({"type": "object"}))},
        "/metrics": {"get": _got("Give counts for Prometheus.", {"text/plain": {"schema": _TEXT}})},
    }
    job = {"name": "id", "in": "path", "required": True, "schema": _TEXT}
    paths["/v1/jobs/{id}"] = {
        "parameters": [job],
        "get": _got("Say how a job is, with its result once it is done.", _json(_JOB)),
        "delete": _got("Give a job up.", _json(_JOB)),
    }
    for path, model in ROBOFLOW.items():
        told = _got("Answer Roboflow's client.", _json({"type": "object"}))
        paths[path] = {"post": {**told, "requestBody": _body(_json(refs[model, "validation"]))}}
    asked_page = refs[DocumentPageRequest, "validation"]
    paths[DOCUMENT_PAGE_PATH] = {
        "post": {
            **_got("Draw one page of a document.", _json(refs[DocumentPage, "serialization"])),
            "operationId": "document_page",
            "requestBody": _body({**_json(asked_page), "multipart/form-data": {"schema": asked_page}}),
        }
    }
    for path in MOONDREAM_PATHS:
        told = _got("Answer moondream's client.", _json({"type": "object"}))
        paths[path] = {"post": {**told, "requestBody": _body(_json(refs[MoondreamRequest, "validation"]))}}
    for endpoint in verbs:
        one = [refs[result, "serialization"] for result in endpoint.form.results]
        result = one[0] if len(one) == 1 else {"anyOf": one}
        if endpoint.form.several is not None:
            result = {"anyOf": [*one, {"type": "array", "items": result}]}
        if endpoint.form.name == "generate":  # several images are one result of their own
            result = {"anyOf": [*one, {"type": "object", "properties": {"kind": {"const": "generated_images"}}}]}
        request = refs[endpoint.model, "validation"]
        paths[endpoint.form.path] = {
            "post": {
                **_got(endpoint.form.summary, _json(result)),
                "operationId": endpoint.form.name,
                "parameters": [{"name": "prefer", "in": "header", "schema": {"const": "respond-async"}}],
                "requestBody": _body({**_json(request), "multipart/form-data": {"schema": request}}),
            }
        }
    return {
        "openapi": "3.1.0",
        "info": {"title": "vision-agent", "version": version(DISTRIBUTION)},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"key": _KEY}},
        "security": [{"key": []}, {}],
    }


def _chat(refs: Any) -> dict[str, Any]:
    chunks = {"text/event-stream": {"schema": refs[ChatChunk, "serialization"]}}
    told = _got("Answer a chat.", {**_json(refs[ChatCompletion, "serialization"]), **chunks})
    return {**told, "operationId": "chat", "requestBody": _body(_json(refs[ChatRequest, "validation"]))}


def _responses(refs: Any) -> dict[str, Any]:
    events = {"text/event-stream": {"schema": {"type": "object", "description": "OpenAI's events of a response"}}}
    told = _got("Answer text and images, or call tools.", {**_json(refs[ModelResponse, "serialization"]), **events})
    body = _body(_json(refs[ResponsesRequest, "validation"]))
    return {**told, "operationId": "responses", "requestBody": body}


def _masks(runs: dict[str, Any]) -> dict[str, Any]:
    """A mask in each of the forms that `masks` chooses from."""
    size = runs["properties"]["size"]
    ring = {"type": "array", "items": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}}
    parts = {"type": "array", "items": {"type": "array", "items": ring}}
    image = {"type": "string", "contentEncoding": "base64", "contentMediaType": "image/png"}
    forms = [_only(size=size, polygons=parts), _only(size=size, png=image)]
    return {"title": "Mask", "description": runs.get("description", ""), "anyOf": [runs, *forms]}


def _only(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _body(content: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": content}


def _got(summary: str, content: dict[str, Any]) -> dict[str, Any]:
    refused = {"description": "Why not.", "content": _json({"$ref": _REF.format(model="Refusal")})}
    return {"summary": summary, "responses": {"200": {"description": "Done.", "content": content}, "default": refused}}
