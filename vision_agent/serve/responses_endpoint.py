"""OpenAI's responses, `/v1/responses`: the chat endpoint's answers in the newer form. Nothing is stored."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vision_agent.serve.bodies import read_json
from vision_agent.serve.chat_endpoint import ChatEndpoint
from vision_agent.serve.event_stream import EventStream
from vision_agent.serve.problems import Problem
from vision_agent.serve.responses_reply import ResponseReply
from vision_agent.serve.responses_request import ResponsesRequest


class ResponsesEndpoint:
    """Answers requests for responses with a chat endpoint."""

    def __init__(self, chat: ChatEndpoint) -> None:
        self._chat = chat

    async def answer(self, request: Request) -> Response:
        """Answer `/v1/responses`."""
        asked = await read_json(request, ResponsesRequest)
        try:
            chat = asked.as_chat()
            reply = ResponseReply(asked)
            if not asked.stream:
                return JSONResponse(reply.whole(await self._chat.whole(request, chat)))
            chunks = self._chat.events(request, chat)
            first = await anext(chunks)  # what goes wrong until then is a response with its status
        except Problem as problem:
            raise asked.named_here(problem) from problem
        events = self._streamed(reply, first, chunks)
        return EventStream(await anext(events), events, named=True)

    async def _streamed(
        self, reply: ResponseReply, first: str, chunks: AsyncGenerator[str, None]
    ) -> AsyncGenerator[str, None]:
        for event in reply.beginning():
            yield event
        async with aclosing(chunks) as others:
            for event in reply.taken(first):
                yield event
            async for chunk in others:
                for event in reply.taken(chunk):
                    yield event
