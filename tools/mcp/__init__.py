"""The tools for MCP clients: desktop assistants, editors, agents; over stdio and streamable HTTP. Extra `mcp`.

server.py answers requests in the protocol's own words (plain dicts), versions.py knows `mcp` 1.x from 2.x, stdio.py and
http.py carry the messages.
"""

from vision_agent.errors import MissingExtraError

try:
    import mcp  # noqa: F401
except ImportError as error:
    raise MissingExtraError('serving MCP needs mcp: pip install "internvl-vision-agent[mcp]"') from error

from .server import MCPServer

__all__ = ["MCPServer"]
