"""A LangChain agent over a folder of photos.

    python examples/langchain_photos.py "how many dogs are there?" [--folder examples/photos] [--model openai:gpt-5]

`--model` is any chat model that LangChain's `init_chat_model` knows; it plans, the tools look. Without it a stand-in
plans, which needs no key and no network: it asks `count` about every photo, all in one step, and adds up. Needs
`pip install ".[langchain]" langchain` in a clone.
"""

import argparse
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable

from vision_agent import ImageStore, VisionAgent

PHOTOS = Path(__file__).parent / "photos"


class StandIn(BaseChatModel):
    """Plans one kind of request, "how many ...", over the photos that the request lists."""

    @property
    def _llm_type(self) -> str:
        return "stand-in"

    def bind_tools(
        self, tools: Sequence[Any], *, tool_choice: str | None = None, **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        return self.bind()  # type: ignore[return-value]

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        counted = [json.loads(message.text) for message in messages if isinstance(message, ToolMessage)]
        if counted:
            total = sum(each["count"] for each in counted)
            reply = AIMessage(f"{total} in {sum(each['count'] > 0 for each in counted)} of {len(counted)} photos")
        else:
            request = next(message.text for message in messages if isinstance(message, HumanMessage))
            wanted = re.search(r"how many (.+?)s? (?:are|is|do)\b", request, re.IGNORECASE)
            calls: list[Any] = [
                {"name": "count", "args": {"image": name, "phrase": wanted[1]}, "id": name, "type": "tool_call"}
                for name in re.findall(r"[\w.-]+\.jpg", request)
                if wanted
            ]
            reply = AIMessage("" if calls else "I can only count objects.", tool_calls=calls)
        return ChatResult(generations=[ChatGeneration(message=reply)])


def answer(
    question: str, agent: VisionAgent, folder: Path, model: BaseChatModel, show: Callable[[str], None] = print
) -> str:
    """Return the answer to a question about all photos of a folder; `show` is told of every step."""
    store = ImageStore(roots=[folder])  # nothing outside of the folder can be read
    planner = create_agent(model, agent.tools(["count", "detect", "ask", "crop"], store=store))
    names = ", ".join(sorted(path.name for path in folder.glob("*.jpg")))
    last = ""
    for step in planner.stream({"messages": [HumanMessage(f"{question}\nThe photos are: {names}")]}):
        for node in step.values():
            for message in node["messages"]:
                calls = [f"{call['name']}({call['args']})" for call in getattr(message, "tool_calls", [])]
                last = message.text
                for line in [*calls, *([last] if last else [])]:
                    show(line)
    return last


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("question", nargs="?", default="how many dogs are there?")
    parser.add_argument("--folder", type=Path, default=PHOTOS)
    parser.add_argument("--model", help="a chat model as `init_chat_model` names it; needs its package and key")
    options = parser.parse_args()
    model: BaseChatModel = StandIn()
    if options.model:
        from langchain.chat_models import init_chat_model

        model = init_chat_model(options.model)
    answer(options.question, VisionAgent(), options.folder, model)


if __name__ == "__main__":
    main()
