"""Messages of a chat as a conversation that an InternVL reads: rounds of question and answer, with images.

System messages, the user's and tools' results make a question; what the assistant said, or the tool calls that it
wrote, make an answer. Images stand where their blocks stand.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from vision_agent.images.video import frame_prompt
from vision_agent.inference.conversation import Conversation
from vision_agent.model.prompt import PLACEHOLDER, Turn

_GO_ON = "Go on."  # where nobody asks, but an answer is due


@dataclass
class MessageRounds:
    """Rounds while messages are being read.

    Attributes:
        several: there is more than one image in all, so that they are numbered.
        preface: stands before the first question.
    """

    several: bool
    preface: str = ""
    _turns: list[Turn] = field(default_factory=list)
    _images: list[Image.Image] = field(default_factory=list)
    _tiles: list[int | None] = field(default_factory=list)
    _asked: list[str] = field(default_factory=list)  # parts of the question that has no answer yet
    _earlier: int = 0  # how many images came before that question

    def __post_init__(self) -> None:
        self._asked += [self.preface] if self.preface else []

    def show(self, image: Image.Image, max_tiles: int | None = None) -> str:
        """Add an image, upright RGB, and return the text that stands for it in its message."""
        self._images.append(image)
        self._tiles.append(max_tiles)
        return f"Image-{len(self._images)}: {PLACEHOLDER}\n" if self.several else f"{PLACEHOLDER}\n"

    def show_frames(self, frames: Sequence[Image.Image]) -> str:
        """Add the frames of a video, one tile each, and return the text that stands for them in its message."""
        self._images += frames
        self._tiles += [1] * len(frames)
        return frame_prompt(len(frames))

    def ask(self, text: str) -> None:
        """Add a message of the system or the user."""
        self._asked.append(text)

    def give(self, tool: str, text: str, *, failed: bool = False) -> None:
        """Add what a tool gave, or said of why it failed."""
        self._asked.append(f"The tool {tool} {'failed' if failed else 'gave this data'}: {text}")

    def answer(self, *parts: str) -> None:
        """Add what the assistant said, and the tool calls that it wrote (see `call_text`)."""
        text = "\n".join(part for part in parts if part) or "(nothing)"
        if not self._asked and self._turns:  # said in two messages
            question, before = self._turns[-1]
            self._turns[-1] = (question, f"{before}\n{text}")
            return
        self._turns.append(("\n".join(self._asked) or _GO_ON, text))
        self._asked = []
        self._earlier = len(self._images)

    def conversation(self) -> Conversation:
        """Return the rounds with the question that has no answer yet."""
        count = self._earlier
        earlier = Conversation(
            tuple(self._turns),
            tuple(self._images[:count]),
            tuple(self._tiles[:count]),
            places=(None,) * len(self._turns),
        )
        return Conversation.build(
            "\n".join(self._asked) or _GO_ON,
            self._images[count:],
            after=earlier,
            max_tiles=self._tiles[count:],
        )


def typed_text(text: str) -> str:
    """Return text that somebody typed, without placeholders: an `<image>` in it is no image."""
    return text.replace(PLACEHOLDER, "[image]")


def call_text(name: str, arguments: dict[str, Any]) -> str:
    """Return a tool call as the model writes it."""
    return json.dumps({"tool": name, "arguments": arguments}, ensure_ascii=False)


def tool_names(tools: Sequence[dict[str, Any]]) -> list[str]:
    """Return the names of tools, as OpenAI has them."""
    return [tool["function"]["name"] for tool in tools]
