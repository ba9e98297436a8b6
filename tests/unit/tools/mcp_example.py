"""An MCP server for tests: `python mcp_example.py [PORT]` speaks streamable HTTP there, else over its pipes."""

import os
import sys

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("example")


@server.tool()
def add(first: int, second: int) -> int:
    """Add two numbers."""
    return first + second


@server.tool()
def whoami() -> dict[str, str]:
    """Say which account the key belongs to."""
    return {"account": os.environ.get("EXAMPLE_KEY", "nobody"), "pid": str(os.getpid())}


@server.tool()
def refuse(reason: str) -> str:
    """Report an error."""
    raise ToolError(reason)


@server.tool()
def die() -> str:
    """End the server in the midst of a call."""
    os._exit(3)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]), json_response=True)
    else:
        server.run("stdio")
