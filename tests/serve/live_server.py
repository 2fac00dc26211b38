"""A server on a free port of this machine, in a thread of this process, with the agent that all tests share.

What serving needs is imported when it is used: this is read before every test.
"""

import asyncio
import base64
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import openai

    from vision_agent import VisionAgent
    from vision_agent.serve.options import ServeOptions
    from vision_agent.serve.process import DrainingServer


@contextmanager
def serving(agent: "VisionAgent", options: "ServeOptions | None" = None, mcp: Any = None) -> Iterator[str]:
    """Serve as `vision-agent serve` does; gives the address."""
    from vision_agent.serve import listening, process
    from vision_agent.serve.options import ServeOptions

    bound = listening.listen("127.0.0.1", 0)
    begun: list[DrainingServer] = []
    work = process.serve(agent, options or ServeOptions(), bound, mcp, begun.append)
    thread = threading.Thread(target=asyncio.run, args=(work,))
    thread.start()
    try:
        yield listening.url_of(bound)
    finally:
        begun[0].stop()
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def url(agent: "VisionAgent") -> Iterator[str]:
    """The address of a server with the default settings."""
    with serving(agent) as address:
        yield address


@pytest.fixture(scope="session")
def client(url: str) -> "openai.OpenAI":
    """OpenAI's own client of that server."""
    import openai

    return openai.OpenAI(base_url=f"{url}/v1", api_key="none is needed", max_retries=0)


@pytest.fixture(scope="session")
def data_url(photo: Path) -> str:
    """The dog with the frisbee, as clients send it."""
    return f"data:image/jpeg;base64,{base64.b64encode(photo.read_bytes()).decode()}"
