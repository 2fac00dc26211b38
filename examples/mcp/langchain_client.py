"""The tools over MCP as LangChain tools: langchain-mcp-adapters opens a session for every call, and the ids survive.

    vision-agent mcp --http 8000 --root examples/photos --share token --images inline      # in one terminal
    pip install langchain-mcp-adapters                        # in an environment of its own: it wants mcp 1.x
    python examples/mcp/langchain_client.py http://127.0.0.1:8000/mcp

`--share token` keeps the images for all sessions that carry the same token; `--images inline` sends new images in a
form that every hosted model takes. Give the tools to any agent: `create_agent("openai:gpt-5", tools)`.
"""

import asyncio
import json
import secrets
import sys
from typing import Any

from langchain_mcp_adapters.client import MultiServerMCPClient


async def look_closely(url: str, token: str, photo: str, phrase: str) -> list[dict[str, Any]]:
    """Find an object, cut it out and describe the cut-out; return what each call gave."""
    headers = {"Authorization": f"Bearer {token}"}
    client = MultiServerMCPClient({"vision": {"transport": "streamable_http", "url": url, "headers": headers}})
    tools = {tool.name: tool for tool in await client.get_tools()}
    results: list[dict[str, Any]] = []

    async def call(name: str, **arguments: Any) -> dict[str, Any]:
        request = {"name": name, "args": arguments, "id": f"{name}-1", "type": "tool_call"}
        message = await tools[name].ainvoke(request)
        text = next(block["text"] for block in message.content if block["type"] == "text")
        if message.status == "error":
            raise RuntimeError(text)
        results.append(json.loads(text))
        return results[-1]

    found = await call("detect", image=photo, phrases=[phrase])
    cut = await call("crop", image=found["image"], box=found["items"][0]["box"], padding=0.1)
    await call("caption", image=cut["images"][0], length="short")
    return results


if __name__ == "__main__":
    address = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/mcp"
    for result in asyncio.run(look_closely(address, secrets.token_urlsafe(24), "000000139872.jpg", "dog")):
        print(json.dumps(result))
