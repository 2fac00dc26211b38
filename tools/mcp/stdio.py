"""MCP over stdin and stdout, of which stdout carries protocol and nothing else.

Libraries print: while they are imported, while a model is loaded, and from C. So the file descriptor of stdout is
pointed at stderr for as long as the process lives, and messages go out through a duplicate of the real one.
"""

import io
import os
import sys
from typing import Any, BinaryIO

import anyio
from mcp.server.stdio import stdio_server


def claim_stdout() -> BinaryIO:
    """Take the real stdout. Whatever is printed from now on, by anyone in this process, goes to stderr."""
    sys.stdout.flush()
    real = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(real, "wb")


async def serve(server: Any, output: BinaryIO) -> None:
    """Serve one client until it closes stdin.

    Args:
        server: of `versions.make_server`.
        output: from `claim_stdout`.
    """
    messages = anyio.wrap_file(io.TextIOWrapper(output, encoding="utf-8", newline="\n"))
    async with stdio_server(stdout=messages) as (read_stream, write_stream):
        await server.run(read_stream, write_stream, server.create_initialization_options())
