"""Tools of an MCP server: found once, pinned in a manifest, called through a session that the worker keeps.

What a server offers may change at any time, and it may be away; handlers that are run again must see what they saw
before. So the tools are those of a manifest file, which `streams mcp discover` writes and you commit; processes start
without asking the server. Source: Model Context Protocol, 2025-06-18 and later, by the official client.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import mcp
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, TextContent

from streams.errors import ConfigurationError, ToolRefused
from streams.tools.connections import CLOSE_S
from streams.tools.http_operation import fill_in

CONNECT_S = 10.0
MOST_PAGES = 100
FORMAT = 1


@dataclass(frozen=True, slots=True)
class McpTool:
    """A tool as its server describes it.

    Attributes:
        arguments: JSON schema of an object.
    """

    name: str
    description: str
    arguments: Mapping[str, Any]


class McpConnection:
    """A server, and the session with it.

    Args:
        command: Starts a server that speaks on its standard input and output.
        url: Or the address of one that speaks streamable HTTP.
        environment: For *command*; `${NAME}` stands for a variable of this process's.
        headers: For *url*; likewise.
    """

    def __init__(
        self,
        name: str,
        *,
        command: Sequence[str] = (),
        url: str = "",
        environment: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        if bool(command) == bool(url):
            raise ConfigurationError(f"MCP server {name!r} needs a command= or a url=, and not both")
        if url and not url.startswith(("http://", "https://")):
            raise ConfigurationError(f"url {url!r} of MCP server {name!r} does not begin with http:// or https://")
        self.name = name
        self._command = tuple(command)
        self._url = url
        self._environment = dict(environment or {})
        self._headers = dict(headers or {})
        self._keeper: asyncio.Task[None] | None = None
        self._session: asyncio.Future[mcp.Client] | None = None

    async def discover(self) -> list[McpTool]:
        """Return what the server offers now, over a session of its own.

        Raises:
            ConfigurationError: It cannot be reached or does not answer within 10 s.
        """
        try:
            async with asyncio.timeout(CONNECT_S), self._open() as client:
                found: list[McpTool] = []
                cursor: str | None = None
                for _ in range(MOST_PAGES):
                    page = await client.list_tools(cursor=cursor)
                    found += [McpTool(tool.name, tool.description or "", tool.input_schema) for tool in page.tools]
                    cursor = page.next_cursor
                    if cursor is None:
                        break
                return found
        except (Exception, BaseExceptionGroup) as error:
            if isinstance(error, ConfigurationError):
                raise
            raise ConfigurationError(
                f"MCP server {self.name!r} ({self.address}) did not say what it offers: {_reason(error)}"
            ) from error

    @property
    def address(self) -> str:
        """Command or URL, for messages."""
        return self._url or " ".join(self._command)

    def function(self, tool: McpTool, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        """Return the plain function that a worker calls."""

        async def call(**arguments: Any) -> Any:
            client = await self._connected()
            try:
                result = await client.call_tool(tool.name, arguments)
            except mcp.MCPError as error:
                if error.code == mcp.types.CONNECTION_CLOSED:
                    await self._drop(client)
                raise
            return value_of(result, tool.name)

        call.__name__ = call.__qualname__ = name
        call.__doc__ = tool.description
        return call

    async def aclose(self) -> None:
        """End the session, and the server's process; a later call starts anew."""
        keeper, self._keeper, self._session = self._keeper, None, None
        if keeper is not None and keeper.get_loop() is asyncio.get_running_loop():
            keeper.cancel()
            await asyncio.wait([keeper], timeout=CLOSE_S)

    async def _drop(self, client: mcp.Client) -> None:
        """End a session that is broken, unless another call has replaced it by now."""
        session = self._session
        if session is not None and session.done() and not session.exception() and session.result() is client:
            await self.aclose()

    async def _connected(self) -> mcp.Client:
        """Return the session, which all calls of this process share; starts it when there is none."""
        loop = asyncio.get_running_loop()
        keeper = self._keeper
        if keeper is None or keeper.done() or keeper.get_loop() is not loop:
            self._session = loop.create_future()
            self._keeper = loop.create_task(self._keep(self._session), name=f"MCP server {self.name}")
        assert self._session is not None
        return await asyncio.shield(self._session)

    async def _keep(self, session: asyncio.Future[mcp.Client]) -> None:
        """Hold the session until cancelled: its scopes must be left by the task that has entered them."""
        try:
            async with contextlib.AsyncExitStack() as stack:
                async with asyncio.timeout(CONNECT_S):
                    client = await stack.enter_async_context(self._open())
                session.set_result(client)
                await asyncio.Event().wait()
        except (Exception, BaseExceptionGroup) as error:
            if not session.done():
                session.set_exception(ConnectionError(f"MCP server {self.name!r}: {_reason(error)}"))
                session.exception()  # whoever waits has it; nobody may wait any more

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[mcp.Client]:
        if self._command:
            environment = {key: fill_in(value, key) for key, value in self._environment.items()}
            server = mcp.StdioServerParameters(command=self._command[0], args=list(self._command[1:]), env=environment)
            async with mcp.Client(server) as client:
                yield client
            return
        headers = {key: fill_in(value, key) for key, value in self._headers.items()}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=httpx2.Timeout(CONNECT_S, read=None)) as http,
            mcp.Client(streamable_http_client(self._url, http_client=http)) as client,
        ):
            yield client


def value_of(result: CallToolResult, tool: str) -> Any:
    """Return what a call gave: its structured content, else its text.

    Raises:
        ToolRefused: The tool reports an error, with its words.
    """
    text = "\n".join(block.text for block in result.content if isinstance(block, TextContent))
    if result.is_error:
        raise ToolRefused(f"{tool}: {text}" if text else f"{tool} reports an error without words")
    structured = result.structured_content
    if structured is None:
        return text
    if isinstance(structured, dict) and structured.keys() == {"result"}:
        return structured["result"]  # servers wrap what is no object
    return structured


def write_manifest(path: Path, name: str, tools: Sequence[McpTool]) -> None:
    """Write what was found, in the order of names, so that a change is a small difference."""
    listed = [
        {"name": tool.name, "description": tool.description, "arguments": tool.arguments}
        for tool in sorted(tools, key=lambda tool: tool.name)
    ]
    document = {"format": FORMAT, "server": name, "tools": listed}
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_manifest(path: Path) -> list[McpTool]:
    """Return the tools of a manifest.

    Raises:
        ConfigurationError: It cannot be read; says how to make it.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise ValueError(f"format {document['format']} is not {FORMAT}")
        return [McpTool(tool["name"], tool["description"], tool["arguments"]) for tool in document["tools"]]
    except OSError as error:
        problem = error.strerror or type(error).__name__
    except (ValueError, KeyError, TypeError) as error:
        problem = f"{type(error).__name__}: {error}"
    raise ConfigurationError(
        f"MCP manifest {path} cannot be read ({problem}); write it with `streams mcp discover MODULE:APP`"
    )


def _reason(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, TimeoutError):
        return f"no answer within {CONNECT_S:g} s"
    return f"{type(error).__name__}: {error}"
