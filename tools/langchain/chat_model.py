"""`ChatVision`: an InternVL as a LangChain chat model.

It reads text and images, streams, calls tools and fills schemas. Tool calls and structured answers are written under
a grammar, so their JSON is always valid, whatever the checkpoint was trained for: with tools bound, an answer is
`{"tool": name, "arguments": {...}}` or `{"answer": text}` and nothing else. One call in each answer. Extra `langchain`.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field

from vision_agent.aio import in_thread
from vision_agent.errors import InputError, MissingExtraError, bad_argument, first_line
from vision_agent.generation.json_schema import prepare_schema
from vision_agent.images.store import ImageStore

try:
    from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
    from langchain_core.language_models import BaseChatModel, LanguageModelInput
    from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
    from langchain_core.messages.tool import tool_call_chunk
    from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
    from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
    from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
    from langchain_core.tools import BaseTool
    from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
    from langchain_core.utils.pydantic import TypeBaseModel
except ImportError as error:
    raise MissingExtraError(
        '`ChatVision` needs langchain-core: pip install "internvl-vision-agent[langchain]"'
    ) from error

if TYPE_CHECKING:
    from vision_agent.generation.options import GenerationOptions
    from vision_agent.planning.formed_answer import FormedRequest
    from vision_agent.results.answers import Answer


class ChatVision(BaseChatModel):
    """The language model of a `VisionAgent` as a LangChain chat model.

    Images in messages may be image blocks with `base64`, a `data:` address, an https address where the agent's
    `image_limits` allow it, or a `file_id` that is an id of `store`.

    Example:
        >>> ChatVision(agent=VisionAgent()).invoke("hello").text

    Attributes:
        agent: the `VisionAgent`.
        store: where images are looked up; None for a new session.
        max_tokens: most tokens of an answer.
        temperature: above 0, answers are sampled.
        seed: of sampling.
        stop: texts at which an answer ends.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    agent: Any = Field(repr=False)
    store: ImageStore | None = Field(default=None, repr=False)
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0)
    seed: int | None = None
    stop: list[str] | None = None

    @property
    def model_name(self) -> str:
        """Name of the checkpoint."""
        name: str = self.agent.model
        return name

    @property
    def _llm_type(self) -> str:
        return "vision-agent"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        settings = {"max_tokens": self.max_tokens, "temperature": self.temperature, "seed": self.seed}
        return {"model_name": self.model_name, **settings}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        params = super()._get_ls_params(stop=stop, **kwargs)
        return {**params, "ls_provider": "vision_agent", "ls_model_name": kwargs.get("model", self.model_name)}

    # --- answering

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        message = _message(self._answered(messages, stop, kwargs), bool(kwargs.get("tools")))
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return await in_thread(lambda: self._generate(messages, stop, **kwargs))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        """Free text as it is written; what has a form comes as one chunk, since half a JSON is of no use."""
        if kwargs.get("tools") or kwargs.get("schema"):
            whole = _message(self._answered(messages, stop, kwargs), bool(kwargs.get("tools")))
            yield _chunk(whole, whole.text, run_manager)
            return
        from vision_agent.results.events import AnswerDone, TextDelta

        asked = self._prepared(messages, stop, kwargs)
        for event in self.agent.answer_pipeline.stream(asked.conversation, asked.options, form=asked.form):
            if isinstance(event, TextDelta):
                chunk = ChatGenerationChunk(message=AIMessageChunk(content=event.text))
                if run_manager is not None:
                    run_manager.on_llm_new_token(event.text, chunk=chunk)
                yield chunk
            elif isinstance(event, AnswerDone):
                yield _chunk(_message(event.answer, False), "", run_manager)

    def _answered(self, messages: Sequence[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]) -> "Answer":
        asked = self._prepared(messages, stop, kwargs)
        answer: Answer = self.agent.answer_pipeline.answers([asked.conversation], asked.options, form=asked.form)[0]
        return answer

    def _prepared(
        self, messages: Sequence[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]
    ) -> "FormedRequest":
        from vision_agent.planning.formed_answer import FormedRequest

        from .messages import conversation_of

        tools, schema = kwargs.get("tools") or [], kwargs.get("schema")
        store = self.store if self.store is not None else ImageStore(limits=self.agent.image_limits)
        return FormedRequest.of(
            self.agent.backbone,
            lambda preface: conversation_of(messages, store, preface),
            self._options(stop, bool(tools or schema), kwargs),
            tools=tools,
            choice=kwargs.get("tool_choice"),
            schema=schema or None,
        )

    def _options(self, stop: list[str] | None, formed: bool, kwargs: dict[str, Any]) -> "GenerationOptions":
        from vision_agent.generation.options import GenerationOptions
        from vision_agent.planning.formed_answer import FORMED_TOKENS

        settings: dict[str, Any] = {"stop": () if formed else tuple(stop or self.stop or ())}
        tokens = kwargs.get("max_tokens", self.max_tokens) or (FORMED_TOKENS if formed else None)
        if tokens is not None:
            settings["max_new_tokens"] = tokens
        if temperature := kwargs.get("temperature", self.temperature):
            settings |= {"do_sample": True, "temperature": temperature, "seed": kwargs.get("seed", self.seed)}
        return GenerationOptions(**settings)

    # --- tools and schemas

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Return the model with tools that it may call, one call in each answer.

        Args:
            tools: as for any LangChain chat model.
            tool_choice: None or "auto" to leave it to the model, "any" or "required" for a call of some tool, a name
                for a call of that one, "none" for words.

        Raises:
            InputError: a choice that is none of these, or what is no tool.
        """
        formatted = [_formatted(tool) for tool in tools]
        names = [tool["function"]["name"] for tool in formatted]
        if tool_choice in (None, "auto", False):
            return super().bind(tools=formatted, **kwargs)
        if tool_choice == "none":
            return super().bind(**kwargs)
        if isinstance(tool_choice, dict):  # OpenAI's own form
            tool_choice = tool_choice.get("function", {}).get("name")
        if tool_choice in ("any", "required", True):
            return super().bind(tools=formatted, tool_choice="any", **kwargs)
        if tool_choice not in names:
            raise InputError(bad_argument("tool_choice", f"'auto', 'any', 'none' or one of {names}", tool_choice))
        return super().bind(tools=formatted, tool_choice=tool_choice, **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        include_raw: bool = False,
        method: Literal["json_schema", "function_calling", "json_mode"] = "json_schema",
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """Return the model with answers that follow a schema; see `BaseChatModel.with_structured_output`.

        All methods are the same here: the answer is written under the schema's grammar.

        Raises:
            InputError: other arguments.
        """
        if kwargs:
            raise InputError(f"`with_structured_output` takes no {sorted(kwargs)}")
        as_json = _as_json(schema)
        own = schema if isinstance(schema, type) and issubclass(schema, BaseModel) else as_json
        ls_format = {"kwargs": {"method": method}, "schema": as_json}
        model = self.bind(schema=own, ls_structured_output_format=ls_format)
        parser: Runnable[Any, Any] = JsonOutputParser()
        if isinstance(schema, type) and hasattr(schema, "parse_obj"):  # a model of either version of Pydantic
            pydantic_object: TypeBaseModel = schema
            parser = PydanticOutputParser(pydantic_object=pydantic_object)
        if not include_raw:
            return model | parser
        parsed = RunnablePassthrough.assign(parsed=lambda found: parser.invoke(found["raw"]), parsing_error=_no_error)
        failed = RunnablePassthrough.assign(parsed=_no_error)
        return RunnableMap(raw=model) | parsed.with_fallbacks([failed], exception_key="parsing_error")


def _formatted(tool: Any) -> dict[str, Any]:
    """A tool as OpenAI has it, with parameters that a grammar can be made of."""
    expected = "tools: of LangChain, functions with hints, Pydantic models, or dicts as OpenAI has them"
    try:
        made = convert_to_openai_tool(tool)
    except Exception as error:  # LangChain lets nearly everything through, by what it trips over
        raise InputError(f"{bad_argument('tools', expected, tool)}: {first_line(error)}") from error
    function = made.get("function") if isinstance(made, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InputError(bad_argument("tools", expected, tool))
    if function.get("parameters"):
        prepare_schema(function["parameters"])
    return made


def _as_json(schema: Any) -> dict[str, Any]:
    try:
        return convert_to_json_schema(schema)
    except Exception as error:  # as above
        expected = "a Pydantic model, a typed dict, or a JSON schema with a title"
        raise InputError(f"{bad_argument('schema', expected, schema)}: {first_line(error)}") from error


def _no_error(found: Any) -> None:
    return None


def _message(answer: "Answer", with_tools: bool) -> AIMessage:
    """The answer as a message; with tools, its JSON becomes a call or words."""
    from vision_agent.planning.formed_answer import read_said

    usage = {
        "input_tokens": answer.prompt_tokens,
        "output_tokens": answer.completion_tokens,
        "total_tokens": answer.prompt_tokens + answer.completion_tokens,
    }
    metadata = {
        "model_name": answer.model,
        "model_provider": "vision_agent",
        "finish_reason": answer.finish_reason,
        "confidence": answer.confidence,
        "warnings": list(answer.warnings),
    }
    said = read_said(answer, with_tools)
    if said.tool is None:
        return AIMessage(content=said.text, usage_metadata=usage, response_metadata=metadata)
    call = {"name": said.tool, "args": said.arguments, "id": f"call_{uuid4().hex[:12]}", "type": "tool_call"}
    return AIMessage(content="", tool_calls=[call], usage_metadata=usage, response_metadata=metadata)


def _chunk(whole: AIMessage, text: str, run_manager: CallbackManagerForLLMRun | None) -> ChatGenerationChunk:
    """The last chunk of a stream: `text`, and all of the message that is not text."""
    chunk = ChatGenerationChunk(
        message=AIMessageChunk(
            content=text,
            tool_call_chunks=[
                tool_call_chunk(name=call["name"], args=json.dumps(call["args"]), id=call["id"], index=index)
                for index, call in enumerate(whole.tool_calls)
            ],
            usage_metadata=whole.usage_metadata,
            response_metadata=whole.response_metadata,
            chunk_position="last",
        )
    )
    if run_manager is not None:
        run_manager.on_llm_new_token(text, chunk=chunk)
    return chunk
