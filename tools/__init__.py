"""The verbs as tools that language models call: plain Python, OpenAI and Anthropic definitions, LangChain.

`Toolkit` needs no framework. LangChain's forms are in `vision_agent.tools.langchain.tools` (extra `langchain`).
"""

from .builtin.detection import segment_tool
from .definitions import definition
from .toolkit import Toolkit

__all__ = ["Toolkit", "definition", "segment_tool"]
