"""The verbs as tools that language models call: plain Python, OpenAI and Anthropic definitions, LangChain.

`Toolkit` needs no framework. LangChain's forms are in `vision_agent.tools.langchain` (extra `langchain`).
"""

from .definitions import definition
from .finding import segment_tool
from .toolkit import Toolkit

__all__ = ["Toolkit", "definition", "segment_tool"]
