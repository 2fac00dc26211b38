"""A program that uses the tools over MCP: it finds an object, cuts it out, looks again, and saves the cut-out.

    python examples/mcp/client.py [PHOTO] [PHRASE] [--out cut.png]      # starts `vision-agent mcp` itself, over stdio
    vision-agent mcp --http 8000 --root examples/photos                 # or a server of its own, in another terminal,
    python examples/mcp/client.py --url http://127.0.0.1:8000/mcp       # and the same client over HTTP

Every call is what a language model would write, and every result what it would read. Needs
`pip install ".[mcp]"` in a clone; runs with `mcp` 1.x and 2.x.
"""

import argparse
import asyncio
import base64
import json
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

PHOTO = Path(__file__).parents[1] / "photos" / "000000139872.jpg"


def stdio_server(folder: Path) -> AbstractAsyncContextManager[Any]:
    """A server of one's own, that may read one folder; `sys.executable` finds it in this environment."""
    words = ["-c", "from vision_agent.cli.main import main; main()", "mcp", "--root", str(folder)]
    return stdio_client(StdioServerParameters(command=sys.executable, args=words))


async def look_closely(
    transport: AbstractAsyncContextManager[Any], photo: str, phrase: str, show: Callable[[str], None] = print
) -> bytes | None:
    """Return the cut-out of the object with the highest score, as a PNG file, or None; `show` gets what comes back."""
    async with transport as streams, ClientSession(streams[0], streams[1]) as session:
        await session.initialize()

        async def call(tool: str, **arguments: Any) -> dict[str, Any]:
            answer = (await session.call_tool(tool, arguments)).model_dump(mode="json", by_alias=True)
            text = answer["content"][0]["text"]
            show(f"{tool}: {text}")
            if answer["isError"]:  # the text says what to do instead; a language model would try again
                raise RuntimeError(text)
            result: dict[str, Any] = json.loads(text)
            return result

        found = await call("detect", image=photo, phrases=[phrase])
        if not found["items"]:
            return None
        cut = await call("crop", image=found["image"], box=found["items"][0]["box"], padding=0.1)
        (new,) = cut["images"]
        await call("caption", image=new, length="short")
        address: Any = f"vision-agent://images/{new}"
        read = (await session.read_resource(address)).model_dump(mode="json", by_alias=True)
        return base64.b64decode(read["contents"][0]["blob"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photo", nargs="?", type=Path, default=PHOTO)
    parser.add_argument("phrase", nargs="?", default="dog")
    parser.add_argument("--url", help="of a server that runs already; it must be allowed to read the photo's folder")
    parser.add_argument("--out", type=Path, help="where the cut-out is written")
    options = parser.parse_args()
    transport = streamable_http_client(options.url) if options.url else stdio_server(options.photo.parent)
    png = asyncio.run(look_closely(transport, options.photo.name, options.phrase))
    if png is not None and options.out is not None:
        options.out.write_bytes(png)


if __name__ == "__main__":
    main()
