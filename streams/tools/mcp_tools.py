"""The tools of an MCP server as an app declares them: each with its breaker, timeout, effect and fallback."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from streams.errors import ConfigurationError, UnknownName
from streams.tools.mcp_server import McpConnection, McpTool, read_manifest, write_manifest
from streams.tools.tool import Tool


class McpTools(Sequence[Tool[..., Any]]):
    """What `app.mcp(...)` returns: the tools of one server, by position or by the server's name for them.

    Args:
        declare: Makes a declared tool of what the server describes.
        only: Names of the tools to declare; all of the manifest by default.

    Attributes:
        manifest: The file that pins them; `streams mcp discover` writes it.
    """

    def __init__(
        self,
        connection: McpConnection,
        manifest: Path,
        declare: Callable[[McpTool], Tool[..., Any]],
        only: Sequence[str] | None,
    ) -> None:
        self.connection = connection
        self.manifest = manifest
        self._declare = declare
        self._only = None if only is None else tuple(only)
        self._tools: dict[str, Tool[..., Any]] | None = None
        if manifest.exists():
            self.load()

    @property
    def name(self) -> str:
        """Name of the server in the app."""
        return self.connection.name

    @property
    def loaded(self) -> bool:
        """The manifest has been read and its tools are declared."""
        return self._tools is not None

    def load(self) -> None:
        """Declare the tools of the manifest; once.

        Raises:
            ConfigurationError: It cannot be read, or lacks a tool of `only=`.
            MissingFallback: One of them has no fallback.
        """
        if self._tools is not None:
            return
        listed = {tool.name: tool for tool in read_manifest(self.manifest)}
        for name in self._only or ():
            if name not in listed:
                raise UnknownName(
                    f"MCP server {self.name!r} has no tool {name!r} in {self.manifest}; it has {', '.join(listed)}"
                )
        chosen = listed if self._only is None else {name: listed[name] for name in self._only}
        self._tools = {name: self._declare(tool) for name, tool in chosen.items()}

    async def discover(self) -> list[McpTool]:
        """Ask the server what it offers, and write the manifest.

        Raises:
            ConfigurationError: It does not answer, or the file cannot be written.
        """
        found = await self.connection.discover()
        try:
            write_manifest(self.manifest, self.name, found)
        except OSError as error:
            raise ConfigurationError(f"MCP manifest {self.manifest} cannot be written: {error.strerror}") from None
        return found

    async def drift(self) -> list[str]:
        """Return in words how the server differs from the manifest; empty when it does not.

        Raises:
            ConfigurationError: It does not answer, or there is no manifest.
        """
        pinned = {tool.name: tool for tool in read_manifest(self.manifest)}
        now = {tool.name: tool for tool in await self.connection.discover()}
        found = [f"{name} is new" for name in now.keys() - pinned.keys()]
        found += [f"{name} is gone" for name in pinned.keys() - now.keys()]
        for name in pinned.keys() & now.keys():
            if pinned[name].arguments != now[name].arguments:
                found.append(f"{name} takes other arguments")
            elif pinned[name].description != now[name].description:
                found.append(f"{name} is described differently")
        return sorted(found)

    def _declared(self) -> dict[str, Tool[..., Any]]:
        if self._tools is None:
            raise ConfigurationError(
                f"the tools of MCP server {self.name!r} are not known: {self.manifest} does not exist; "
                "write it with `streams mcp discover MODULE:APP` and keep it with your code"
            )
        return self._tools

    def __getitem__(self, which: Any) -> Any:
        tools = self._declared()
        if not isinstance(which, str):
            return list(tools.values())[which]
        if which not in tools:
            raise UnknownName(f"MCP server {self.name!r} has no tool {which!r}; it has {', '.join(tools) or 'none'}")
        return tools[which]

    def __iter__(self) -> Iterator[Tool[..., Any]]:
        return iter(self._declared().values())

    def __len__(self) -> int:
        return len(self._declared())
